"""Decode image files to uint8, with every doubt named: never a silent cast."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from wsss.core.checks import DataError
from wsss.core.png import SIGNATURE, check_png
from wsss.data.channel_names import order_of, tiff_channel_names
from wsss.data.omezarr import open_zarr
from wsss.data.tints import signal_of

LARGEST_PIXELS = 2**27
"""Most pixels of a plane (11,585 squared); more is refused from the header, before anything is decoded."""
DEPTHS = ("auto", "8", "12", "16")
DTYPES = ("uint8", "uint16", "float16", "float32", "float64")
PNG_COLOURS = {0: 1, 2: 3, 4: 2, 6: 4}
"""PNG colour type -> samples per pixel; 3 (palette) is refused."""

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # its faults come back as exceptions, or are checked here


@dataclass(frozen=True)
class Header:
    """What a file says of itself."""

    height: int
    width: int
    samples: int
    dtype: str
    """uint8, uint16, float16, float32 or float64."""
    planar: bool = False
    """TIFF only: samples come first, (samples, height, width)."""
    names: tuple[str, ...] = ()
    """What a TIFF or OME-Zarr calls its channels, if it does."""
    binding: bool = False
    """Whether `names` are meant as names of channels; ImageJ's labels may be anything."""


def read_header(path: Path) -> Header:
    """Read size, samples per pixel and type of a PNG, JPEG or TIFF file without decoding it.

    Raises:
        DataError: the file is unreadable, not an image, or of a kind that is refused.
    """
    with _named(path):
        header = _zarr_header(path) if _is_zarr(path) else None
        header = header or (_tiff_header(path) if _is_tiff(path) else _pillow_header(path))
    if header.height * header.width > LARGEST_PIXELS:
        raise DataError(
            f"{path.name} says it is {header.height} x {header.width}, more than {LARGEST_PIXELS} pixels: refused."
        )
    if header.height == 0 or header.width == 0:
        raise DataError(f"{path.name} has no pixels.")
    return header


def check_headers(paths: Sequence[Path], channels: int, names: Sequence[str] = ()) -> tuple[int, int]:
    """Check from the headers that files make one image of so many channels (`names`); return its (height, width).

    Raises:
        DataError: what does not fit, with the file.
    """
    headers = [read_header(path) for path in paths]
    if len(paths) == 1:
        if len(_order(paths[0], headers[0], names)) != channels:
            raise DataError(f"{paths[0].name} has {headers[0].samples} channels, expected {channels}.")
        return headers[0].height, headers[0].width
    for path, header in zip(paths, headers, strict=True):
        if header.samples not in (1, 3):
            raise DataError(f"{path.name} has {header.samples} channels, expected one grey plane.")
        if (header.height, header.width) != (headers[0].height, headers[0].width):
            raise DataError(
                f"{path.name} is {header.height} x {header.width}, {paths[0].name} is {headers[0].height} x "
                f"{headers[0].width}: the planes of an image must match."
            )
    return headers[0].height, headers[0].width


def _order(path: Path, header: Header, names: Sequence[str]) -> list[int]:
    return order_of(header.names, header.binding, header.samples, names, path.name)


def read_image(
    paths: Sequence[Path], channels: int, depth: str = "auto", names: Sequence[str] = ()
) -> tuple[np.ndarray, str]:
    """Decode the files of one image.

    Args:
        paths: one file per channel, or a single file of all channels.
        channels: how many there must be.
        depth: bits that 16-bit files use: '8', '12', '16', or 'auto' to tell from the largest value of the image
            (up to 255, up to 4095, more). 8-bit files are taken as they are, floats must lie in 0..1.
        names: of the channels, in order: which channels of a file that names its own are meant, and which samples of
            a tinted picture carry the signal (see `tints`). '' where nothing is known.

    Returns:
        (channels, H, W) uint8 and the depth found: '8', '12', '16' or 'float'.

    Raises:
        DataError: a file is damaged, or does not fit; the text names it.
    """
    check_headers(paths, channels, names)
    if len(paths) == 1:
        merged = _decode_merged(paths[0])
        planes = [merged[k] for k in _order(paths[0], read_header(paths[0]), names)]
    else:
        given = names or [""] * len(paths)
        planes = [_decode_plane(path, name) for path, name in zip(paths, given, strict=True)]
    return to_uint8(planes, [path.name for path in paths], depth)


def to_uint8(planes: Sequence[np.ndarray], names: Sequence[str], depth: str) -> tuple[np.ndarray, str]:
    """Bring (H, W) planes of one image to (C, H, W) uint8, all on one scale; `names` are for messages."""
    kinds = {plane.dtype.kind for plane in planes}
    if len(kinds) > 1 or len({plane.dtype.itemsize for plane in planes}) > 1:
        kinds_text = ", ".join(str(plane.dtype) for plane in planes)
        raise DataError(f"{names[0]} and the other planes are of different types ({kinds_text}).")
    if kinds == {"f"}:
        return np.stack([_from_float(plane, names[0]) for plane in planes]), "float"
    if planes[0].dtype == np.uint8:
        return np.stack(planes), "8"
    most = max(int(plane.max()) for plane in planes)
    bits = int(depth) if depth != "auto" else 8 if most <= 255 else 12 if most <= 4095 else 16
    if most >= 2**bits:
        raise DataError(f"{names[0]} or another plane has the value {most}, too large for --depth {bits}.")
    # The shift is exact both for 8-bit values that were moved up and for those that were stretched.
    return np.stack([(plane >> (bits - 8)).astype(np.uint8) for plane in planes]), str(bits)


def _from_float(plane: np.ndarray, name: str) -> np.ndarray:
    low, high = plane.min(), plane.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DataError(f"{name} or another plane has values that are not finite (NaN or infinite).")
    if low < 0 or high > 1:
        raise DataError(f"{name} or another plane has floats from {low:g} to {high:g}, expected 0..1.")
    return np.rint(plane * 255).astype(np.uint8)


def _decode_plane(path: Path, channel: str) -> np.ndarray:
    """Return (H, W); three equal samples count as grey, a picture tinted in the channel's colour as its plane."""
    samples = _decode(path)
    return samples if samples.ndim == 2 else signal_of(samples, channel, path.name)


def _decode_merged(path: Path) -> np.ndarray:
    """Return (C, H, W)."""
    return np.ascontiguousarray(np.moveaxis(_decode(path), -1, 0))


def _decode(path: Path) -> np.ndarray:
    """Return (H, W) or (H, W, samples) of the file's own type."""
    header = read_header(path)
    with _named(path):
        if _is_zarr(path):
            pixels = open_zarr(path).read()
            pixels = pixels[..., 0] if header.samples == 1 else pixels
        else:
            pixels = _decode_tiff(path, header) if _is_tiff(path) else _decode_pillow(path, header)
    expected = (header.height, header.width) + ((header.samples,) if header.samples > 1 else ())
    if pixels.shape != expected or str(pixels.dtype) != header.dtype:
        raise DataError(f"{path.name} holds {pixels.dtype} {pixels.shape}, its header says {header.dtype} {expected}.")
    return pixels


def _is_zarr(path: Path) -> bool:
    return path.suffix.lower() == ".zarr"


def _zarr_header(path: Path) -> Header:
    image = open_zarr(path)
    dtype = str(image.array.dtype)
    if dtype not in DTYPES:
        raise DataError(f"{path.name} holds {dtype} values, expected 8 or 16 bit, or floats in 0..1.")
    return Header(*image.size, image.samples, dtype, names=tuple(image.names), binding=True)


def _is_tiff(path: Path) -> bool:
    return path.suffix.lower() in (".tif", ".tiff")


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn whatever a decoder makes of a broken file into a DataError that names the file.

    Decoders fail with every kind of exception on damaged input (struct, zlib, index, memory, ... errors); here, and
    only around a decoder's call, all of them mean the same: this file cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except DataError:
        raise
    except Exception as error:
        text = " ".join(str(error).split()).replace(str(path), path.name)[:200]
        raise DataError(f"{path.name} cannot be read ({text or type(error).__name__}).") from error


def _pillow_header(path: Path) -> Header:

    with Image.open(path, formats=("PNG", "JPEG")) as image:
        if image.format == "PNG":
            bits, colour = _png_kind(path)
            if colour not in PNG_COLOURS or bits not in (8, 16):
                kind = "a palette" if colour not in PNG_COLOURS else f"{bits} bit"
                raise DataError(f"{path.name} is a PNG with {kind}, expected 8 or 16 bit grey values.")
            return Header(image.height, image.width, PNG_COLOURS[colour], f"uint{bits}")
        if image.mode not in ("L", "RGB"):
            raise DataError(f"{path.name} is a JPEG of mode {image.mode}, expected grey values.")
        return Header(image.height, image.width, len(image.getbands()), "uint8")


def _png_kind(path: Path) -> tuple[int, int]:
    """Return bit depth and colour type; Pillow's mode does not tell 16-bit colour from 8-bit."""
    with path.open("rb") as stream:
        start = stream.read(26)
    return start[24], start[25]


def _decode_pillow(path: Path, header: Header) -> np.ndarray:
    with path.open("rb") as stream:
        is_png = stream.read(8) == SIGNATURE
    if is_png:
        check_png(path)
    if header.dtype == "uint16" and header.samples > 1:
        return np.asarray(imagecodecs.png_decode(path.read_bytes()))

    with Image.open(path, formats=("PNG", "JPEG")) as image:
        image.load()
        pixels = np.asarray(image)
    return pixels.astype(np.uint16) if header.dtype == "uint16" and pixels.dtype != np.uint16 else pixels


def _tiff_header(path: Path) -> Header:

    with tifffile.TiffFile(path) as tiff:
        names, binding = tiff_channel_names(tiff)
        return replace(_tiff_kind(path, tiff), names=tuple(names), binding=binding)


def _tiff_kind(path: Path, tiff: Any) -> Header:
    page, shape = tiff.pages[0], [n for n in tiff.series[0].shape if n != 1]
    kind = getattr(page.photometric, "name", str(page.photometric))
    if kind not in ("MINISBLACK", "RGB"):
        raise DataError(f"{path.name} is a TIFF of kind {kind}, expected grey values (MINISBLACK) or RGB.")
    dtype = str(tiff.series[0].dtype)
    if dtype not in DTYPES:
        raise DataError(f"{path.name} holds {dtype} values, expected 8 or 16 bit, or floats in 0..1.")
    size = (page.imagelength, page.imagewidth)
    samples = 1
    for k in (0, -1):
        if len(shape) > 2 or (len(shape) == 2 and 1 in size):
            samples, planar = shape[k], k == 0
            if _squeezed(shape[1:] if planar else shape[:-1]) == _squeezed(size):
                return Header(*size, samples, dtype, planar)
    if _squeezed(shape) != _squeezed(size):
        raise DataError(f"{path.name} is a TIFF of shape {tuple(shape)}, expected planes of {size}.")
    return Header(*size, 1, dtype)


def _squeezed(shape: Sequence[int]) -> list[int]:
    return [n for n in shape if n != 1]


def _decode_tiff(path: Path, header: Header) -> np.ndarray:

    length = path.stat().st_size
    with tifffile.TiffFile(path) as tiff:
        pages: list[Any] = list(tiff.series[0].pages)
        for page in pages:
            # tifffile fills absent pieces with zeros instead of failing
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
                if offset <= 0 or count <= 0 or offset + count > length:
                    raise DataError(f"{path.name} is cut short: pixels are missing.")
        pixels = tiff.series[0].asarray()
    size = (header.height, header.width)
    if header.samples == 1:
        return pixels.reshape(size)
    if header.planar:
        return np.moveaxis(pixels.reshape(header.samples, *size), 0, -1)
    return pixels.reshape(*size, header.samples)
