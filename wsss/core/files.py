"""Files that are there whole or not at all, and digests to know them again."""

import errno
import fcntl
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from wsss.core.checks import DataError, NoSpaceError

if TYPE_CHECKING:  # half of the start of a command would go into importing it
    import pandas as pd


TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.part")
"""Name of a temporary file of ours."""


def write_atomic(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let `write` fill a temporary file beside `path`, sync it, and rename it into place.

    A reader sees the old file or the whole new one; after an error the old file stays and the temporary is removed.

    Raises:
        NoSpaceError: the disk is full.
    """
    with needs_room(path):
        _write_atomic(path, write)


def _write_atomic(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = _temporary(path)
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


def _temporary(path: Path) -> tuple[int, str]:
    """Make a temporary file beside `path`, locked as long as it is open, so that others know its writer lives."""
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        with suppress(OSError):  # a disk without locks: others then leave the file alone
            fcntl.flock(handle, fcntl.LOCK_EX)
        if Path(name).exists():
            return handle, name
        os.close(handle)  # cleared away between our making and our locking it


@contextmanager
def needs_room(path: Path | None = None) -> Iterator[None]:
    """Turn the error of a full disk, or of a full quota, into one that says so.

    Args:
        path: what is being written, where the error itself may not name it.

    Raises:
        NoSpaceError: the disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = Path(path or error.filename or ".")
        home = next(place for place in (where.absolute(), *where.absolute().parents) if place.is_dir())
        free = shutil.disk_usage(home).free / 1e6
        raise NoSpaceError(
            f"{where if path or error.filename else 'a file'} cannot be written: no room is left ({free:.1f} MB free "
            f"in {home}). Make room and start the same command again; what was done is kept."
        ) from error


def remove_parts(folder: Path, name: str = "") -> None:
    """Remove the temporary files that killed writers left in `folder`; those of living writers, locked, stay.

    Args:
        folder: where.
        name: only those for the file of this name.
    """
    for path in folder.glob(".*.part"):
        if not path.name.startswith(f".{name}") or not TEMPORARY.fullmatch(path.name):
            continue
        with suppress(OSError):
            handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
            finally:
                os.close(handle)


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


def as_read(facts: dict[str, Any]) -> dict[str, Any]:
    """Return facts as they come back from a file: tuples are lists, keys are strings."""
    found: dict[str, Any] = json.loads(json.dumps(facts))
    return found


def without_nan(value: Any) -> Any:
    """Return a JSON-like value with None in place of every NaN and infinity, for JSON has neither; keys are strings."""
    if isinstance(value, dict):
        return {str(key): without_nan(own) for key, own in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(own) for own in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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


def csv_bytes(table: "pd.DataFrame", *, header: bool = True) -> bytes:
    """Return a table as CSV: UTF-8, comma, no index; floats with 6 significant digits."""
    text: str = table.to_csv(index=False, header=header, float_format="%.6g", lineterminator="\n")
    return text.encode()


def write_csv(path: Path, table: "pd.DataFrame") -> None:
    """Write a table as CSV (see `csv_bytes`), whole or not at all."""
    write_bytes(path, csv_bytes(table))


def write_parquet(path: Path, table: "pd.DataFrame") -> None:
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
