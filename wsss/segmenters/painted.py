"""Masks of cells as somebody gave them, one by one, and the label map that they make."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from wsss.core import rle
from wsss.core.checks import DataError, some
from wsss.core.label_maps import MOST_PIXELS

MOST = 2**31 - 1
MOST_COVERED = 16
"""Times that the masks of an image may cover it, taken together."""


@dataclass(frozen=True)
class GivenMasks:
    """The cells of one image."""

    where: str
    """File and image, for messages."""
    size: tuple[int, int]
    """(H, W) of the masks."""
    ids: list[int]
    """The number of each cell, as it was given."""
    counts: list[bytes]
    """The mask of each cell as COCO counts."""


def paint(given: GivenMasks) -> np.ndarray:
    """Make a label map (H, W) int32; where masks overlap, the smaller cell lies on top.

    Raises:
        DataError: a number that is none or comes twice, or a mask that is broken or of another size.
    """
    check_ids(given.ids, given.where)
    if min(given.size) < 1 or given.size[0] * given.size[1] > MOST_PIXELS:
        size = f"{given.size[0]} x {given.size[1]}"
        raise DataError(f"{given.where} has masks of {size}, expected 1 to {MOST_PIXELS} pixels.")
    try:
        runs = [rle.check(counts, given.size) for counts in given.counts]
    except DataError as error:
        raise DataError(f"{given.where}: {error}") from None
    areas = np.array([run[1::2].sum() for run in runs], np.int64)
    check_covered(int(areas.sum()), given.size, given.where)
    flat = np.zeros(given.size[0] * given.size[1], np.int32)  # column after column
    for cell in np.argsort(-areas, kind="stable"):
        starts, lengths = np.cumsum(runs[cell])[0::2], runs[cell][1::2]
        starts = starts[: len(lengths)]
        first = np.cumsum(lengths) - lengths
        flat[np.repeat(starts - first, lengths) + np.arange(areas[cell])] = given.ids[cell]
    return np.ascontiguousarray(flat.reshape(given.size, order="F"))


def check_covered(pixels: int, size: tuple[int, int], where: str) -> None:
    """Refuse masks that cover their image over and over: painting them takes as long as that.

    Raises:
        DataError: they do.
    """
    if pixels > max(1 << 24, MOST_COVERED * size[0] * size[1]):
        raise DataError(
            f"{where}: the masks of its cells have {pixels} pixels in all, more than {MOST_COVERED} times the image of "
            f"{size[0]} x {size[1]}: they are no cells."
        )


def check_ids(ids: list[int], where: str) -> None:
    """Raise DataError unless `ids` are distinct whole numbers from 1 up that a label map can hold."""
    wrong = [k for k in ids if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= MOST]
    if wrong:
        raise DataError(f"{where}: a cell has the number {some(wrong)}, expected whole numbers from 1 to {MOST}.")
    if len(set(ids)) < len(ids):
        twice = sorted(k for k, count in Counter(ids).items() if count > 1)
        raise DataError(f"{where}: cell {some(twice)} comes twice.")
