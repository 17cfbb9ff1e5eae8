"""Files that are written whole or not at all, digests that identify them, and file names in one Unicode form.

JSON holds a digest of its values. Files of bytes (Parquet, .npz, .npy, safetensors) are sealed: they hold their own
SHA-256, with zeros in its place. Files without a digest, from older versions or other programs, are read too. Where a
folder of another kind is given, the message says what it is.
"""

import codecs
import errno
import fcntl
import hashlib
import json
import math
import mmap
import os
import re
import secrets
import shutil
import struct
import sys
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from wsss.core.checks import DataError, DiskError, NoSpaceError, some
from wsss.core.reading import (
    BLOCK,
    HEADER_FAULTS,
    HOLE,
    check_holes,
    check_length,
    check_npy,
    check_regular,
    one_line,
    open_text,
    open_zip,
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


_MARK = b"wsss-sha256:"
_HEX = 64
BLANK = (_MARK + b"0" * _HEX).decode()
"""What a file holds, once, before it is sealed."""
OF_OPTIONS = "Restore it, or, if it was changed on purpose, remove its first line."
"""The way out of damaged options, which begin with their seal."""


def seal(stream: IO[bytes]) -> None:
    """Write the digest of an open file into the place of its last BLANK.

    Raises:
        ValueError: there is no BLANK.
    """
    stream.flush()
    handle = stream.fileno()
    with mmap.mmap(handle, 0, prot=mmap.PROT_READ) as content:
        at = content.rfind(BLANK.encode())
        if at < 0:
            raise ValueError("the file keeps no place for a seal.")
        digest = _sealing(content, at)
    os.pwrite(handle, digest, at + len(_MARK))


def sealed(content: bytes) -> bytes:
    """Return a file's content with its last BLANK replaced by the digest."""
    at = content.rindex(BLANK.encode()) + len(_MARK)
    return content[:at] + _sealing(content, at - len(_MARK)) + content[at + _HEX :]


def check_seal(path: Path, again: str, most: int | None = None, within: int = sys.maxsize) -> bool:
    """Compare a file with its seal; return whether it has one.

    Args:
        again: the way out if it is damaged, as a sentence.
        most: bytes that such a file may have; a longer one is refused unread.
        within: bytes at the file's end in which its seal stands, if it has one; a megabyte at least.

    Raises:
        DataError: the file differs from what was sealed, or is too long.
    """
    check_length(path, most, "options")
    check_own_length(path, again)
    with path.open("rb") as stream:
        at = _last(stream, _MARK, within)
        if at < 0:
            return False
        stream.seek(at + len(_MARK))
        given, sha, left = stream.read(_HEX), hashlib.sha256(), at + len(_MARK)
        stream.seek(0)
        while block := stream.read(min(left, BLOCK)):
            sha.update(block)
            left -= len(block)
        sha.update(b"0" * _HEX)
        stream.seek(_HEX, os.SEEK_CUR)
        while block := stream.read(BLOCK):
            sha.update(block)
    if given != sha.hexdigest().encode():
        raise DataError(f"{path} is damaged: its content does not match its digest. {again}")
    return True


def _last(stream: IO[bytes], mark: bytes, within: int) -> int:
    """Return where a mark stands last in the bytes at a file's end, -1 if it does not; they are read from the end."""
    size = end = stream.seek(0, os.SEEK_END)
    while end > max(0, size - within):
        begin = max(0, end - BLOCK)
        stream.seek(begin)
        at = stream.read(end - begin + len(mark) - 1).rfind(mark)
        if at >= 0:
            return begin + at
        end = begin
    return -1


def _sealing(content: "bytes | mmap.mmap", at: int) -> bytes:
    """Return the hex digest of a content whose seal begins at `at`."""
    sha = hashlib.sha256()
    with memoryview(content) as view:
        sha.update(view[: at + len(_MARK)])
        sha.update(b"0" * _HEX)
        sha.update(view[at + len(_MARK) + _HEX :])
    return sha.hexdigest().encode()


LONGEST_HEADER = 1 << 26
"""Bytes of the description at the beginning of a safetensors file, at most."""
BESIDE = 4096
"""Bytes of a file that its description may leave out for each part: a seal, names."""


def check_own_length(path: Path, again: str) -> None:
    """Refuse a file of ours that is longer than it says itself, before all of it is read for its digest.

    Args:
        path: an .npy array, an .npz archive or safetensors; other files pass.
        again: the way out if it is damaged, as a sentence.

    Raises:
        DataError: it is, or begins with zeros.
        OSError: it is not there.
    """
    check_regular(path)
    size = path.stat().st_size
    try:
        described = _own_length(path, size)
    except zipfile.BadZipFile as error:
        raise DataError(f"{path} is damaged ({one_line(error)}). {again}") from error
    except (*HEADER_FAULTS, struct.error):
        return  # its reader says what is wrong with it
    if described is not None and size > described:
        raise DataError(f"{path} is damaged: it has {size} bytes and describes no more than {described}. {again}")


def _own_length(path: Path, size: int) -> int | None:
    with path.open("rb") as stream:
        start = stream.read(9)
        if start.startswith(HOLE):
            return 0
        if start.startswith(b"\x93NUMPY"):
            stream.seek(0)
            shape, dtype = check_npy(stream, size, path)
            return stream.tell() + math.prod(shape) * dtype.itemsize + BESIDE
        if start.startswith(b"PK\3\4"):
            with open_zip(path) as archive:
                return sum(part.compress_size + BESIDE for part in archive.filelist) + len(archive.comment)
        (length,) = struct.unpack("<Q", start[:8])
        if start[8:] != b"{" or length > min(size, LONGEST_HEADER):
            return None
        stream.seek(8)
        tensors = parse_json(stream.read(length), path)
        ends = (own["data_offsets"][1] for name, own in tensors.items() if name != "__metadata__")
        return 8 + length + int(max(ends, default=0)) + BESIDE


DATA_SET = "a data set (wsss prepare)"
PSEUDO_MASKS = "a folder of pseudo-masks (wsss pseudo)"
PREDICTIONS = "a folder of predictions (wsss infer)"
RUN = "a run (wsss train)"
MASK_SET = "a folder of images and masks"
SIGNS = {
    DATA_SET: ("dataset.json",),
    PSEUDO_MASKS: ("pseudo.json", "*/pseudo.json"),
    PREDICTIONS: ("provenance.json", "cells.parquet", "cells.csv"),
    RUN: ("best.safetensors", "last.safetensors", "*/best.safetensors", "*/last.safetensors"),
    "an exported model (wsss export)": ("model.safetensors",),
    "a review (wsss review)": ("review.sqlite",),
    MASK_SET: ("masks", "objects"),
}
"""Kind -> files of which a folder of it has one."""


def kind_of(folder: Path) -> str | None:
    """Return which of SIGNS a folder is; None if it is something else, or not there."""
    return next((kind for kind, names in SIGNS.items() if any(any(folder.glob(name)) for name in names)), None)


def within(folder: Path, name: str) -> list[Path]:
    """Return the files of a name in a folder and in its sub-folders, sorted by folder.

    Raises:
        PermissionError: one of these folders may not be read, which `glob` passes over in silence.
    """
    places = [folder, *sorted(place for place in folder.iterdir() if place.is_dir())] if folder.is_dir() else []
    return [place / name for place in places if place / name in place.iterdir()]


def not_that(path: Path, wanted: str) -> str:
    """Return what a path is, and what was expected instead, such as 'runs/a is a run (wsss train), expected ...'."""
    if not path.exists():
        what = "does not exist"
    elif not path.is_dir():
        what = "is a file"
    elif kind := kind_of(path):
        what = f"is {kind}"
    else:
        what = f"holds {some(sorted(entry.name for entry in path.glob('[!.]*')), 3) or 'nothing'}"
    return f"{path} {what}, expected {wanted}"
