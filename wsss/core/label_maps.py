"""Label maps: how they and their images sit in the square store, and one lossless file per image on disk."""

import functools
import io
import math
import zlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tifffile

from wsss.core.checks import DataError, some
from wsss.core.files import write_atomic
from wsss.core.rasters import LOSSLESS, MOST_BLOWN_UP, MOST_RATIO, files_by_id, open_raster
from wsss.core.reading import check_npy, check_regular, named, open_zip, parse_npy, read_npy

FIELD_UM = 2048 * 0.08
"""Edge of a whole field of the Human Protein Atlas, in micrometres."""


@dataclass(frozen=True)
class Geometry:
    """An image of (height, width) pixels, scaled to fit a (size, size) square, its top left corner at (0, 0).

    The content fills rows 0..content_height-1 and columns 0..content_width-1; the rest is padding (zeros).
    """

    height: int
    width: int
    size: int

    @property
    def sizes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(H, W) of the original image, and of the stored square: label maps have one of them."""
        return (self.height, self.width), (self.size, self.size)

    @property
    def scale(self) -> float:
        """Stored pixels per original pixel."""
        return self.size / max(self.height, self.width)

    @property
    def content_height(self) -> int:
        """Rows of the square that hold the image."""
        return max(1, round(self.height * self.scale))

    @property
    def content_width(self) -> int:
        """Columns of the square that hold the image."""
        return max(1, round(self.width * self.scale))

    def stored_um(self, pixel_um: float | None) -> float:
        """Return the micrometres per stored pixel from those per original one; None for a whole field of the HPA."""
        longest = max(self.height, self.width)
        return (FIELD_UM / longest if pixel_um is None else pixel_um) / self.scale

    def image_to_store(self, image: np.ndarray) -> np.ndarray:
        """Scale (C, height, width) uint8 into (C, size, size) uint8; area averaging shrinks, bicubic enlarges."""
        out = np.zeros((len(image), self.size, self.size), np.uint8)
        method = cv2.INTER_AREA if self.scale < 1 else cv2.INTER_CUBIC
        for source, target in zip(image, out, strict=True):
            shape = (self.content_width, self.content_height)
            target[: shape[1], : shape[0]] = cv2.resize(source, shape, interpolation=method)
        return out

    def labels_to_store(self, label_map: np.ndarray) -> np.ndarray:
        """Scale a (height, width) label map into (size, size), nearest neighbour; one of that size passes as it is."""
        if label_map.shape == (self.size, self.size) and (self.height, self.width) != label_map.shape:
            return label_map
        out = np.zeros((self.size, self.size), label_map.dtype)
        rows, columns = nearest(self.content_height, self.height), nearest(self.content_width, self.width)
        out[: self.content_height, : self.content_width] = label_map[rows[:, None], columns[None, :]]
        return out

    def labels_to_native(self, label_map: np.ndarray) -> np.ndarray:
        """Scale a (size, size) label map back to (height, width), nearest neighbour; a native map passes as it is."""
        if label_map.shape == (self.height, self.width):
            return label_map
        rows, columns = nearest(self.height, self.content_height), nearest(self.width, self.content_width)
        return label_map[rows[:, None], columns[None, :]]


def nearest(wanted: int, given: int) -> np.ndarray:
    """Return for each of `wanted` pixels the index of the nearest of `given` pixels over the same length."""
    return np.minimum(((np.arange(wanted) + 0.5) * given / wanted).astype(np.intp), given - 1)


SUFFIXES = (*LOSSLESS, ".npz", ".npy")
"""Forms that are read, in this order where an ID has several files; in any case, and with `.ome` before them."""

MOST_IN_PNG = 65535

CHECKSUM = "wsss crc32 "
"""What the description of a TIFF of ours begins with."""

MOST_PIXELS = 2**28
"""A map whose header promises more (16384 x 16384) is refused before memory is allocated."""


def check_label_map(label_map: np.ndarray, where: str, *, copy: bool = True) -> np.ndarray:
    """Return a label map as (H, W) int32 after checking that it is one.

    Args:
        label_map: whole numbers >= 0 of any type, also floats that are whole; axes of length 1 are dropped.
        where: name of the file or field for the message.
        copy: make a new array also where the numbers have 32 bits already.

    Raises:
        DataError: not two-dimensional, empty, not whole numbers, or ids that are negative, above 2**31 - 1, or above
            what the type tells apart.
    """
    pixels = np.asarray(label_map)
    if pixels.ndim > 2:
        pixels = pixels.squeeze()
    if pixels.ndim != 2 or 0 in pixels.shape:
        raise DataError(
            f"{where} has the shape {np.shape(label_map)}, expected one plane (H, W) of cell numbers: "
            "save a label map, not a colour picture of it."
        )
    if pixels.dtype == bool:
        return pixels.astype(np.int32)
    if pixels.dtype.kind == "f":
        whole = np.isfinite(pixels).all() and (pixels == np.floor(pixels)).all()
    else:
        whole = pixels.dtype.kind in "iu"
    if not whole:
        raise DataError(
            f"{where} holds {pixels.dtype} values that are not whole numbers, expected cell numbers: "
            "label the probability or intensity map first."
        )
    low, high = pixels.min(), pixels.max()
    if low < 0 or high > np.iinfo(np.int32).max:
        way_out = "add 1 to all if -1 is background" if low == -1 else "number the cells 1, 2, 3, ... and background 0"
        raise DataError(f"{where} holds ids from {low} to {high}, expected 0..{np.iinfo(np.int32).max}: {way_out}.")
    if pixels.dtype.kind == "f" and high > (most := 2 ** (np.finfo(pixels.dtype).nmant + 1)):
        raise DataError(
            f"{where} holds ids up to {high:.0f} as {pixels.dtype}, which tells numbers apart up to {most}: save whole "
            "numbers of 32 bits."
        )
    if not copy and pixels.dtype == np.uint32:
        return pixels.view(np.int32)
    return pixels.astype(np.int32, copy=copy)


def read_label_map(path: Path, *sizes: tuple[int, ...]) -> np.ndarray:
    """Read a label map as (H, W) int32, 0 background.

    Reads grey PNG of 1 to 16 bits, TIFF of any number type, BMP, NPY, and NPZ holding one array; a palette's places
    count as numbers, but white is the object where all that is shown is black and white. Nothing is unpickled, and
    sizes are checked in the header first.

    Args:
        sizes: (H, W) of its image, as far as they are known; a map of another size that is large and nearly blank is
            refused.

    Raises:
        DataError: the file is missing, cannot be read, is no label map, or promises more than MOST_PIXELS.
    """
    readers: dict[str, Callable[[Path], np.ndarray]] = {".npz": _read_npz, ".npy": _read_npy}
    reader = readers.get(path.suffix.lower(), lambda path: _read_picture(path, sizes))
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path} is no form of label map that is read here, expected {', '.join(SUFFIXES)}.")
    try:
        with named(str(path), "a label map"):
            check_regular(path)
            pixels = reader(path)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: give a label map, or run segment first.") from None
    return check_label_map(pixels, str(path), copy=False)


def has_odd_palette(path: Path, size: tuple[int, ...]) -> bool:
    """Whether a label map of `size` is a palette picture whose places cannot be cell numbers.

    That is so if 0 is not the darkest colour, or if all colours are greys that differ from their places: the picture
    then means its colours. Files that cannot be read raise their error in `read_label_map`.
    """
    if path.suffix.lower() in (".npy", ".npz"):
        return False
    with open_raster(path, where=str(path), blank=[size]) as raster:
        places = raster.numbers() if raster.colours is not None else np.zeros(0, np.uint8)
        used, shown = np.unique(places), raster.black_and_white(places)
        colours = raster.colours_of(used)
    if colours is None:
        return False
    if shown is not None:
        return bool(((shown > 0) != (places > 0)).any())
    bright = colours.sum(axis=1)
    grey = (colours == colours[:, :1]).all() and len(np.unique(colours[:, 0])) > 1
    swapped = used[0] == 0 and bright[0] > bright.min()
    return bool(swapped or (grey and (colours[:, 0] != used).any() and len(used) > 2))


def write_label_map(path: Path, label_map: np.ndarray) -> Path:
    """Write a label map losslessly, whole or not at all, and remove the same map of the other form.

    Args:
        path: the file without suffix; `.png` (16 bit) is added, or `.tif` (32 bit) where ids exceed 65535.
        label_map: (H, W) whole numbers.

    Returns:
        The path written.

    Raises:
        DataError: `label_map` is no label map.
    """
    checked = check_label_map(label_map, str(path))
    fits = checked.max() <= MOST_IN_PNG
    target, other = (path.with_name(path.name + suffix) for suffix in ((".png", ".tif") if fits else (".tif", ".png")))
    content = _encode_png(checked.astype(np.uint16)) if fits else _encode_tiff(checked)
    other.unlink(missing_ok=True)  # first: killed in between, no old map is left to be taken for the new one
    write_atomic(target, lambda stream: stream.write(content))
    return target


def discard_label_map(path: Path) -> None:
    """Remove what `write_label_map` wrote under `path` (without suffix), if anything."""
    for suffix in (".png", ".tif"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def find_label_map(folder: Path, name: str) -> Path:
    """Return the file of the label map of image `name` in `folder`.

    Raises:
        DataError: there is none.
    """
    for suffix in SUFFIXES:
        path = folder / f"{name}{suffix}"
        if path.exists():
            return path
    path = _kept_maps(folder, folder.stat().st_mtime_ns).get(name, path) if folder.is_dir() else path
    if path.exists():
        return path
    raise DataError(f"{folder} holds no label map of {name}: expected {name} with one of {', '.join(SUFFIXES)}.")


def map_files(folder: Path, names: Iterable[str]) -> list[Path]:
    """Return the file of each image's label map in `folder`, or a path where nothing is; the folder is read once."""
    there = given_maps(folder)
    return [there.get(name, folder / f"{name}.none") for name in names]


def given_maps(folder: Path) -> dict[str, Path]:
    """Return ID -> label map of a folder, whatever the case of their endings; {} where there is no such folder.

    Raises:
        DataError: an image has two.
    """
    return files_by_id(folder, SUFFIXES, ", expected one label map of each image: remove one.")


@functools.lru_cache(maxsize=4)
def _kept_maps(folder: Path, changed: int) -> dict[str, Path]:
    """Return `given_maps` of a folder, listed once for all its images as long as it is as old."""
    return given_maps(folder)


def _encode_png(label_map: np.ndarray) -> bytes:
    # label maps are flat: higher levels save little and cost several times the time
    done, content = cv2.imencode(".png", label_map, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise RuntimeError(f"OpenCV could not encode a label map of shape {label_map.shape} as PNG")
    return bytes(content)


def _encode_tiff(label_map: np.ndarray) -> bytes:
    stream, pixels = io.BytesIO(), label_map.astype(np.uint32)
    description = f"{CHECKSUM}{_checksum(pixels)}"
    tifffile.imwrite(
        stream, pixels, compression="zlib", photometric="minisblack", description=description, metadata=None
    )
    return stream.getvalue()


def _checksum(pixels: np.ndarray) -> str:
    """Return a checksum of eight hex digits: TIFF has none."""
    return f"{zlib.crc32(np.ascontiguousarray(pixels, np.uint32).data, zlib.crc32(str(pixels.shape).encode())):08x}"


def _read_picture(path: Path, sizes: Collection[tuple[int, ...]]) -> np.ndarray:
    with open_raster(path, where=str(path), blank=sizes) as raster:
        header = raster.header
        if header.kind == "JPEG":
            raise DataError(f"{path} is a JPEG, which does not keep cell numbers: save the label map as PNG or TIFF.")
        pixels = raster.plane(path, "one plane of grey values that are cell numbers: save a label map, not its picture")
        shown = raster.black_and_white(pixels)
        if shown is not None and ((shown > 0) != (pixels > 0)).any():
            pixels = shown
    if raster.description.startswith(CHECKSUM) and raster.description != f"{CHECKSUM}{_checksum(pixels)}":
        raise DataError(f"{path} is damaged: its cells do not match their checksum. Make it again.")
    return pixels


def _read_npy(path: Path) -> np.ndarray:
    with path.open("rb") as stream:
        shape, _ = check_npy(stream, path.stat().st_size, path)
        _check_pixels(shape, path)
    return read_npy(path, "Make it again.")


def _read_npz(path: Path) -> np.ndarray:
    with open_zip(path) as archive:
        arrays = archive.infolist()
        if len(arrays) != 1:
            names = [array.filename.removesuffix(".npy") for array in arrays]
            raise DataError(f"{path} holds the arrays {some(names) or 'none'}, expected exactly one, the label map.")
        if arrays[0].file_size > max(MOST_BLOWN_UP, MOST_RATIO * path.stat().st_size):
            raise DataError(f"{path} unpacks to {arrays[0].file_size} bytes: it is damaged, or blank; save it as .npy.")
        with archive.open(arrays[0]) as stream:
            shape, _ = check_npy(stream, arrays[0].file_size, path)
            _check_pixels(shape, path)
        return parse_npy(archive.read(arrays[0]), path)


def _check_pixels(shape: Sequence[int], path: Path) -> None:
    if math.prod(shape) > MOST_PIXELS:
        size = " x ".join(map(str, shape))
        raise DataError(f"{path} promises {size} values, more than {MOST_PIXELS} are refused: cut the image first.")
