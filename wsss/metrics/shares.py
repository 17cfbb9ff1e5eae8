"""Shares of cells per class in groups of images, with bootstrap intervals over images.

Cells of one image are not independent, so whole images are resampled: an interval is valid for further images of the
same condition. It does not cover differences between plates or days that coincide with conditions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVELS = (2.5, 97.5)
"""Percentiles of the resamples between which a 95 % interval lies."""
LEAST_IMAGES = 3
"""Images of a group, at least, for an interval: with fewer, the spread between images is unknown."""


@dataclass(frozen=True)
class GroupShares:
    """Shares of one group of images; intervals are NaN where it has fewer than LEAST_IMAGES images."""

    name: str
    images: int
    cells: int
    share: np.ndarray
    """(K,) float64 in [0, 1]."""
    low: np.ndarray
    """(K,)"""
    high: np.ndarray
    """(K,)"""
    resampled: np.ndarray
    """(rounds, K), shares of resampled images; no rows where there are too few."""


def group_shares(
    counted: np.ndarray, image: np.ndarray, group: np.ndarray, names: Sequence[str], rounds: int = 2000, seed: int = 0
) -> list[GroupShares]:
    """Return the shares of each group, in the order of `names`.

    Args:
        counted: (N, K) in [0, 1], how far each cell counts for each class.
        image: (N,) number of each cell's image.
        group: (N,) number of each cell's group, the same for all cells of an image.
        names: of the groups.
        rounds: resamples.
        seed: the same input and seed give the same intervals.
    """
    out = []
    for number, name in enumerate(names):
        inside = group == number
        _, place = np.unique(image[inside], return_inverse=True)
        count = int(place.max()) + 1 if len(place) else 0
        cells = np.bincount(place, minlength=count).astype(np.float64)
        hits = np.zeros((count, counted.shape[1]))
        np.add.at(hits, place, counted[inside])
        share = hits.sum(axis=0) / max(cells.sum(), 1)
        resampled = np.zeros((0, counted.shape[1]))
        low = high = np.full(counted.shape[1], np.nan)
        if count >= LEAST_IMAGES:
            rng = np.random.default_rng([seed, number])
            drawn = rng.multinomial(count, np.full(count, 1 / count), size=rounds)
            resampled = (drawn @ hits) / (drawn @ cells)[:, None]
            low, high = np.percentile(resampled, LEVELS, axis=0)
        out.append(GroupShares(name, count, int(inside.sum()), share, low, high, resampled))
    return out


def difference(group: GroupShares, reference: GroupShares) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return how much larger the shares of a group are than those of a reference: (K,) value, low and high."""
    value = group.share - reference.share
    if not len(group.resampled) or not len(reference.resampled):
        nothing = np.full(len(value), np.nan)
        return value, nothing, nothing
    low, high = np.percentile(group.resampled - reference.resampled, LEVELS, axis=0)
    return value, low, high
