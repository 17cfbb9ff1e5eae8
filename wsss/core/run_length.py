"""Masks as Kaggle's run-length text: 'start length start length ...', starts counted from 1.

Pixels are counted down the columns (Kaggle's rule) or along the rows. An empty mask is an empty text. The COCO text of
cells is another thing, see `rle`.
"""

from typing import Literal

import numpy as np

from wsss.core.checks import DataError

Order = Literal["columns", "rows"]


def encode(mask: np.ndarray, order: Order = "columns") -> str:
    """Return the text of a (H, W) mask; everything but 0 is inside."""
    flat = np.ravel(mask != 0, order="F" if order == "columns" else "C")
    edges = np.flatnonzero(np.diff(flat, prepend=False, append=False))  # start, stop, start, stop, ...
    starts, stops = edges[::2], edges[1::2]
    runs = np.stack([starts + 1, stops - starts], axis=1)
    return " ".join(map(str, runs.ravel().tolist()))


def decode(
    text: str, size: tuple[int, int], order: Order = "columns", where: str = "the run-length text"
) -> np.ndarray:
    """Return the (H, W) bool mask of a text.

    Args:
        text: pairs of start and length; empty for an empty mask.
        size: (H, W).
        order: which way pixels are counted.
        where: what the text belongs to, for messages.

    Raises:
        DataError: no whole numbers, an odd count, runs that overlap or leave the image; nothing is guessed.
    """
    words = text.split()
    if not all(word.isascii() and word.isdigit() and len(word) < 16 for word in words):
        raise DataError(f"{where} holds '{_odd_word(words)}', expected whole numbers: start and length of each run.")
    if len(words) % 2:
        raise DataError(f"{where} has {len(words)} numbers, expected pairs of start and length: it is cut short.")
    numbers = np.array(words, np.int64).reshape(-1, 2)
    starts, stops = numbers[:, 0] - 1, numbers[:, 0] - 1 + numbers[:, 1]
    pixels = size[0] * size[1]
    if len(numbers) and (starts.min() < 0 or numbers[:, 1].min() < 1):
        raise DataError(f"{where} has a start or length of 0, expected both from 1 on.")
    if len(numbers) and stops.max() > pixels:
        raise DataError(
            f"{where} runs to pixel {stops.max()}, but the image of {size[0]} x {size[1]} has {pixels}: "
            "check that mask and image belong together."
        )
    if (starts[1:] < stops[:-1]).any():
        raise DataError(f"{where} has runs that overlap or do not rise: it is damaged, or of another order.")
    flat = np.zeros(pixels + 1, np.int8)
    np.add.at(flat, starts, 1)
    np.add.at(flat, stops, -1)
    return np.cumsum(flat[:-1], dtype=np.int8).astype(bool).reshape(size, order="F" if order == "columns" else "C")


def _odd_word(words: list[str]) -> str:
    return next(word for word in words if not (word.isascii() and word.isdigit() and len(word) < 16))[:20]
