"""The checksums of a PNG file, which most decoders do not compare for the pixels."""

import struct
import zlib

from wsss.core.checks import DataError

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def check_png(content: bytes, where: str) -> None:
    """Compare the CRC of every chunk of a PNG file; what follows its end does not count.

    Args:
        content: of the file.
        where: its name, for messages.

    Raises:
        DataError: a chunk is cut short or damaged, or the end is missing.

    Source: PNG specification, third edition, 5.3.
    """
    if content[:8] != SIGNATURE:
        raise DataError(f"{where} is no PNG file.")
    at, kind, view = 8, b"", memoryview(content)
    while kind != b"IEND":
        if at + 12 > len(content):
            raise DataError(f"{where} is cut short: its end is missing.")
        (length,) = struct.unpack_from(">I", content, at)
        kind, end = content[at + 4 : at + 8], at + 8 + length
        if end + 4 > len(content):
            raise DataError(f"{where} is cut short: its end is missing.")
        if zlib.crc32(view[at + 4 : end]) != struct.unpack_from(">I", content, end)[0]:
            raise DataError(f"{where} is damaged: the checksum of its part {kind!r} is another.")
        at = end + 4
