"""Label maps on disk: one lossless file per image, every cell keeping its number."""

import io
import logging
import math
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image

from wsss.core.checks import DataError, some
from wsss.core.files import write_atomic
from wsss.core.png import check_png
from wsss.core.reading import check_npy, parse_npy, read_npy

SUFFIXES = (".png", ".tif", ".tiff", ".npz", ".npy")
"""Forms that are read, in this order where an ID has several files."""

MOST_IN_PNG = 65535

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # its faults come back as exceptions, or are checked here

CHECKSUM = "wsss crc32 "
"""What the description of a TIFF of ours begins with."""

MOST_PIXELS = 2**28
"""A map whose header promises more (16384 x 16384) is refused before memory is asked for."""


def check_label_map(label_map: np.ndarray, where: str) -> np.ndarray:
    """Return a label map as (H, W) int32 after checking that it is one.

    Args:
        label_map: whole numbers >= 0 of any type, also floats that are whole; axes of length 1 are dropped.
        where: name of the file or field for the message.

    Raises:
        DataError: not two-dimensional, empty, not whole numbers, negative ids, or ids above 2**31 - 1.
    """
    found = np.asarray(label_map)
    if found.ndim > 2:
        found = found.squeeze()
    if found.ndim != 2 or 0 in found.shape:
        raise DataError(
            f"{where} has the shape {np.shape(label_map)}, expected one plane (H, W) of cell numbers: "
            "save a label map, not a colour picture of it."
        )
    if found.dtype == bool:
        return found.astype(np.int32)
    if found.dtype.kind == "f":
        whole = np.isfinite(found).all() and (found == np.floor(found)).all()
    else:
        whole = found.dtype.kind in "iu"
    if not whole:
        raise DataError(
            f"{where} holds {found.dtype} values that are not whole numbers, expected cell numbers: "
            "label the probability or intensity map first."
        )
    low, high = found.min(), found.max()
    if low < 0 or high > np.iinfo(np.int32).max:
        raise DataError(f"{where} holds ids from {low} to {high}, expected 0..{np.iinfo(np.int32).max}.")
    return found.astype(np.int32)


def read_label_map(path: Path) -> np.ndarray:
    """Read a label map as (H, W) int32, 0 background.

    Reads grey PNG of 1 to 16 bits, TIFF of any number type, NPY, and NPZ holding one array. Nothing is unpickled, and
    sizes are checked in the header first.

    Raises:
        DataError: the file is missing, cannot be read, is no label map, or promises more than MOST_PIXELS.
    """
    readers = {".png": _read_png, ".tif": _read_tiff, ".tiff": _read_tiff, ".npz": _read_npz, ".npy": _read_npy}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path} is no form of label map that is read here, expected {', '.join(SUFFIXES)}.")
    try:
        found = reader(path)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: give a label map, or run segment first.") from None
    except DataError:
        raise
    except Exception as error:
        # Decoders fail with every kind of exception on damaged input (zip, zlib, struct, index, ...); around their call
        # alone, all of them mean the same.
        text = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} cannot be read as a label map ({text}): make it again.") from error
    return check_label_map(found, str(path))


def number_cells(label_map: np.ndarray) -> np.ndarray:
    """Return a label map (H, W) with its cells numbered 1..N in the order of their ids, int32, 0 background."""
    if label_map.max() < label_map.size:  # counting is many times as fast as sorting
        present = np.bincount(label_map.ravel()) > 0
        present[0] = False
        found: np.ndarray = np.cumsum(present, dtype=np.int32)[label_map]
        return found
    ids, rank = np.unique(label_map, return_inverse=True)
    return (rank.reshape(label_map.shape) + int(ids[0] > 0)).astype(np.int32)


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
    found = check_label_map(label_map, str(path))
    fits = found.max() <= MOST_IN_PNG
    target, other = (path.with_name(path.name + suffix) for suffix in ((".png", ".tif") if fits else (".tif", ".png")))
    content = _encode_png(found.astype(np.uint16)) if fits else _encode_tiff(found)
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
    raise DataError(f"{folder} holds no label map of {name}: expected {name} with one of {', '.join(SUFFIXES)}.")


def map_files(folder: Path, names: Iterable[str]) -> list[Path]:
    """Return the file of each image's label map in `folder`, or a path where nothing is; the folder is read once."""
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return [folder / next((name + end for end in SUFFIXES if name + end in there), f"{name}.none") for name in names]


def _encode_png(label_map: np.ndarray) -> bytes:

    # label maps are flat: higher levels save little and cost several times the time
    done, content = cv2.imencode(".png", label_map, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise RuntimeError(f"OpenCV could not encode a label map of shape {label_map.shape} as PNG")
    return bytes(content)


def _encode_tiff(label_map: np.ndarray) -> bytes:

    stream, pixels = io.BytesIO(), label_map.astype(np.uint32)
    told = f"{CHECKSUM}{_checksum(pixels)}"
    tifffile.imwrite(stream, pixels, compression="zlib", photometric="minisblack", description=told, metadata=None)
    return stream.getvalue()


def _checksum(pixels: np.ndarray) -> str:
    """Return eight hex digits that tell a map from others: TIFF has no checksum of its own."""
    return f"{zlib.crc32(np.ascontiguousarray(pixels, np.uint32).data, zlib.crc32(str(pixels.shape).encode())):08x}"


def _read_png(path: Path) -> np.ndarray:

    with Image.open(path, formats=("PNG",)) as picture:  # whatever the name says: other forms may start programs
        _check_pixels(picture.size, path)
        if picture.mode not in ("P", "1", "L", "I", "I;16", "I;16B"):  # a palette picture's numbers are its ids
            raise DataError(
                f"{path} is a {picture.mode} picture, expected grey of 8 or 16 bits whose values are cell numbers."
            )
        check_png(path)
        return np.asarray(picture)


def _read_tiff(path: Path) -> np.ndarray:

    with tifffile.TiffFile(path) as file:
        _check_pixels(file.series[0].shape, path)
        pixels, told = np.asarray(file.series[0].asarray()), file.pages.first.description
    if told.startswith(CHECKSUM) and told != f"{CHECKSUM}{_checksum(pixels)}":
        raise DataError(f"{path} is damaged: its cells do not match their checksum. Make it again.")
    return pixels


def _read_npy(path: Path) -> np.ndarray:
    with path.open("rb") as stream:
        shape, _ = check_npy(stream, path.stat().st_size, path)
        _check_pixels(shape, path)
    return read_npy(path, "Make it again.")


def _read_npz(path: Path) -> np.ndarray:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) != 1:
            names = [member.filename.removesuffix(".npy") for member in members]
            raise DataError(f"{path} holds the arrays {some(names) or 'none'}, expected exactly one, the label map.")
        with archive.open(members[0]) as stream:
            shape, _ = check_npy(stream, members[0].file_size, path)
            _check_pixels(shape, path)
        return parse_npy(archive.read(members[0]), path)


def _check_pixels(shape: Sequence[int], path: Path) -> None:
    if math.prod(shape) > MOST_PIXELS:
        size = " x ".join(map(str, shape))
        raise DataError(f"{path} promises {size} values, more than {MOST_PIXELS} are refused: cut the image first.")
