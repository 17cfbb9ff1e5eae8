"""The parts of PNG and JPEG files besides their pixels: checksums, metadata, sizes; nothing is decoded."""

import re
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from PIL import Image

from wsss.core.checks import DataError

PNG = b"\x89PNG\r\n\x1a\n"
"""How one begins."""
MOST_CHUNKS = 2**17
"""Of a PNG; writers make one for every 8 kB, or larger ones."""
MOST_METADATA = 2**20
"""Bytes of EXIF or XMP; longer ones are passed over."""
MOST_TEXT = 2**20
"""Bytes of a text in a PNG when unpacked; the rest of a longer one is left out."""
MOST_KEYWORD, MOST_TEXTS = 80, 1000
_TOLD = {b"eXIf": "exif", b"Raw profile type exif": "exif", b"Raw profile type APP1": "exif"}
_TOLD |= {b"XML:com.adobe.xmp": "xmp"}
"""Chunk, or keyword of a text -> what it holds; the first of each counts."""

JPEGS = (6, 7, 33007, 34892)
"""Compressions of a TIFF whose segments are JPEG."""
MOST_SCANS = 100
"""Passes over the picture in a progressive JPEG, which usually has about ten; each takes as long as all pixels do."""
MOST_WORK, MOST_WORK_RATIO = 2**29, 400
"""Pixels that the passes of JPEGs go over, together, at most; of larger files, for each of their bytes."""
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of a JPEG that give its size."""

_XMP_ORIENTATION = re.compile(rb"""tiff:Orientation(?:\s*=\s*["']|>)\s*([1-8])\s*["'<]""")


@dataclass
class Metadata:
    """What a picture file says besides its pixels."""

    exif: bytes = b""
    xmp: bytes = b""

    @property
    def orientation(self) -> int:
        """1 to 8: that of the EXIF, or else of the XMP; 1 where neither has one."""
        exif = Image.Exif()
        if self.exif:
            exif.load(self.exif)
        orientation = exif.get(0x0112)
        if isinstance(orientation, int) and 1 <= orientation <= 8:
            return orientation
        return xmp_orientation(self.xmp)


def xmp_orientation(xmp: bytes) -> int:
    """Return the orientation that an XMP packet gives as attribute or element, 1 if it gives none."""
    found = _XMP_ORIENTATION.search(xmp[:MOST_METADATA])
    return int(found[1]) if found else 1


def check_png(content: bytes, where: str) -> None:
    """Compare the CRC of every chunk of a PNG file; what follows its end does not count.

    Raises:
        DataError: a chunk is cut short or damaged, or the end is missing.

    Source: PNG specification, third edition, 5.3.
    """
    if content[:8] != PNG:
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


def png_metadata(stream: Any, where: str) -> Metadata:
    """Return EXIF and XMP of a PNG, wherever they stand, from the heads of its chunks; Pillow would decode the pixels.

    EXIF is a chunk, or hexadecimal text as ImageMagick writes it.
    """
    found, at, texts = Metadata(), 8, 0
    told: set[bytes] = set()
    for _ in range(MOST_CHUNKS):
        stream.seek(at)
        head = stream.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            return found
        length = int.from_bytes(head[:4], "big")
        is_text = head[4:] in (b"tEXt", b"zTXt", b"iTXt")
        texts += is_text
        if texts > MOST_TEXTS:
            raise DataError(f"{where} has more than {MOST_TEXTS} texts: it is made to do harm.")
        start = stream.read(min(length, MOST_KEYWORD)) if is_text or head[4:] == b"eXIf" else b""
        name = start.partition(b"\0")[0] if is_text else head[4:]
        if name in _TOLD and name not in told and length <= MOST_METADATA:
            told.add(name)
            content = start + stream.read(length - len(start))
            text = _png_text(head[4:], content) if is_text else content
            if _TOLD[name] == "xmp":
                found.xmp = text
            elif name == b"eXIf" or not found.exif:
                found.exif = _raw_profile(text) if is_text else text
        at += 12 + length
    raise DataError(f"{where} is in more than {MOST_CHUNKS} parts: it is made to do harm.")


def _png_text(kind: bytes, content: bytes) -> bytes:
    """Return the text behind the keyword of a PNG's chunk tEXt, zTXt or iTXt, unpacked; b'' if it is broken.

    Source: PNG specification, third edition, 11.3.3.
    """
    _, _, text = content.partition(b"\0")
    packed = kind == b"zTXt"
    if kind == b"iTXt":
        packed = text[:1] == b"\1"
        text = text[2:].partition(b"\0")[2].partition(b"\0")[2]  # behind its language and its translated keyword
    elif packed:
        text = text[1:]
    try:
        return zlib.decompressobj().decompress(text, MOST_TEXT) if packed else text
    except zlib.error:
        return b""


def _raw_profile(text: bytes) -> bytes:
    """Return the bytes of a profile that ImageMagick wrote as text: its name, its length, and lines of digits."""
    digits = b"".join(text.split()[2:])
    return bytes.fromhex(digits.decode("ascii")) if re.fullmatch(rb"(?:[0-9a-fA-F]{2})*", digits) else b""


def check_scans(parts: Iterable[bytes], where: str) -> None:
    """Refuse JPEGs that pass over their pixels too often, by the sizes in their headers.

    Args:
        parts: the JPEGs that are decoded together, such as the tiles of a page.
        where: their file, for messages.

    Raises:
        DataError: one passes more than MOST_SCANS times; or all together over more pixels than MOST_WORK.

    Source: ITU-T T.81, B.2.
    """
    length = work = 0
    for content in parts:
        scans = content.count(b"\xff\xda")  # the marker of a scan, which does not come about within one
        if scans > MOST_SCANS:
            raise DataError(
                f"{where} passes over its pixels {scans} times, more than {MOST_SCANS}: it is made to do harm."
            )
        length, work = length + len(content), work + scans * _jpeg_pixels(content)
        if work > max(MOST_WORK, MOST_WORK_RATIO * length):
            raise DataError(
                f"{where} passes over {work} pixels in {length} bytes: it is damaged, or made to do harm. "
                "If it is right, save it as PNG or TIFF."
            )


def _jpeg_pixels(content: bytes) -> int:
    """Return how many pixels the header of a JPEG says it has; as decoders do, what is no marker is passed over."""
    at = 2
    while 0 <= at < len(content) - 9:
        kind = content[at + 1]
        if content[at] != 0xFF or kind in (0, 0xFF):
            at = content.find(b"\xff", at + 1)
        elif kind == 0xDA:  # pixels
            return 0
        elif kind in _FRAMES:
            height, width = struct.unpack_from(">HH", content, at + 5)
            return int(height * width)
        else:
            bare = kind == 1 or 0xD0 <= kind <= 0xD9  # has no length
            at += 2 if bare else 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return 0
