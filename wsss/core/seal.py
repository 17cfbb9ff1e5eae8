"""How files of ours show that they are undamaged, and of which format they are.

JSON holds a digest of its values; a file of bytes (Parquet, .npz, .npy, safetensors) holds a seal: the SHA-256 of the
whole file, with zeros in the place of the seal. Files without one, of older versions or of others, are read as well.
"""

import hashlib
import mmap
import os
import re
from pathlib import Path
from typing import IO

from wsss.core.checks import DataError
from wsss.core.reading import check_regular

_MARK = b"wsss-sha256:"
_HEX = 64
BLANK = (_MARK + b"0" * _HEX).decode()
"""What a file holds, once, before it is sealed."""


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
        digest = _digest(content, at)
    os.pwrite(handle, digest, at + len(_MARK))


def sealed(content: bytes) -> bytes:
    """Return a file's content with its last BLANK replaced by the digest."""
    at = content.rindex(BLANK.encode()) + len(_MARK)
    return content[:at] + _digest(content, at - len(_MARK)) + content[at + _HEX :]


def check_seal(path: Path, again: str) -> bool:
    """Compare a file with its seal; return whether it has one.

    Args:
        path: the file.
        again: the way out if it is damaged, as a sentence.

    Raises:
        DataError: the file differs from what was sealed.
    """
    check_regular(path)
    with path.open("rb") as stream:
        if os.fstat(stream.fileno()).st_size < len(BLANK):
            return False
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            at = content.rfind(_MARK)
            if at < 0:
                return False
            begin = at + len(_MARK)
            if content[begin : begin + _HEX] != _digest(content, at):
                raise DataError(f"{path} is damaged: its content does not match its digest. {again}")
    return True


def _digest(content: "bytes | mmap.mmap", at: int) -> bytes:
    """Return the hex digest of a content whose seal begins at `at`."""
    sha = hashlib.sha256()
    with memoryview(content) as view:
        sha.update(view[: at + len(_MARK)])
        sha.update(b"0" * _HEX)
        sha.update(view[at + len(_MARK) + _HEX :])
    return sha.hexdigest().encode()


def check_format(path: Path, given: object, wanted: str | int, what: str, again: str) -> None:
    """Refuse a file of another kind, or of a newer version.

    Args:
        path: the file.
        found: the format that it names; a number, or a name that ends in one.
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
