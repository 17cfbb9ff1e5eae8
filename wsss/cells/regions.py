"""Statistics of a map over the cells of a label map, for all cells at once: the cost is that of the pixels."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from wsss.cells.runs import cell_runs

FEW = 1 / 8
"""Up to this share of the pixels, the highest ones are found through QuantilePlan; above it, cell by cell."""

SAFE_EXPONENT = 80.0
"""exp of it fits into a float32."""
BINS = 512
"""Steps in which top_mean_rule counts the values of a cell."""

Rule = Callable[[np.ndarray], np.ndarray]
"""From the values (P,) of the cells' pixels, in the order of CellPixels.order, to one value a cell (N,)."""


@dataclass(frozen=True)
class CellPixels:
    """The pixels of a label map, grouped by cell."""

    ids: np.ndarray
    """(N,) int32, the cell ids in rising order; gaps are fine."""
    order: np.ndarray
    """(P,) int64, flat indices of all cell pixels, cell after cell."""
    sizes: np.ndarray
    """(N,) int64, pixels of each cell, at least 1."""

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def starts(self) -> np.ndarray:
        """(N,) int64, where each cell begins in `order`."""
        return np.cumsum(self.sizes) - self.sizes

    @cached_property
    def owner(self) -> np.ndarray:
        """(P,) int64, the row 0..N-1 of the cell that each pixel of `order` belongs to."""
        return np.repeat(np.arange(len(self.ids)), self.sizes)


def group_pixels(label_map: np.ndarray) -> CellPixels:
    """Group the pixels of a label map by cell.

    Args:
        label_map: (H, W) int, 0 background; ids may have gaps.

    Raises:
        ValueError: not two-dimensional whole numbers, or an id below 0.
    """
    runs = cell_runs(label_map)
    by_cell = np.argsort(runs.owner, kind="stable")
    begins = (runs.rows * label_map.shape[1] + runs.starts)[by_cell]
    lengths = (runs.stops - runs.starts)[by_cell]
    ends = np.cumsum(lengths)
    pixels = np.repeat(begins - ends + lengths, lengths) + np.arange(lengths.sum())  # cell after cell, line after line
    sizes = runs.sums(runs.stops - runs.starts).astype(np.int64)
    return CellPixels(runs.ids, pixels, sizes)


def spread(cells: CellPixels) -> CellPixels:
    """Order the pixels of each cell in steps of about the golden ratio of its size.

    Every stretch of such a walk through a cell is an even sample of it, which makes high quantiles quick to find.
    """
    sizes = cells.sizes
    steps = (sizes * ((5**0.5 - 1) / 2)).astype(np.int64) | 1
    while (shared := np.gcd(steps, sizes) > 1).any():
        steps[shared] += 2
    size, step, start = (np.repeat(part, sizes) for part in (sizes, steps, cells.starts))
    return CellPixels(cells.ids, cells.order[start + (np.arange(len(start)) - start) * step % size], sizes)


def subset(cells: CellPixels, inside: np.ndarray) -> tuple[CellPixels, np.ndarray]:
    """Keep the pixels where `inside` (P,) is true.

    Returns:
        The cells that keep at least one pixel, and their rows among `cells` (M,).
    """
    sizes = np.bincount(cells.owner[inside], minlength=len(cells))
    rows = np.flatnonzero(sizes)
    return CellPixels(cells.ids[rows], cells.order[inside], sizes[rows]), rows


def cell_means(values: np.ndarray, cells: CellPixels) -> np.ndarray:
    """Mean of each cell: (P,) values in the order of `cells.order` -> (N,) float64."""
    if len(cells) == 0:
        return np.zeros(0)
    return np.add.reduceat(values, cells.starts, dtype=np.float64) / cells.sizes


def cell_maxima(values: np.ndarray, cells: CellPixels) -> np.ndarray:
    """Maximum of each cell: (P,) -> (N,)."""
    return np.maximum.reduceat(values, cells.starts) if len(cells) else values[:0]


def cell_lse(values: np.ndarray, cells: CellPixels, sharpness: float) -> np.ndarray:
    """log(mean(exp(sharpness * value))) / sharpness of each cell: (P,) in [0, 1] -> (N,) float64."""
    if sharpness <= SAFE_EXPONENT:
        return np.log(cell_means(np.exp(np.float32(sharpness) * values), cells)) / sharpness
    peaks = cell_maxima(values, cells)  # relative to the cell's maximum nothing overflows
    raised = np.exp(np.float32(sharpness) * (values - np.repeat(peaks, cells.sizes)))
    return peaks + np.log(cell_means(raised, cells)) / sharpness


@dataclass(frozen=True)
class QuantilePlan:
    """What a high quantile of the cells needs, made once for all maps of an image.

    The quantile is the `counts`-th highest value of a cell. Deal the cell's pixels into that many groups: as many
    values reach the lowest of the groups' maxima, so this floor is at most the wanted value. In cells whose pixels are
    `spread` each group samples the whole cell, so the floor is close, and few values are left to look at.
    """

    cells: CellPixels
    counts: np.ndarray
    """(N,) int64, from 1 to the size of the cell."""
    groups: np.ndarray
    """(sum of counts,) int64, where each group begins in `cells.order`."""

    @classmethod
    def make(cls, cells: CellPixels, counts: np.ndarray) -> "QuantilePlan":
        """Deal the pixels of each cell into `counts` groups."""
        number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        sizes, many = np.repeat(cells.sizes, counts), np.repeat(counts, counts)
        return cls(cells, counts, np.repeat(cells.starts, counts) + number * sizes // many)

    def find(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the counts-th highest of each cell's values and the next higher one, (N,) float64 both."""
        counts = self.counts
        floor = np.minimum.reduceat(np.maximum.reduceat(values, self.groups), np.cumsum(counts) - counts)
        above = np.flatnonzero(values > np.repeat(floor, self.cells.sizes))
        owner = self.cells.owner[above]
        kept = np.bincount(owner, minlength=len(counts))
        ranks = counts, np.maximum(counts - 1, 1)
        places = [np.where(rank <= kept, np.cumsum(kept) - rank, -1) for rank in ranks]
        # values lie in [0, 1]: twice the row sets the cells apart, and one sort serves them all
        keys = np.append(np.sort(values[above] + 2.0 * owner) - 2.0 * owner, 0)
        # a rank beyond the values above the floor is one of those equal to it
        lowest, higher = (np.where(place >= 0, keys[place], floor) for place in places)
        return lowest, higher


def quantile_rule(cells: CellPixels, quantile: float) -> Rule:
    """Prepare the quantile of each cell, linear between neighbours as np.quantile: (P,) in [0, 1] -> (N,) float64."""
    place = quantile * (cells.sizes - 1)
    low = place.astype(np.int64)
    share = place - low
    if len(cells) == 0 or (cells.sizes - low).sum() > FEW * len(cells.order):
        each = list(zip(cells.starts, cells.starts + cells.sizes, low, share, strict=True))
        return lambda values: np.array([_interpolated(values[a:b], k, w) for a, b, k, w in each])
    plan = QuantilePlan.make(cells, cells.sizes - low)

    def rule(values: np.ndarray) -> np.ndarray:
        lowest, higher = plan.find(values)
        return lowest + (higher - lowest) * share

    return rule


def top_mean_rule(cells: CellPixels, share: float) -> Rule:
    """Prepare the mean of the highest `share` of each cell's pixels, at least one: (P,) in [0, 1] -> (N,) float64."""
    counts = np.maximum(1, np.ceil(share * cells.sizes - 1e-9)).astype(np.int64)
    number, first = len(cells), cells.owner * BINS

    def rule(values: np.ndarray) -> np.ndarray:
        bins = (values * (BINS - 1)).astype(np.int16)
        histogram = np.bincount(first + bins, minlength=number * BINS).reshape(number, BINS)
        reached = histogram[:, ::-1].cumsum(axis=1)[:, ::-1]  # values in this bin or a higher one
        edge = (reached >= counts[:, None]).sum(axis=1) - 1  # the bin of the lowest value that counts
        edges = np.repeat(edge.astype(np.int16), cells.sizes)
        sums = cell_means(values * (bins > edges), cells) * cells.sizes
        beside = np.flatnonzero(bins == edges)
        owner = cells.owner[beside]
        inside = histogram[np.arange(number), edge]
        missing = counts - reached[np.arange(number), edge] + inside  # 1 to `inside` values of that bin
        ranked = np.sort(values[beside] + 2.0 * owner) - 2.0 * owner  # as in QuantilePlan, rising within each cell
        counted = np.arange(len(ranked)) >= np.repeat(np.cumsum(inside) - missing, inside)
        return (sums + np.bincount(owner, ranked * counted, minlength=number)) / counts

    return rule


def _interpolated(values: np.ndarray, low: int, share: float) -> float:
    high = min(low + 1, len(values) - 1)
    two = np.partition(values, (low, high))[[low, high]].astype(np.float64)
    return float(two[0] + (two[1] - two[0]) * share)


def row_quantile(values: np.ndarray, quantile: float) -> float:
    """Quantile of (P,) values, equal to np.quantile; quick where it is high and the values come from a smooth map."""
    place = quantile * (len(values) - 1)
    count = len(values) - int(place)
    if count > FEW * len(values):
        return float(np.quantile(values, quantile))
    # the same floor as in QuantilePlan, the groups being the columns of a table that is `count` wide
    floor = values[: len(values) // count * count].reshape(-1, count).max(axis=0).min()
    kept = values[values > floor]
    if len(kept) < count:
        kept = np.concatenate([np.full(count - len(kept), floor, values.dtype), kept])
    return _interpolated(kept, len(kept) - count, place - int(place))
