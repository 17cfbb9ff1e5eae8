"""The one place where picture files are opened: PNG, JPEG, TIFF and BMP, recognised by content, not by name.

No file starts a program here or opens another one, except that a TIFF of an OME set is joined with its siblings in the
same folder. The file's metadata is respected: axes, orientation, transparency, whether 0 is white.
"""

import functools
import io
import logging
import math
import re
import struct
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from wsss.core.checks import DataError
from wsss.core.files import composed
from wsss.core.reading import MOST_CHUNKS, PNG, check_png, check_regular, one_line, png_text
from wsss.core.stacks import MOST_PLANES, OmeImage, PlaneChoice, Stack, in_um, ome_of, sibling

LOSSLESS = (".png", ".tif", ".tiff", ".bmp")
SUFFIXES = (*LOSSLESS, ".jpg", ".jpeg")
"""Endings of picture files, in any case; `.ome` before them is no part of an ID."""
MOST_PIXELS = 2**27
"""Most pixels of a plane (11,585 squared); more is refused from the header, before anything is decoded."""
MOST_EDGE = 2**17
"""Most pixels in a line; decoders keep an address for every row."""
MOST_BLOWN_UP = 2**26
"""Bytes of pixels that a small file may have: of larger pictures, file and pixels are compared."""
MOST_RATIO, MOST_RATIO_BLANK = 100, 1200
"""Bytes of pixels for each byte of the file, at most; of pictures that may well be blank, such as label maps."""
MOST_BYTES_A_PIXEL = 16
"""Bytes of a PNG or JPEG for each pixel, at most."""
MOST_BLANK = 2**25
"""Most pixels of a blank picture, unless its image is as large."""
JPEGS = (6, 7, 33007, 34892)
"""Compressions of a TIFF whose segments are JPEG."""
MOST_SCANS = 100
"""Passes over the picture in a progressive JPEG, which usually has about ten; each takes as long as all pixels do."""
MOST_WORK, MOST_WORK_RATIO = 2**29, 400
"""Pixels that the passes of JPEGs go over, together, at most; of larger files, for each of their bytes."""
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of a JPEG that give its size."""
MOST_METADATA = 2**20
"""Bytes of EXIF or XMP; longer ones are passed over."""
MOST_WORDS = 2**18
"""Characters of a TIFF's description, but for OME-XML."""
MOST_BYTES = 2**33
"""Most bytes of all planes that are read together."""

_STARTS = {PNG: "PNG", b"\xff\xd8\xff": "JPEG", b"BM": "BMP"}
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_COLOURS = ("red", "green", "blue", "alpha")
_SHOWN = ("MINISBLACK", "MINISWHITE", "RGB", "PALETTE", "MASK")

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # its faults come back as exceptions, or are checked here


@dataclass(frozen=True)
class Header:
    """What the header of a file declares."""

    kind: str
    """PNG, JPEG, TIFF, BMP, or OME-Zarr."""
    height: int
    """Of the picture as it is shown, that is, turned as its orientation says."""
    width: int
    samples: int
    """Channels, without those that are transparency."""
    dtype: str
    bits: int = 8
    """Bits per sample that are used, as far as the file says."""
    alpha: int = 0
    """Samples of transparency, which stand behind the channels."""
    names: tuple[str, ...] = ()
    """What the file calls its channels, and its transparency 'alpha'."""
    binding: bool = False
    """Whether `names` are meant as names of channels; ImageJ's labels may be anything."""
    palette: bool = False
    """Whether values are places in a table of colours."""
    inverted: bool = False
    """Whether 0 is white."""
    photometric: str = ""
    """A TIFF's kind of pixels where it is none that can be read as grey or RGB, else ''."""
    pixel_um: float = 0.0
    """Edge of a pixel in µm, 0 where the file does not say."""
    stack: bool = False
    """Whether it has planes of which some were chosen."""


_WHITE_TO_BLACK = np.repeat(np.arange(256, dtype=np.uint8)[::-1, None], 3, axis=1)


@dataclass(frozen=True)
class Raster:
    """An opened picture."""

    header: Header
    decode: Callable[[], np.ndarray]
    """Returns (H, W, samples + alpha), as stored."""
    orientation: int = 1
    """1 to 8, as in EXIF."""
    colours: np.ndarray | None = None
    """(n, 3) uint8 table of a palette."""
    description: str = ""
    """A TIFF's own words."""

    @property
    def greys(self) -> np.ndarray | None:
        """(n,) uint8 intensities that the places of a palette stand for; None without a palette, or for one of colours.

        A palette of greys stands for these; one of a single colour that rises evenly, as microscopes save a stain, for
        its places.
        """
        colours = self.colours
        if colours is None or self.header.samples + self.header.alpha != 1:
            return None
        if (colours == colours[:, :1]).all():
            return colours[:, 0]
        places = np.arange(len(colours))
        even = np.outer(places / (len(colours) - 1), colours[-1])
        rises = len(colours) == 256 and colours[-1].max() == 255 and np.abs(colours - even).max() <= 2
        return places.astype(np.uint8) if rises else None

    def numbers(self) -> np.ndarray:
        """Return the values as numbers, upright: (H, W, samples), transparency left out.

        Numbers are what is stored, also where 0 is shown white (ImageJ keeps masks so, 255 being the object), except
        in pictures of one bit, where black and white is all that there is. Of these, tifffile (and so scikit-image)
        declares 0 as white without meaning it: `header.inverted` is not set for its files.
        """
        pixels = turn(self.decode(), self.orientation)[..., : self.header.samples]
        return ~pixels if self.header.inverted and pixels.dtype == bool else pixels

    def colours_of(self, places: np.ndarray) -> np.ndarray | None:
        """Return (n, 3) int64, the colours of (n,) places of the palette; None where numbers are meant.

        That is so without a palette, and with all greys from white to black: so ImageJ saves a PNG of which 0 is shown
        white, 255 of a mask being the object, see `numbers`.
        """
        colours = self.colours
        if colours is None or np.array_equal(colours, _WHITE_TO_BLACK):
            return None
        return colours[np.minimum(places, len(colours) - 1)].astype(np.int64)

    def black_and_white(self, places: np.ndarray) -> np.ndarray | None:
        """Return (H, W) uint8 of 0 and 255 for the (H, W) places of a palette that are shown black and white alone.

        Any other picture gives None.
        """
        if self.colours is None:  # label maps: `unique` would sort a copy of them
            return None
        used = np.unique(places)
        colours = self.colours_of(used)
        if colours is None:
            return None
        table = colours if len(np.unique(colours)) > 1 else self.colours  # one colour alone says nothing
        if not ((table == 0).all(axis=1) | (table == 255).all(axis=1)).all():
            return None
        return np.asarray(colours[np.searchsorted(used, places), 0].astype(np.uint8))

    def plane(self, where: object, expected: str) -> np.ndarray:
        """Return the one plane of numbers (H, W), upright; an RGB picture of greys has one.

        Args:
            where: the file, for messages.
            expected: what it should be, likewise.

        Raises:
            DataError: it has several planes.
        """
        numbers = self.numbers()
        is_grey = self.header.names[:3] == _COLOURS[:3] and (numbers == numbers[..., :1]).all()
        if numbers.shape[-1] != 1 and not is_grey:
            kind = "colours" if self.header.names[:3] == _COLOURS[:3] else f"{numbers.shape[-1]} channels"
            raise DataError(f"{where} is a picture of {kind}, expected {expected}.")
        return np.ascontiguousarray(numbers[..., 0])

    def shown(self) -> np.ndarray:
        """Return the values as a viewer shows them, upright: (H, W, samples + alpha); 1 to 4 bits are spread to 255."""
        pixels = turn(self.decode(), self.orientation)
        if self.colours is not None:
            if self.header.samples != 1:
                raise ValueError(f"it has a palette and {self.header.samples} pages or channels: save them one by one")
            return np.asarray(self.colours[np.minimum(pixels[..., 0], len(self.colours) - 1)])
        if pixels.dtype == bool or self.header.bits < 8:
            pixels = pixels.astype(np.uint8) * np.uint8(255 // (2**self.header.bits - 1))
        if not self.header.inverted:
            return pixels
        if pixels.dtype.kind != "u":
            raise ValueError(f"it holds {pixels.dtype} values of which 0 is white: save it with 0 as black")
        top = pixels.dtype.type(2**self.header.bits - 1 if self.header.bits > 8 else 255)
        colours = self.header.samples
        return np.concatenate([top - pixels[..., :colours], pixels[..., colours:]], axis=-1)


def stem_of(name: str) -> str:
    """Return the ID that a file name stands for: without its ending and an '.ome' before it, in composed Unicode.

    macOS writes 'ü' as two letters, other systems as one.
    """
    stem = composed(name[: name.rindex(".")] if "." in name else name)
    return stem[:-4] if stem.lower().endswith(".ome") else stem


@contextmanager
def open_raster(
    source: Path | bytes,
    *,
    choice: PlaneChoice | None = None,
    join: bool = True,
    where: str = "",
    blank: Collection[tuple[int, ...]] | None = None,
) -> Iterator[Raster]:
    """Open a picture.

    Args:
        source: the file, or its content.
        choice: what is taken of a stack, None where nothing can be chosen; several channels are always all read.
        join: take planes that an OME-TIFF has in sibling files too; else its own alone.
        where: what to call it in messages; the file's name if left out.
        blank: sizes (H, W) in which a picture without content is valid, besides those of up to MOST_BLANK pixels; None
            if none is.

    Raises:
        DataError: it is no picture, damaged, or too large; the text says which.
    """
    where = where or (source.name if isinstance(source, Path) else "the picture")
    with named(where), ExitStack() as opened:
        if isinstance(source, Path):
            check_regular(source)
        stream = opened.enter_context(io.BytesIO(source) if isinstance(source, bytes) else source.open("rb"))
        start = stream.read(12)
        stream.seek(0)
        kind = next((kind for head, kind in _STARTS.items() if start.startswith(head)), "")
        if start.startswith(_TIFF_STARTS):
            tiff = opened.enter_context(_tiff(stream))
            folder = source if isinstance(source, Path) and join else None
            raster = _tiff_raster(tiff, folder, opened, choice, where)
        elif kind:
            raster = _pillow_raster(stream, kind, where)
        else:
            raise DataError(f"{where} is no PNG, JPEG, TIFF or BMP file, by its content: convert it.")
        check_size(raster.header, where)
        length = stream.seek(0, io.SEEK_END)
        height, width = raster.header.height, raster.header.width
        fits = blank is not None and (height * width <= MOST_BLANK or (height, width) in blank)
        check_ratio(raster.header, length, where, MOST_RATIO_BLANK if fits else MOST_RATIO)
        stream.seek(0)
        yield raster


def check_size(header: Header, where: str) -> None:
    """Refuse a picture that is empty or too large.

    Raises:
        DataError: it is.
    """
    if header.height == 0 or header.width == 0 or header.samples == 0:
        raise DataError(f"{where} has no pixels.")
    size = header.height * header.width
    if size > MOST_PIXELS or max(header.height, header.width) > MOST_EDGE:
        raise DataError(
            f"{where} says it is {header.height} x {header.width}, more than {MOST_PIXELS} pixels or "
            f"{MOST_EDGE} in a line: refused."
        )
    if size * (header.samples + header.alpha) * np.dtype(header.dtype).itemsize > MOST_BYTES:
        raise DataError(f"{where} says it has {header.samples} planes of {header.height} x {header.width}: refused.")


def check_ratio(header: Header, length: int, where: str, most: int) -> None:
    """Refuse a small file that unpacks to a large picture.

    Args:
        header: what it promises.
        length: bytes of the file.
        where: the file, for messages.
        most: bytes of pixels for each byte of the file.

    Raises:
        DataError: it has more.
    """
    pixels = header.height * header.width * (header.samples + header.alpha) * np.dtype(header.dtype).itemsize
    if pixels > max(MOST_BLOWN_UP, most * length):
        raise DataError(
            f"{where} unpacks from {length} to {pixels} bytes: it is damaged, blank, or made to do harm. "
            "If it is right, save it without compression."
        )


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return (H, W, ...) pixels as an orientation of 1 to 8 says that they are meant.

    Source: TIFF 6.0, tag Orientation; EXIF 2.3 has the same.
    """
    pixels = np.swapaxes(pixels, 0, 1) if orientation >= 5 else pixels
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


@contextmanager
def named(where: str) -> Iterator[None]:
    """Turn any exception of a decoder into a DataError that names the file.

    Decoders fail with every kind of exception on damaged input (struct, zlib, index, memory, ... errors). Around a
    decoder's call, and only there, all of them mean that the file cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (DataError, FileNotFoundError):
        raise
    except Exception as error:
        raise DataError(f"{where} cannot be read ({one_line(error)}): make it again.") from error


def _pillow_raster(stream: Any, kind: str, where: str) -> Raster:
    told = None
    if kind == "PNG":
        stream.seek(16)
        _check_filling(stream, struct.unpack(">II", stream.read(8)), where)
        told = _png_metadata(stream, where)
    stream.seek(0)
    with Image.open(stream, formats=(kind,)) as picture:
        told = _Metadata(picture.info.get("exif", b""), picture.info.get("xmp", b"")) if told is None else told
        orientation = told.orientation
        height, width = picture.size[::-1] if orientation < 5 else picture.size
        mode, colours = picture.mode, None
        if kind == "BMP" and mode == "1" and _bmp_bits(stream) != 1:
            raise DataError(
                f"{where} is a BMP of two colours in more than 1 bit: save it as PNG."
            )  # Pillow reads zeros
        if mode == "P":
            colours = np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
    header = Header(kind, height, width, 1, "uint8", palette=mode == "P")
    if kind == "PNG":
        bits, colour = _png_kind(stream)
        samples = _PNG_SAMPLES.get(colour, 0)
        alpha = int(colour in (4, 6))
        names = _COLOURS[: samples - 1] + _COLOURS[3:] if alpha else _COLOURS[:samples]
        dtype = "bool" if bits == 1 and mode == "1" else "uint16" if bits == 16 else "uint8"
        names = names if samples > 2 else ("grey", "alpha")[:samples]
        header = replace(header, samples=samples - alpha, alpha=alpha, bits=bits, dtype=dtype, names=names)
        wide = bits == 16 and samples > 1
        return Raster(header, lambda: _decode_png(stream, bits, wide, where), orientation, colours)
    if kind == "JPEG":
        _check_filling(stream, (height, width), where)
        stream.seek(0)
        check_scans([stream.read()], where)
    if mode not in ("1", "L", "P", "RGB"):
        raise DataError(f"{where} is a {kind} of mode {mode}, expected grey values or RGB.")
    samples = 3 if mode == "RGB" else 1
    bits, dtype = (1, "bool") if mode == "1" else (8, "uint8")
    header = replace(header, samples=samples, bits=bits, dtype=dtype, names=_COLOURS[:3] if samples == 3 else ("grey",))
    return Raster(header, lambda: _decode_pillow(stream, kind), orientation, colours)


def _check_filling(stream: Any, size: tuple[int, ...], where: str) -> None:
    """Refuse a file that is much longer than its pixels, before the whole of it is read."""
    if (length := stream.seek(0, io.SEEK_END)) > max(MOST_BLOWN_UP, MOST_BYTES_A_PIXEL * math.prod(size)):
        shown = " x ".join(map(str, size))
        raise DataError(f"{where} has {length} bytes for {shown} pixels: it is damaged, or holds other things.")


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


def _bmp_bits(stream: Any) -> int:
    stream.seek(28)
    return int.from_bytes(stream.read(2), "little")


def _png_kind(stream: Any) -> tuple[int, int]:
    """Return bit depth and colour type; Pillow's mode does not say 16-bit colour from 8-bit."""
    stream.seek(0)
    start = stream.read(26)
    return start[24], start[25]


_XMP_ORIENTATION = re.compile(rb"""tiff:Orientation(?:\s*=\s*["']|>)\s*([1-8])\s*["'<]""")


@dataclass
class _Metadata:
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
        return _xmp_orientation(self.xmp)


def _xmp_orientation(xmp: bytes) -> int:
    """Return the orientation that an XMP packet gives as attribute or element, 1 if it gives none."""
    found = _XMP_ORIENTATION.search(xmp[:MOST_METADATA])
    return int(found[1]) if found else 1


MOST_KEYWORD, MOST_TEXTS = 80, 1000
_TOLD = {b"eXIf": "exif", b"Raw profile type exif": "exif", b"Raw profile type APP1": "exif"}
_TOLD |= {b"XML:com.adobe.xmp": "xmp"}
"""Chunk, or keyword of a text -> what it holds; the first of each counts."""


def _png_metadata(stream: Any, where: str) -> _Metadata:
    """Return EXIF and XMP of a PNG, wherever they stand, from the heads of its chunks; Pillow would decode the pixels.

    EXIF is a chunk, or hexadecimal text as ImageMagick writes it.
    """
    found, at, texts = _Metadata(), 8, 0
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
            text = png_text(head[4:], content) if is_text else content
            if _TOLD[name] == "xmp":
                found.xmp = text
            elif name == b"eXIf" or not found.exif:
                found.exif = _raw_profile(text) if is_text else text
        at += 12 + length
    raise DataError(f"{where} is in more than {MOST_CHUNKS} parts: it is made to do harm.")


def _raw_profile(text: bytes) -> bytes:
    """Return the bytes of a profile that ImageMagick wrote as text: its name, its length, and lines of digits."""
    digits = b"".join(text.split()[2:])
    return bytes.fromhex(digits.decode("ascii")) if re.fullmatch(rb"(?:[0-9a-fA-F]{2})*", digits) else b""


def _decode_png(stream: Any, bits: int, wide: bool, where: str) -> np.ndarray:
    stream.seek(0)
    content = stream.read()
    check_png(content, where)
    if wide:  # Pillow reads 16-bit colour as 8 bit
        return np.asarray(imagecodecs.png_decode(content))
    pixels = _decode_pillow(io.BytesIO(content), "PNG")
    if bits == 16:
        return pixels.astype(np.uint16)
    spread = 255 // (2**bits - 1)
    return pixels // np.uint8(spread) if bits in (2, 4) and _png_kind(stream)[1] == 0 else pixels


def _decode_pillow(stream: Any, kind: str) -> np.ndarray:
    stream.seek(0)
    with Image.open(stream, formats=(kind,)) as picture:
        picture.load()
        pixels = np.asarray(picture)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def open_tiff(path: Path) -> tifffile.TiffFile:
    """Open a TIFF that is to be read part by part; it is closed with the last reference to it.

    Raises:
        DataError: it is no ordinary file.
        Exception: whatever tifffile makes of a broken file.
    """
    check_regular(path)
    return _tiff(path.open("rb"))


def _tiff(stream: Any) -> tifffile.TiffFile:
    """Open a TIFF from a stream, so that tifffile knows no folder, and keep it from looking for other files."""
    tiff = tifffile.TiffFile(stream, _multifile=False)
    with suppress(IndexError):  # there are fewer; tifffile alone follows pages that run in a circle for ever
        tiff.pages[MOST_PLANES]
        raise ValueError(f"it has more than {MOST_PLANES} pages, or they run in a circle")
    length = len(tiff.pages.first.description)
    if length > MOST_WORDS and not tiff.is_ome:
        raise ValueError(f"its description has {length} characters, more than {MOST_WORDS} are not read")
    return tiff


def _tiff_raster(
    tiff: tifffile.TiffFile, source: Path | None, opened: ExitStack, choice: PlaneChoice | None, where: str
) -> Raster:
    page: Any = tiff.pages.first
    stack, names, binding, pixel_um = _stack(tiff, source, opened, where)
    samples = stack.samples(choice, where)
    kind = getattr(page.photometric, "name", str(page.photometric))
    if kind == "YCBCR" and page.compression == tifffile.COMPRESSION.JPEG:
        kind = "RGB"  # decoded to it
    places = alpha_places(page) if "S" in stack.page_axes and samples == page.samplesperpixel else []
    orientation = orientation_of(page)
    height, width = stack.size if orientation < 5 else stack.size[::-1]
    dtype, bits = str(np.dtype(page.dtype).newbyteorder("=")), page.bitspersample
    header = Header(
        "TIFF", height, width, samples - len(places), dtype, bits if isinstance(bits, int) else max(bits), len(places)
    )
    inverted = kind == "MINISWHITE" and not (dtype == "bool" and page.software.startswith("tifffile"))
    header = replace(header, names=names, binding=binding, palette=kind == "PALETTE", inverted=inverted)
    header = replace(header, photometric="" if kind in _SHOWN else kind, pixel_um=pixel_um, stack=stack.chosen(choice))
    if not names and kind == "RGB" and samples in (3, 4):
        header = replace(header, names=_COLOURS[: header.samples] + _COLOURS[3:] * header.alpha)
    order = [k for k in range(samples) if k not in places] + places

    def decode() -> np.ndarray:
        pixels = stack.read(choice, where)
        if not pixels.dtype.isnative:
            pixels = pixels.astype(pixels.dtype.newbyteorder("="))
        return pixels[..., order] if places else pixels

    colours = None
    if header.palette and page.colormap is not None:
        colours = np.ascontiguousarray((np.asarray(page.colormap) >> 8).astype(np.uint8).T)
    return Raster(header, decode, orientation, colours, page.description)


def alpha_places(page: Any) -> list[int]:
    """Return which samples of a TIFF's pixel are declared to be transparency."""
    extra = [int(kind) for kind in page.extrasamples]
    first = page.samplesperpixel - len(extra)
    return [first + k for k, kind in enumerate(extra) if kind in (1, 2)]


def orientation_of(page: Any) -> int:
    """Return a TIFF page's orientation, 1 to 8: that of its tag, or else of its XMP."""
    tag, xmp = page.tags.get(274), page.tags.get(700)
    if tag is not None and tag.value in range(1, 9):
        return int(tag.value)
    return _xmp_orientation(bytes(xmp.value)) if xmp is not None and isinstance(xmp.value, bytes | tuple) else 1


def first_series(tiff: tifffile.TiffFile) -> Any:
    """Return the first series of a TIFF, of its own pages alone."""
    vars(tiff).update(is_ndtiff=False, is_mmstack=False)  # these would look for other files
    series = tiff.series[0]
    in_page: int = math.prod(tiff.pages.first.shape)
    if (count := math.prod(series.shape) // max(1, in_page)) > MOST_PLANES:
        raise ValueError(f"it describes {count} planes, more than {MOST_PLANES} are not read")
    return series


def _stack(
    tiff: tifffile.TiffFile, source: Path | None, opened: ExitStack, where: str
) -> tuple[Stack, tuple[str, ...], bool, float]:
    """Return the planes of a TIFF, the names of its channels, whether they are meant as such, and a pixel's edge."""
    page: Any = tiff.pages.first
    if tiff.is_ome and tiff.ome_metadata:
        ome = ome_of(str(tiff.ome_metadata), source, where)
        return *_ome_stack(tiff, ome, source, opened, where), ome.pixel_um
    series = first_series(tiff)
    axes, shape, pages = series.get_axes(False), series.get_shape(False), list(series.pages)
    page_ndim = len(page.shape)
    names = tuple(str(label) for label in (tiff.imagej_metadata or {}).get("Labels") or [])
    lead = shape[: len(shape) - page_ndim]
    if axes.endswith("S") and not page.axes.endswith("S"):
        axes, shape = axes[:-1], shape[:-1]  # ImageJ's, of length 1
        lead = shape[: len(shape) - page_ndim]
    page_axes = axes[len(lead) :]
    if shape[len(lead) :] != page.shape or sorted(page_axes) not in (["X", "Y"], ["S", "X", "Y"]):
        raise DataError(f"{where} is a TIFF of shape {shape} (axes {axes}), expected planes of one size.")
    count = int(np.prod(lead, dtype=np.int64))
    if len(pages) == count and all(each is not None for each in pages):
        numbers = np.arange(count).reshape(lead)
        stack = Stack(axes[: len(lead)], lead, page_axes, page.shape, lambda at: _page(pages[numbers[at]], where))
        return stack, names, False, _imagej_pixel(tiff)
    if len(pages) > 1 or series.dataoffset is None:
        raise DataError(f"{where} is cut short: it has {len(pages)} of {count} pages.")
    _check_segments(page, where)  # one page, and the others behind it without a header of their own
    whole = functools.lru_cache(1)(lambda: series.asarray().reshape(shape))
    stack = Stack(axes[: len(lead)], lead, page_axes, page.shape, lambda at: whole()[at])
    return stack, names, False, _imagej_pixel(tiff)


def _imagej_pixel(tiff: tifffile.TiffFile) -> float:
    """Return the edge of a pixel in µm as ImageJ keeps it: a unit, and pixels per unit; 0 where it is not said."""
    page: Any = tiff.pages.first
    tag = page.tags.get(282)
    if not tiff.imagej_metadata or tag is None or len(np.atleast_1d(tag.value)) != 2:
        return 0.0
    pixels, units = (int(number) for number in tag.value)
    return in_um(units / pixels if pixels else 0.0, str(tiff.imagej_metadata.get("unit", "")))


def ome_files(path: Path) -> tuple[str, ...]:
    """Return the names of all files of the OME set that a TIFF is of, in the order of their planes; () for none.

    Files that cannot be read give (); the error is raised when their pixels are read.
    """
    try:
        with open_tiff(path) as tiff:
            if not (tiff.is_ome and tiff.ome_metadata):
                return ()
            ome = ome_of(str(tiff.ome_metadata), path, path.name)
    except Exception:  # a decoder's, see `named`; said when the image is read
        return ()
    return tuple(name or path.name for name in ome.files) if len(ome.files) > 1 else ()


def _ome_stack(
    tiff: tifffile.TiffFile, ome: OmeImage, source: Path | None, opened: ExitStack, where: str
) -> tuple[Stack, tuple[str, ...], bool]:
    if ome.images > 1:
        raise DataError(f"{where} holds {ome.images} OME images (positions), expected one: save them one by one.")
    page: Any = tiff.pages.first
    if sorted(page.axes) not in (["X", "Y"], ["S", "X", "Y"]):
        raise DataError(f"{where} has pages with the axes {page.axes}, expected planes.")
    files: dict[str, tifffile.TiffFile] = {"": tiff}

    def opened_file(name: str) -> tifffile.TiffFile:
        if name not in files:
            if source is None:
                raise DataError(f"{where} has planes in {name}: give the files of the set in one folder.")
            stream = opened.enter_context(sibling(source, name).open("rb"))
            files[name] = opened.enter_context(_tiff(stream))
        return files[name]

    def plane(at: tuple[int, ...]) -> np.ndarray:
        place = ome.places.get((at[0], at[1], at[2]))
        if place is None:
            raise DataError(f"{where} is cut short: pixels are missing (plane C {at[0]}, Z {at[1]}, T {at[2]}).")
        pages = opened_file(place[0]).pages
        if place[1] >= len(pages):
            raise DataError(f"{where} is cut short: page {place[1]} of {place[0] or 'it'} is missing.")
        other_page: Any = pages[place[1]]
        if other_page.shape != page.shape or other_page.dtype != page.dtype:
            raise DataError(
                f"{where} has planes of {page.shape} {page.dtype} and of {other_page.shape} {other_page.dtype}."
            )
        return _page(other_page, where)

    if source is not None:
        return Stack("CZT", ome.lengths, page.axes, page.shape, plane), ome.names, True
    here = [at for at, place in ome.places.items() if not place[0]]  # its own planes alone
    kept = [sorted({at[k] for at in here}) for k in range(3)]
    stack = Stack(
        "CZT",
        tuple(len(numbers) for numbers in kept),
        page.axes,
        page.shape,
        lambda at: plane(tuple(numbers[n] for numbers, n in zip(kept, at, strict=True))),
    )
    return stack, tuple(ome.names[c] for c in kept[0] if c < len(ome.names)), True


def _page(page: Any, where: str) -> np.ndarray:
    _check_segments(page, where)
    return np.asarray(page.asarray())


def _check_segments(page: Any, where: str) -> None:
    """Refuse a page with missing segments, which tifffile would fill with zeros, or with a JPEG made to do harm."""
    file = page.parent.filehandle
    places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    if any(offset <= 0 or count <= 0 or offset + count > file.size for offset, count in places):
        raise DataError(f"{where} is cut short: pixels are missing.")
    if page.compression in JPEGS:
        check_scans((_part(file, *place) for place in places), where)


def _part(file: Any, offset: int, count: int) -> bytes:
    file.seek(offset)
    return bytes(file.read(count))
