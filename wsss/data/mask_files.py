"""Reading pictures, masks and tables of mask sets, with every fault said in one line."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from wsss.core.checks import DataError, some
from wsss.core.csv_text import read_text
from wsss.core.rasters import open_raster

FULL = (1, 255, 65535)
"""Values that stand for the object in a mask; one of them, beside 0."""


def read_picture(path: Path, channels: int) -> np.ndarray:
    """Read a picture of 8 bits as (channels, H, W) uint8, grey (1) or colour (3); transparency is dropped.

    Raises:
        DataError: it cannot be read, or has more than 8 bits, or other channels than grey or RGB.
    """
    with open_raster(path, where=str(path)) as raster:
        pixels, header = raster.shown(), raster.header
    if pixels.dtype != np.uint8 or header.photometric or header.samples not in (1, 3):
        kind = header.photometric or f"{header.samples} x {header.dtype}"
        raise DataError(f"{path} is a picture of kind {kind}, expected 8 bits grey or colour: convert it.")
    pixels = pixels[..., : 3 if raster.colours is not None else header.samples]
    if pixels.shape[-1] == channels:
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))
    if channels == 3:
        return np.ascontiguousarray(np.repeat(pixels.transpose(2, 0, 1), 3, axis=0))
    return np.array(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))[None]


def read_mask(path: Path, size: tuple[int, int], image: Path) -> np.ndarray:
    """Read a mask as (H, W) bool: 0 and one of 1, 255 and 65535, of any type; an empty or a full one is a mask too.

    Args:
        path: the picture.
        size: (H, W) that it must have.
        image: the picture it belongs to, for messages.

    Raises:
        DataError: it cannot be read, has another size or other values.
    """
    with open_raster(path, where=str(path)) as raster:
        header = raster.header
        if header.samples != 1:
            raise DataError(f"{path} is a picture of {header.samples} channels, expected a grey one of 0 and 255.")
        values = _mask_values(raster.numbers()[..., 0], raster.colours)
    if values.shape != size:
        raise DataError(
            f"{path} is {values.shape[0]} x {values.shape[1]}, its image {image} is {size[0]} x {size[1]}: "
            "image and mask must match."
        )
    present = np.unique(values)
    if not any(set(present.tolist()) <= {0, full} for full in FULL):
        raise DataError(
            f"{path} holds the values {some(present)}, expected 0 and one of 1, 255 and 65535: save it as such a mask."
        )
    return np.asarray(values > 0)


def _mask_values(numbers: np.ndarray, colours: np.ndarray | None) -> np.ndarray:
    """Return (H, W) numbers, of a palette the greys that it stands for; its places where it holds other colours."""
    if colours is None:
        return numbers
    used = np.unique(numbers)
    table = colours[np.minimum(used, len(colours) - 1)]
    return colours[np.minimum(numbers, len(colours) - 1), 0] if (table == table[:, :1]).all() else numbers


def read_text_table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Read a table with these columns as text, nothing turned into numbers or NaN.

    Raises:
        DataError: it cannot be read, lacks a column, or names an ID twice.
    """
    table = read_text(path, columns)
    twice = table[columns[0]][table[columns[0]].duplicated()]
    if len(twice):
        raise DataError(f"{path} names {some(twice.unique())} more than once.")
    return table
