"""The checksums of a PNG file, which most decoders do not compare for the pixels."""

import struct
import zlib
from pathlib import Path

from wsss.core.checks import DataError

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def check_png(path: Path) -> None:
    """Compare the CRC of every chunk of a PNG file; what follows its end does not count.

    Raises:
        DataError: a chunk is cut short or damaged, or the end is missing.
        OSError: the file cannot be read.

    Source: PNG specification, third edition, 5.3.
    """
    content = memoryview(path.read_bytes())
    if content[:8] != SIGNATURE:
        raise DataError(f"{path.name} is no PNG file.")
    at, kind = 8, b""
    while kind != b"IEND":
        if at + 12 > len(content):
            raise DataError(f"{path.name} is cut short: its end is missing.")
        (length,) = struct.unpack_from(">I", content, at)
        kind, end = bytes(content[at + 4 : at + 8]), at + 8 + length
        if end + 4 > len(content):
            raise DataError(f"{path.name} is cut short: its end is missing.")
        if zlib.crc32(content[at + 4 : end]) != struct.unpack_from(">I", content, end)[0]:
            raise DataError(f"{path.name} is damaged: the checksum of its part {kind!r} is another.")
        at = end + 4
