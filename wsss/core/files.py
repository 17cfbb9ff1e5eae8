"""Files that are there whole or not at all, and digests to know them again."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pandas as pd

from wsss.core.checks import DataError


def write_atomic(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let `write` fill a temporary file beside `path`, sync it, and rename it into place.

    A reader sees the old file or the whole new one; after an error the old file stays and the temporary is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all."""
    write_atomic(path, lambda stream: stream.write(content))


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 `text` to `path`, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: run the stage that writes it first.") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path} is not JSON ({error}): it is damaged, make it again.") from error


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV (UTF-8, comma, no index; floats with 6 significant digits)."""
    write_text(path, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def write_parquet(path: Path, table: pd.DataFrame) -> None:
    """Write a table as Parquet, whole or not at all."""
    write_atomic(path, lambda stream: table.to_parquet(stream, index=False))


def digest_bytes(content: bytes) -> str:
    """Return the first 16 hex digits of the SHA-256 of `content`."""
    return hashlib.sha256(content).hexdigest()[:16]


def digest_json(value: object) -> str:
    """Return the digest of a JSON-like value, independent of the order of keys."""
    return digest_bytes(json.dumps(value, sort_keys=True, default=str).encode())


def digest_file(path: Path) -> str:
    """Return the digest of a file's content, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]
