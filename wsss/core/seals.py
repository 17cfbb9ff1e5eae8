"""Seals: files of bytes (Parquet, .npz, .npy, safetensors) hold their own SHA-256, with zeros in its place.

Files without one, from older versions or other programs, are read too.
"""

import hashlib
import math
import mmap
import os
import struct
import sys
import zipfile
from pathlib import Path
from typing import IO

from wsss.core.checks import DataError
from wsss.core.reading import (
    BLOCK,
    HEADER_FAULTS,
    HOLE,
    check_length,
    check_npy,
    check_regular,
    one_line,
    open_zip,
    parse_json,
)

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
        path: the file.
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
