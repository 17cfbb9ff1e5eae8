"""Files that are written whole or not at all, digests that identify them, and file names in one Unicode form.

JSON holds a digest of its values; a file without one, from an older version or another program, is read too.
"""

import codecs
import errno
import fcntl
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from wsss.core.checks import DataError, DiskError, NoSpaceError, some
from wsss.core.reading import (
    BLOCK,
    check_holes,
    check_regular,
    one_line,
    open_text,
    opening,
    parse_json,
    read_text_file,
)

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.part")
"""Name of a temporary file of ours."""


def write_atomic(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let `write` fill a temporary file next to `path`, sync it, and rename it into place.

    A reader sees the old file or the whole new one; after an error the old file stays and the temporary one is removed.
    Permissions are those of any new file (umask).

    Raises:
        DiskError: the file cannot be written; NoSpaceError if the disk is full.
    """
    with disk_errors(path):
        _write_atomic(path, write)


def _write_atomic(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = _temporary(path)
    try:
        with os.fdopen(handle, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
            part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync(path.parent)


def _temporary(path: Path) -> tuple[int, Path]:
    """Make a temporary file next to `path`, locked while it is open, so that others know its writer is alive."""
    while True:
        part = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}.part")  # no longer than `path`
        handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)  # less the umask
        with suppress(OSError):  # a disk without locks: others then leave the file alone
            fcntl.flock(handle, fcntl.LOCK_EX)
        if part.exists():
            return handle, part
        os.close(handle)  # removed between its creation and its locking


_FULL = (errno.ENOSPC, errno.EDQUOT)
_DISK = {
    errno.EROFS: ("the disk is read-only", "choose a folder elsewhere"),
    errno.ENOTDIR: ("a part of the path is a file, not a folder", "choose another path"),
    errno.EISDIR: ("it is a folder, expected a file", "choose another path"),
    errno.EEXIST: ("there is a file of that name, expected a folder", "choose another path"),
    errno.ENOTEMPTY: ("there is a folder of that name with files in it", "move it away, or choose another path"),
    errno.ENAMETOOLONG: ("its name is too long", "choose a shorter one"),
    errno.EFBIG: ("the limit for the size of a file is reached (ulimit -f)", "raise the limit"),
    errno.EACCES: ("access is not allowed", "check the rights, or choose another path"),
    errno.EPERM: ("it is not permitted", "check the rights, or choose another path"),
    errno.ELOOP: ("its links go round in a circle", "fix them, or choose another path"),
    errno.ENOENT: ("there is no such file or folder", "check the path"),
    errno.EIO: ("the disk reports an error", "check the disk, or choose another one"),
    errno.ESTALE: ("the network disk has lost it", "check the disk"),
    errno.ETXTBSY: ("it is in use", "wait, or choose another path"),
    errno.EBUSY: ("it is in use", "wait, or choose another path"),
    errno.EXDEV: ("it lies on another disk", "choose another path"),
    errno.EMFILE: ("too many files are open (ulimit -n)", "raise the limit, or use fewer workers"),
    errno.ENOMEM: ("no memory is left", "free some, or use fewer workers"),
    errno.EAGAIN: ("the limit for processes is reached (ulimit -u)", "raise it, or use fewer workers"),
    errno.ENFILE: ("too many files are open on this machine", "close some"),
}


@contextmanager
def disk_errors(path: Path | None = None) -> Iterator[None]:
    """Turn errors of the file system into one line that names the file and the way out.

    Args:
        path: what is being written, where the error itself may not name it.

    Raises:
        DiskError: a disk that is read-only, a file where a folder should be, a name too long, and the like;
            NoSpaceError if the disk, or a quota, is full.
    """
    try:
        yield
    except OSError as error:
        named = error.filename if isinstance(error.filename, str | os.PathLike) else None
        where = Path(path or named or ".")
        what = str(where) if path or named else "a file" if error.errno != errno.ENOENT else "the working directory"
        if error.errno in _FULL:
            home = next(place for place in (where.absolute(), *where.absolute().parents) if place.is_dir())
            free = shutil.disk_usage(home).free / 1e6
            raise NoSpaceError(
                f"{what} cannot be written: no room is left ({free:.1f} MB free "
                f"in {home}). Make room and start the same command again; what was done is kept."
            ) from error
        if error.errno not in _DISK:
            raise
        why, way_out = _DISK[error.errno]
        raise DiskError(f"{what[:300]} cannot be {'written' if path else 'used'}: {why}; {way_out}.") from error
    except RuntimeError as error:  # of Path.resolve, for which there is no error of its own
        if not str(error).startswith("Symlink loop"):
            raise
        why, way_out = _DISK[errno.ELOOP]
        raise DiskError(f"{str(error).partition(' from ')[2][:300]} cannot be used: {why}; {way_out}.") from error


def remove_parts(folder: Path, name: str = "") -> None:
    """Remove the temporary files that killed writers left in `folder`; those of living writers are locked and stay.

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


def sync(path: Path) -> None:
    """Make the content of a file, or the names in a folder, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
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


DIGEST = "wsss_digest"
"""Entry of every JSON file of ours: the digest of the others."""
RECORD = 1
"""Format of the JSON files of ours that name no other; files of older versions name none."""


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, whole or not at all; a dictionary gets a format, if it has none, and DIGEST."""
    if isinstance(value, dict):
        value = {"format": RECORD, **value}
        value[DIGEST] = digest_json(as_read(value))
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def as_read(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record as it comes back from a JSON file: tuples become lists, keys become strings."""
    text = json.dumps(record, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        begin, end = text.rfind('"', 0, error.start) + 1, text.find('"', error.start)
        check_utf8(text[begin:end], "that is to be recorded")
    parsed: dict[str, Any] = parse_json(text, "a record")
    return parsed


def check_utf8(name: str, what: str) -> None:
    """Refuse a path or another word in another encoding: records and tables are UTF-8.

    Raises:
        DataError: it is.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        raise DataError(f"the name {name!a} {what} is not UTF-8: rename it (for many files: convmv).") from None


def without_nan(value: Any) -> Any:
    """Return a JSON-like value with None in place of every NaN and infinity, for JSON has neither; keys are strings."""
    if isinstance(value, dict):
        return {str(key): without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> Any:
    """Read a JSON file, with or without a byte order mark, plain or gzipped; compare it with its DIGEST, which is taken
    off, if it has one.

    Raises:
        DataError: the file is missing, is not JSON, or is damaged.
    """
    try:
        with opening(path, "run the stage that writes it first"):
            value = parse_json(_json_text(path), path)
    except (EOFError, UnicodeDecodeError, zlib.error) as error:
        raise DataError(f"{path} is not JSON ({one_line(error)}): it is damaged, make it again.") from error
    if not isinstance(value, dict) or not value:
        return value
    last = next(reversed(value))
    if last == DIGEST or value[last] == digest_json({k: v for k, v in value.items() if k != last}):
        digest = value.pop(last)  # also where its name alone is damaged
        if digest != digest_json(value):
            raise DataError(
                f"{path} is damaged: its content does not match its digest. Make it again, or, if it was changed on "
                f'purpose, remove its "{DIGEST}".'
            )
    return value


LARGEST_JSON = 1 << 31
"""Bytes of an unpacked JSON file, at most."""
BLOWN_UP_JSON, JSON_RATIO = 1 << 22, 30
"""Bytes that any packed file may unpack to, and the largest ratio for larger ones: text packs to about a tenth, and
takes 20 times its bytes in memory at worst."""


GZIP = b"\x1f\x8b"


def _json_text(path: Path) -> str:
    """Return the text of a JSON file, which is read part by part, no further than it can be one."""
    with open_text(path, LARGEST_JSON, "JSON") as stream:
        parts = _unzipped(path) if stream.peek(2)[:2] == GZIP else iter(lambda: stream.read(BLOCK), b"")
        first = next(parts, b"")
        decoder = codecs.getincrementaldecoder(json.detect_encoding(first))()
        texts = [decoder.decode(first)]
        if (start := texts[0].lstrip()[:1]).strip('{["-0123456789tfnNI'):
            raise DataError(f"{path} is not JSON (it begins with {start!r}): check the path, or make it again.")
        texts += map(decoder.decode, parts)
        return "".join([*texts, decoder.decode(b"", final=True)])


def _unzipped(path: Path) -> Iterator[bytes]:
    """Yield the content of a gzipped text; what follows its last part is left aside, as by gunzip."""
    total = 0
    with path.open("rb") as stream:
        unpacker, packed = zlib.decompressobj(wbits=31), stream.read(BLOCK)
        while packed:
            plain = unpacker.decompress(packed, BLOCK)
            packed = unpacker.unconsumed_tail or unpacker.unused_data or stream.read(BLOCK)
            if unpacker.eof and packed.startswith(GZIP):
                unpacker = zlib.decompressobj(wbits=31)
            elif unpacker.eof:
                packed = b""
            total, taken = total + len(plain), stream.tell()
            if total > min(LARGEST_JSON, max(BLOWN_UP_JSON, JSON_RATIO * taken)):
                raise DataError(f"{path} unpacks from {taken} to {total} bytes: it is damaged, or made to do harm.")
            check_holes(plain, path)
            yield plain
    if not unpacker.eof and total:
        raise EOFError("it ends before its end")


LONGEST_LIST = 1 << 26
"""Bytes of a text file that lists items."""


def read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 text file, such as train_ids.txt.

    Raises:
        DataError: it is missing or no text.
    """
    with opening(path):
        return read_text_file(path, LONGEST_LIST, "a list").splitlines()


def is_file(text: str) -> bool:
    """Whether a text is the path of a file; a text too long for a path is not."""
    try:
        return Path(text).is_file()
    except OSError:
        return False


def listed(text: str) -> list[str]:
    """Return the items of an option that lists them with commas, or names a text file with one item per line.

    Raises:
        DataError: the file is no text.
    """
    items = read_lines(Path(text)) if is_file(text) else text.split(",")
    return [item.strip() for item in items if item.strip()]


def read_record(
    path: Path, *needed: str, newest: str | int = RECORD, what: str = "record", again: str = "make it again"
) -> dict[str, Any]:
    """Read a JSON file that holds a dictionary with the entries `needed`.

    Args:
        path: the file.
        needed: entries that it must have; "format", where every version wrote one.
        newest: the format that is read here.
        what: what the file should be, such as 'calibration'.
        again: the way out if it is something else, without a full stop.

    Raises:
        DataError: see `read_json` and `check_format`; or it holds something else.
    """
    record = read_json(path)
    if not isinstance(record, dict):
        raise DataError(f"{path} holds no {what} (name: value): {again}.")
    if "format" in record:
        check_format(path, record["format"], newest, what, again)
    if missing := [name for name in needed if name not in record]:
        raise DataError(f"{path} lacks the entry {some(missing)}: it is damaged or of another version, {again}.")
    return record


def check_format(path: Path, given: object, wanted: str | int, what: str, again: str) -> None:
    """Refuse a file of another kind, or of a newer version.

    Args:
        path: the file.
        given: the format that it names; a number, or a name that ends in one.
        wanted: the format that is read here.
        what: what the file should be, such as 'calibration'.
        again: the way out if it is of another kind, without a full stop.

    Raises:
        DataError: the formats differ.
    """
    if type(given) is type(wanted) and given == wanted:
        return
    (kind, number), (wanted_kind, wanted_number) = _parts(given), _parts(wanted)
    if kind == wanted_kind and number > wanted_number:
        raise DataError(
            f"{path} was made by a newer wsss (format {given}, this one reads {wanted}): update wsss, or make the "
            f"{what} again with this one."
        )
    raise DataError(f"{path} is no {what} of format {wanted} (it has {str(given)[:80]!r}): {again}.")


def _parts(name: object) -> tuple[str, int]:
    match = re.fullmatch(r"(.*?)(\d{1,9})", name if isinstance(name, str) else "")
    if isinstance(name, int) and not isinstance(name, bool):
        return "", name
    return (match[1], int(match[2])) if match else (str(name), 0)


def digest_bytes(content: bytes) -> str:
    """Return the first 16 hex digits of the SHA-256 of `content`."""
    return hashlib.sha256(content).hexdigest()[:16]


def digest_json(value: object) -> str:
    """Return the digest of a JSON-like value, independent of the order of keys."""
    return digest_bytes(json.dumps(value, sort_keys=True, default=str).encode())


def digest_file(path: Path) -> str:
    """Return the digest of a file's content, read in blocks.

    Raises:
        DataError: it is a pipe or a device.
    """
    check_regular(path)
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def composed(name: str) -> str:
    """Return a name in composed Unicode (NFC): macOS writes 'ü' as two letters, other systems as one."""
    return unicodedata.normalize("NFC", name)


def as_on_disk(folder: Path, name: str) -> str:
    """Return a composed file name as the folder has it: decomposed if only that is there."""
    apart = unicodedata.normalize("NFD", name)
    return apart if apart != name and not (folder / name).exists() and (folder / apart).exists() else name
