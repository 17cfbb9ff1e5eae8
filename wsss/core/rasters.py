"""The one place where picture files are opened: PNG, JPEG, TIFF and BMP, recognised by content, not by name.

No file starts a program here or opens another one, except that a TIFF of an OME set is joined with its siblings in the
same folder. The file's metadata is respected: axes, orientation, transparency, whether 0 is white.
"""

import io
import math
import re
import struct
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from wsss.core.checks import DataError
from wsss.core.files import composed
from wsss.core.png_jpeg import PNG, Metadata, check_png, check_scans, png_metadata
from wsss.core.reading import check_regular, named
from wsss.core.tiff import UNNAMED, PlaneChoice, alpha_places, kind_of, main_page, orientation_of, stack_of, tiff_of

LOSSLESS = (".png", ".tif", ".tiff", ".bmp")
LOSSY = (".jpg", ".jpeg")
SUFFIXES = (*LOSSLESS, *LOSSY)
"""Endings of picture files, in any case; `.ome` before them is no part of an ID."""
_UNREAD = "gif webp jp2 heic dcm czi nd2 lif lsm stk oib oif vsi ims svs ndpi scn mrxs dv h5 hdf5 mat nrrd nii mhd"
UNREAD = tuple(f".{form}" for form in _UNREAD.split())
"""Endings of pictures that are not read."""
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
MOST_BYTES = 2**33
"""Most bytes of all planes that are read together."""

_STARTS = {PNG: "PNG", b"\xff\xd8\xff": "JPEG", b"BM": "BMP"}
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_COLOURS = ("red", "green", "blue", "alpha")
_SHOWN = ("MINISBLACK", "MINISWHITE", "RGB", "PALETTE", "MASK")


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
    pages: bool = False
    """Whether its channels are pages of which nothing says what they are."""


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
            expected: what it should be, for messages.

        Raises:
            DataError: it has several planes, or one colour alone and shapes in its transparency.
        """
        numbers = self.numbers()
        if self.header.alpha and (numbers == numbers[:1, :1]).all():
            alpha = self.decode()[..., self.header.samples :]
            if (alpha != alpha[:1, :1]).any():
                raise DataError(f"{where} is of one colour, its shapes are in its transparency, expected {expected}.")
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


_IMAGE = re.compile(r"(\.ome)?\.(png|jpe?g|tiff?|bmp|webp|zarr|czi|nd2|lif)$", re.IGNORECASE)


def without_suffix(name: str) -> str:
    """Return the ID that a table means by an ID, or by the name or path of an image's file; see also `stem_of`."""
    stem = _IMAGE.sub("", name)
    return name if stem == name else re.split(r"[/\\]", stem)[-1]


def image_names(texts: Sequence[str], where: object) -> list[str]:
    """Return the IDs that the texts of a table's column mean, see `without_suffix`.

    Raises:
        DataError: files of different folders would be one image, or a row names none.
    """
    if "" in texts:
        row = f"row {texts.index('') + 1} below the header"
        raise DataError(
            f"{where} names no image in {row}: fill the cell, also where a spreadsheet merged it with others."
        )
    folders: dict[str, str] = {}
    known: dict[str, str] = {}
    for text in dict.fromkeys(texts):
        known[text] = name = without_suffix(text)
        folder = text[: -len(re.split(r"[/\\]", text)[-1])] if name != text else ""
        if (other := folders.setdefault(name, folder)) != folder:
            raise DataError(f"{where} names {other}{name} and {folder}{name}, which are one ID: rename one of them.")
    return [known[text] for text in texts]


def files_by_id(folder: Path, endings: Collection[str], expected: str) -> dict[str, Path]:
    """Return ID -> file of a folder, by endings in any case; hidden files do not count; {} where there is no folder.

    Args:
        expected: ends the message about two files of one ID.

    Raises:
        DataError: there are two.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.suffix.lower() in endings and path.name[0] != ".":
            other = found.setdefault(stem_of(path.name), path)
            if other != path:
                raise DataError(f"{folder} holds {other.name} and {path.name}{expected}")
    return found


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
            tiff = opened.enter_context(tiff_of(stream))
            folder = source if isinstance(source, Path) and join else None
            raster = _tiff_raster(tiff, folder, opened, choice, where)
        elif kind == "PNG":
            raster = _png_raster(stream, where)
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
        length: bytes of the file.
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


def _png_raster(stream: Any, where: str) -> Raster:
    stream.seek(16)
    _check_filling(stream, struct.unpack(">II", stream.read(8)), where)
    orientation = png_metadata(stream, where).orientation
    size, mode, colours, _ = _pillow_head(stream, "PNG")
    bits, colour = _png_kind(stream)
    samples = _PNG_SAMPLES.get(colour, 0)
    alpha = int(colour in (4, 6))
    names = _COLOURS[: samples - 1] + _COLOURS[3:] if alpha else _COLOURS[:samples]
    names = names if samples > 2 else ("grey", "alpha")[:samples]
    dtype = "bool" if bits == 1 and mode == "1" else "uint16" if bits == 16 else "uint8"
    height, width = _upright(size, orientation)
    header = Header("PNG", height, width, samples - alpha, dtype, bits, alpha, names, palette=mode == "P")
    wide = bits == 16 and samples > 1
    return Raster(header, lambda: _decode_png(stream, bits, wide, where), orientation, colours)


def _pillow_raster(stream: Any, kind: str, where: str) -> Raster:
    """Open a JPEG or BMP."""
    size, mode, colours, told = _pillow_head(stream, kind)
    height, width = _upright(size, told.orientation)
    stream.seek(28)
    if kind == "BMP" and mode == "1" and stream.read(2) != b"\1\0":  # Pillow reads zeros
        raise DataError(f"{where} is a BMP of two colours in more than 1 bit: save it as PNG.")
    if kind == "JPEG":
        _check_filling(stream, (height, width), where)
        stream.seek(0)
        check_scans([stream.read()], where)
    if mode not in ("1", "L", "P", "RGB"):
        raise DataError(f"{where} is a {kind} of mode {mode}, expected grey values or RGB.")
    names = _COLOURS[:3] if mode == "RGB" else ("grey",)
    bits, dtype = (1, "bool") if mode == "1" else (8, "uint8")
    header = Header(kind, height, width, len(names), dtype, bits, names=names, palette=mode == "P")
    return Raster(header, lambda: _decode_pillow(stream, kind), told.orientation, colours)


def _pillow_head(stream: Any, kind: str) -> tuple[tuple[int, int], str, np.ndarray | None, Metadata]:
    """Return the stored (H, W), Pillow's mode, the palette, and the metadata that it finds without decoding."""
    stream.seek(0)
    with Image.open(stream, formats=(kind,)) as picture:
        colours = np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3) if picture.mode == "P" else None
        told = Metadata(picture.info.get("exif", b""), picture.info.get("xmp", b""))
        return (picture.height, picture.width), picture.mode, colours, told


def _upright(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Return the (H, W) of a picture as it is shown."""
    return size if orientation < 5 else size[::-1]


def _check_filling(stream: Any, size: tuple[int, ...], where: str) -> None:
    """Refuse a file that is much longer than its pixels, before the whole of it is read."""
    if (length := stream.seek(0, io.SEEK_END)) > max(MOST_BLOWN_UP, MOST_BYTES_A_PIXEL * math.prod(size)):
        shown = " x ".join(map(str, size))
        raise DataError(f"{where} has {length} bytes for {shown} pixels: it is damaged, or holds other things.")


def _png_kind(stream: Any) -> tuple[int, int]:
    """Return bit depth and colour type; Pillow's mode does not say 16-bit colour from 8-bit."""
    stream.seek(0)
    start = stream.read(26)
    return start[24], start[25]


def _decode_png(stream: Any, bits: int, wide: bool, where: str) -> np.ndarray:
    stream.seek(0)
    content = stream.read()
    check_png(content, where)
    if wide:  # Pillow reads 16-bit colour as 8 bit
        samples = _PNG_SAMPLES[_png_kind(stream)[1]]  # a colour that is transparent adds one
        return np.asarray(imagecodecs.png_decode(content))[..., :samples]
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


def _tiff_raster(
    tiff: tifffile.TiffFile, source: Path | None, opened: ExitStack, choice: PlaneChoice | None, where: str
) -> Raster:
    stack, page = stack_of(tiff, source, opened, where), main_page(tiff)
    samples = stack.samples(choice, where)
    kind = kind_of(page)
    places = alpha_places(page) if "S" in stack.page_axes and samples == page.samplesperpixel else []
    orientation = orientation_of(page)
    height, width = _upright(stack.size, orientation)
    dtype, bits = str(np.dtype(page.dtype).newbyteorder("=")), page.bitspersample
    colours, names = samples - len(places), stack.names
    if not names and kind == "RGB" and samples in (3, 4):
        names = _COLOURS[:colours] + _COLOURS[3:] * len(places)
    header = Header(
        "TIFF",
        height,
        width,
        colours,
        dtype,
        bits if isinstance(bits, int) else max(bits),
        len(places),
        names,
        stack.binding,
        palette=kind == "PALETTE",
        inverted=kind == "MINISWHITE" and not (dtype == "bool" and page.software.startswith("tifffile")),
        photometric="" if kind in _SHOWN else kind,
        pixel_um=stack.pixel_um,
        stack=stack.chosen(choice),
        pages=not stack.chosen(choice) and any(axis in UNNAMED for axis in stack.axes) and samples > 1,
    )
    order = [k for k in range(samples) if k not in places] + places

    def decode() -> np.ndarray:
        pixels = stack.read(choice, where)
        return pixels[..., order] if places else pixels

    table = None
    if header.palette and page.colormap is not None:
        table = np.ascontiguousarray((np.asarray(page.colormap) >> 8).astype(np.uint8).T)
    return Raster(header, decode, orientation, table, page.description)
