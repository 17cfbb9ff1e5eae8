"""Reading pictures, masks and tables of mask sets, with every fault said in one line."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError

from wsss.core.checks import DataError, some
from wsss.core.csv_text import read_text

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
EIGHT_BIT = ("1", "L", "LA", "P", "RGB", "RGBA")


def read_picture(path: Path, channels: int) -> np.ndarray:
    """Read a picture of 8 bits as (channels, H, W) uint8, grey (1) or colour (3); transparency is dropped.

    Raises:
        DataError: it cannot be read, or has more than 8 bits.
    """
    with _opened(path) as picture:
        if picture.mode not in EIGHT_BIT:
            raise DataError(f"{path} is a picture of kind {picture.mode}, expected 8 bits grey or colour: convert it.")
        found = np.array(picture.convert("L" if channels == 1 else "RGB"))
    return found[None] if channels == 1 else np.ascontiguousarray(found.transpose(2, 0, 1))


def read_mask(path: Path, size: tuple[int, int], image: Path) -> np.ndarray:
    """Read a mask of 0 and 255 as (H, W) bool.

    Args:
        path: the picture.
        size: (H, W) that it must have.
        image: the picture it belongs to, for messages.

    Raises:
        DataError: it cannot be read, has another size or other values.
    """
    with _opened(path) as picture:
        if picture.mode not in ("1", "L", "P"):
            raise DataError(f"{path} is a picture of kind {picture.mode}, expected a grey one of 0 and 255.")
        found = np.asarray(picture.convert("L") if picture.mode != "1" else picture).astype(np.uint8)
        found = found * 255 if picture.mode == "1" else found
    if found.shape != size:
        raise DataError(
            f"{path} is {found.shape[0]} x {found.shape[1]}, its image {image} is {size[0]} x {size[1]}: "
            "image and mask must match."
        )
    values = np.flatnonzero(np.bincount(found.ravel(), minlength=256))
    if not set(values.tolist()) <= {0, 255}:
        raise DataError(f"{path} holds the values {some(values)}, expected 0 and 255 alone: save it as such a mask.")
    return found > 0


def read_text_table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Read a CSV with these columns as text, nothing turned into numbers or NaN.

    Raises:
        DataError: it cannot be read, lacks a column, or names an ID twice.
    """
    table = read_text(path, columns)
    twice = table[columns[0]][table[columns[0]].duplicated()]
    if len(twice):
        raise DataError(f"{path} names {some(twice.unique())} more than once.")
    return table


def _opened(path: Path) -> Image.Image:
    try:
        picture = Image.open(path)
        picture.load()
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a picture ({' '.join(str(error).split())}).") from error
    return picture
