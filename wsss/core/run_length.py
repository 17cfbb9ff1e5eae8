"""Masks as Kaggle's run-length text: 'start length start length ...', starts counted from 1.

Pixels are counted down the columns (Kaggle's rule) or along the rows. An empty mask is an empty text. The COCO text of
cells is another thing, see `rle`.
"""

from collections.abc import Iterable
from typing import Literal

import numpy as np

from wsss.core.checks import DataError

Order = Literal["columns", "rows"]


def encode(mask: np.ndarray, order: Order = "columns") -> str:
    """Return the text of a (H, W) mask; everything but 0 is inside."""
    return encode_parts([np.ravel(mask, order="F" if order == "columns" else "C")])


def encode_parts(parts: Iterable[np.ndarray]) -> str:
    """Return the text of a mask that comes as one-dimensional parts, one after another in the order of its pixels."""
    edges, seen, last = [], 0, False  # start, stop, start, stop, ...
    for part in parts:
        flat = part != 0
        edges.append(seen + np.flatnonzero(np.diff(flat, prepend=last)))
        seen, last = seen + len(flat), bool(flat[-1]) if len(flat) else last
    ends = np.concatenate([*edges, np.array([seen] * last, np.int64)]).astype(np.int64)
    starts, stops = ends[::2], ends[1::2]
    runs = np.stack([starts + 1, stops - starts], axis=1)
    return " ".join(map(str, runs.ravel().tolist()))


def decode(
    text: str, size: tuple[int, int], order: Order = "columns", where: str = "the run-length text"
) -> np.ndarray:
    """Return the (H, W) bool mask of a text, see `parse`, with its pixels counted in `order`."""
    starts, stops = parse(text, size, where)
    flat = np.zeros(size[0] * size[1] + 1, np.int8)
    np.add.at(flat, starts, 1)
    np.add.at(flat, stops, -1)
    return np.cumsum(flat[:-1], dtype=np.int8).astype(bool).reshape(size, order="F" if order == "columns" else "C")


def parse(text: str, size: tuple[int, int], where: str = "the run-length text") -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels (n,) where the runs of a text begin, and those (n,) behind their ends, both from 0.

    Args:
        text: pairs of start and length; empty for an empty mask.
        size: (H, W).
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
    return starts, stops


def _odd_word(words: list[str]) -> str:
    return next(word for word in words if not (word.isascii() and word.isdigit() and len(word) < 16))[:20]
