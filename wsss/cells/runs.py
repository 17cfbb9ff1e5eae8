"""Cells as horizontal runs of pixels: areas, centres and boxes follow from them without a look at every pixel."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CellRuns:
    """The runs of all cells of a label map, from top to bottom and left to right."""

    ids: np.ndarray
    """(N,) int32, the cell ids in rising order; gaps are fine."""
    owner: np.ndarray
    """(R,) int64, the row 0..N-1 of the cell that each run belongs to."""
    rows: np.ndarray
    """(R,) int64, the line of the map."""
    starts: np.ndarray
    """(R,) int64, its first column."""
    stops: np.ndarray
    """(R,) int64, the column behind its last one."""

    def sums(self, weights: np.ndarray) -> np.ndarray:
        """Sum a weight of each run over the runs of each cell: (R,) -> (N,) float64."""
        return np.bincount(self.owner, weights, minlength=len(self.ids))

    def boxes(self) -> np.ndarray:
        """Return the box of each cell, (N, 4) int64: y0 x0 y1 x1, half-open."""
        order = np.argsort(self.owner, kind="stable")
        first = np.searchsorted(self.owner[order], np.arange(len(self.ids)))
        if not len(self.ids):
            return np.zeros((0, 4), np.int64)
        low = [np.minimum.reduceat(part[order], first) for part in (self.rows, self.starts)]
        high = [np.maximum.reduceat(part[order], first) for part in (self.rows + 1, self.stops)]
        return np.stack([*low, *high], axis=1)


def cell_runs(label_map: np.ndarray) -> CellRuns:
    """Find the runs of the cells.

    Args:
        label_map: (H, W) int, 0 background; ids may have gaps.

    Raises:
        ValueError: not two-dimensional whole numbers, or an id below 0.
    """
    if label_map.ndim != 2 or not np.issubdtype(label_map.dtype, np.integer):
        raise ValueError(f"the label map is {label_map.shape} {label_map.dtype}, expected (H, W) whole numbers.")
    begins = np.ones(label_map.shape, bool)
    np.not_equal(label_map[:, 1:], label_map[:, :-1], out=begins[:, 1:])
    starts = np.flatnonzero(begins)
    stops = np.append(starts[1:], label_map.size)
    labels = label_map.ravel()[starts]
    inside = labels != 0
    starts, stops, labels = starts[inside], stops[inside], labels[inside]
    if labels.size and labels.min() < 0:
        raise ValueError(f"the label map holds the id {labels.min()}, expected ids from 0 up.")
    ids, owner = np.unique(labels, return_inverse=True)
    rows, columns = np.divmod(starts, label_map.shape[1])
    return CellRuns(ids.astype(np.int32), owner, rows, columns, columns + stops - starts)


def cell_ids(label_map: np.ndarray) -> np.ndarray:
    """Return the ids of the cells of a label map (H, W), (N,) int32, rising."""
    return cell_runs(label_map).ids


def visible_share(label_map: np.ndarray, content: tuple[int, int] | None = None) -> np.ndarray:
    """Estimate how much of each cell the image shows: 1 for whole cells, area / median whole area at the border.

    Args:
        label_map: (H, W) int, 0 background.
        content: (height, width) of the image inside a padded square; None if it fills it.

    Returns:
        (N,) float32 in (0, 1], in the order of sorted ids. Without any whole cell all are 1.
    """
    height, width = content or label_map.shape
    inner = label_map[:height, :width]
    cells = cell_runs(label_map)
    sizes = cells.sums(cells.stops - cells.starts)
    edges = np.unique(np.concatenate([inner[0], inner[-1], inner[:, 0], inner[:, -1]]))
    cut = np.isin(cells.ids, edges)
    if cut.all():
        return np.ones(len(cells.ids), np.float32)
    share = np.minimum(1, sizes / np.median(sizes[~cut]))
    return np.where(cut, share, 1).astype(np.float32)
