"""Which cells are worth looking at: the most confident, doubtful and wrong ones, and oddities of segmentation."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

PER_IMAGE = 3
"""Cells that one image may add to a group, so that one bad field does not fill it."""
TINY, HUGE = 0.2, 3.0
"""Areas below and above these multiples of the image's median area are odd."""
LEAST_CELLS = 4
"""An image's median area means something from this many cells on."""


@dataclass(frozen=True)
class NotableCells:
    """Cells of one kind, the most striking first."""

    key: str
    title: str
    about: str
    """How they were chosen."""
    rows: list[int]
    """Their rows in the table of cells."""
    count: int | None = None
    """How many such cells there are, where that can be counted."""


def spread(order: np.ndarray, images: np.ndarray, most: int) -> list[int]:
    """Take the first `most` rows of `order`, at most PER_IMAGE of one image.

    Args:
        order: rows of cells, the wanted ones first.
        images: (N,) the image of every cell.
    """
    rank = pd.Series(images[order]).groupby(images[order]).cumcount().to_numpy()
    return [int(row) for row in order[rank < PER_IMAGE][:most]]


def doubt(scores: np.ndarray) -> np.ndarray:
    """Return (N,) the mean entropy in bits of the (N, K) scores, each taken as a yes or no."""
    p = np.clip(np.asarray(scores, np.float64), 1e-9, 1 - 1e-9)
    return np.asarray(-(p * np.log2(p) + (1 - p) * np.log2(1 - p)).mean(axis=1))


def surprise(truth: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return (N,) the mean cross-entropy in bits of (N, K) scores; NaN where a cell's truth is NaN."""
    p = np.clip(np.asarray(scores, np.float64), 1e-6, 1 - 1e-6)
    return np.asarray(-(truth * np.log2(p) + (1 - truth) * np.log2(1 - p)).mean(axis=1))


def notable_by_score(
    images: np.ndarray, scores: np.ndarray, truth: np.ndarray | None, negative: int | None, most: int
) -> list[NotableCells]:
    """Choose cells by their scores.

    Args:
        images: (N,) the image of each cell.
        scores: (N, K) in [0, 1].
        truth: (N, K) of 0/1, rows of NaN for cells whose truth is not known; or None.
        negative: class id of 'no specific signal', or None.
        most: cells a group.
    """
    top = scores.argmax(axis=1)
    shows_class = np.flatnonzero(top != negative) if negative is not None else np.arange(len(scores))
    order = shows_class[np.argsort(-scores[shows_class].max(axis=1), kind="stable")]
    groups = [
        NotableCells(
            "confident", "Most confident", "Highest top score; Negative left out.", spread(order, images, most)
        )
    ]
    order = np.argsort(-doubt(scores), kind="stable")
    about = "Highest entropy of the scores: many classes are neither ruled out nor certain."
    groups.append(NotableCells("doubtful", "Most doubtful", about, spread(order, images, most)))
    if truth is not None:
        wrong = np.nan_to_num(surprise(truth, scores), nan=-1.0)
        order = np.argsort(-wrong, kind="stable")
        order = order[wrong[order] >= 0]
        about = "Highest cross-entropy between scores and true classes."
        groups.append(NotableCells("wrong", "Most wrong", about, spread(order, images, most)))
    if negative is not None:
        order = np.argsort(-scores[:, negative], kind="stable")
        count = int((top == negative).sum())
        about = "Highest score of the class Negative; the number counts cells whose top class it is."
        groups.append(NotableCells("negative", "Negative cells", about, spread(order, images, most), count))
    return groups


def notable_by_shape(cells: pd.DataFrame, most: int) -> list[NotableCells]:
    """Choose cells that the segmentation may have got wrong: tiny, huge, cut by the image's border.

    Args:
        cells: ID, area_px, touches_border.
        most: cells a group.
    """
    images = cells.ID.to_numpy(object)
    group = cells.groupby("ID").area_px
    few = (group.transform("size") < LEAST_CELLS).to_numpy()
    ratio = np.where(few, 1.0, cells.area_px / group.transform("median"))
    border = cells.touches_border.to_numpy(bool)
    order = np.argsort(ratio, kind="stable")
    falling = order[::-1]
    kinds = (
        ("tiny", "Tiny", f"Less than {TINY:g} of the median area of their image.", order[ratio[order] < TINY]),
        (
            "huge",
            "Huge",
            f"More than {HUGE:g} times the median area of their image.",
            falling[ratio[falling] > HUGE],
        ),
        ("border", "Cut by the border", "They touch the image's edge; the smallest first.", order[border[order]]),
    )
    return [NotableCells(key, title, about, spread(rows, images, most), len(rows)) for key, title, about, rows in kinds]
