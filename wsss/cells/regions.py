"""Cells as runs and groups of pixels: measured, and with the statistics of a map over all of them, in one pass.

Of each cell of a label map: place, size, pieces, nuclei, and how much of it the image shows. Lengths and positions are
in pixels of the original image where a `Geometry` is given, else in pixels of the map.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import pandas as pd
from skimage.measure import label

from wsss.core.label_maps import Geometry
from wsss.options.scoring import ScoreConfig

GEOMETRY_COLUMNS = ("center_y", "center_x", "y0", "x0", "y1", "x1", "area_px", "touches_border")

Rule = Callable[[np.ndarray], np.ndarray]
"""From the values (P,) of the cells' pixels, in the order of CellPixels.order, to one value a cell (N,)."""


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
    return shown_share(sizes, cut).astype(np.float32)


def shown_share(areas: np.ndarray, cut: np.ndarray) -> np.ndarray:
    """Estimate how much of each cell the image shows: 1 for whole cells, area / median whole area for cut ones.

    Args:
        areas: (N,), of what is shown.
        cut: (N,) bool, whether the border cuts the cell; without any whole cell all shares are 1.

    Returns:
        (N,) float64 in (0, 1].
    """
    if cut.all():
        return np.ones(len(areas))
    return np.where(cut, np.minimum(1, areas / np.median(areas[~cut])), 1)


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


def _one_by_one(cells: CellPixels, one: Callable[[np.ndarray], float]) -> Rule:
    bounds = list(zip(cells.starts, cells.starts + cells.sizes, strict=True))
    return lambda values: np.array([one(values[a:b]) for a, b in bounds])


def row_quantile(values: np.ndarray, quantile: float) -> float:
    """Quantile of (P,) values, linear between neighbours as np.quantile."""
    place = quantile * (len(values) - 1)
    low = int(place)
    high = min(low + 1, len(values) - 1)
    two = np.partition(values, (low, high))[[low, high]].astype(np.float64)
    return float(two[0] + (two[1] - two[0]) * (place - low))


def row_top_mean(values: np.ndarray, share: float) -> float:
    """Mean of the highest `share` of (P,) values, at least one."""
    count = max(1, int(np.ceil(share * len(values) - 1e-9)))
    return float(np.partition(values, len(values) - count)[-count:].mean(dtype=np.float64))


def region_rule(cells: CellPixels, config: ScoreConfig) -> Rule:
    """Prepare the rule `config.region` for the cells of one image."""
    match config.region:
        case "quantile":
            return _one_by_one(cells, partial(row_quantile, quantile=config.quantile))
        case "topk":
            return _one_by_one(cells, partial(row_top_mean, share=config.top_share))
        case "max":
            return partial(cell_maxima, cells=cells)
        case _:  # lse and logit are means of raised maps
            return partial(cell_means, cells=cells)


def image_rule(config: ScoreConfig) -> Callable[[np.ndarray], float]:
    """Prepare the rule `config.region` for all pixels of an image: (P,) -> float."""
    match config.region:
        case "quantile":
            return partial(row_quantile, quantile=config.quantile)
        case "topk":
            return partial(row_top_mean, share=config.top_share)
        case "max":
            return lambda values: float(values.max())
        case _:
            return lambda values: float(values.mean())


@dataclass(frozen=True)
class _Axis:
    """How one axis of the map lies on the original image."""

    counts: np.ndarray
    """(n,) original pixels under each pixel of the map; 0 in the padding."""
    centres: np.ndarray
    """(n,) mean index of those pixels."""
    first: np.ndarray
    """(n + 1,) index of the first original pixel at or after each edge between pixels of the map."""
    content: int
    """Pixels of the map that show the image."""


def measure_cells(label_map: np.ndarray, *, geometry: Geometry | None = None) -> pd.DataFrame:
    """Return `cell_id`, centre, box, area and contact with the border of every cell: GEOMETRY_COLUMNS.

    Args:
        label_map: (H, W) int, 0 background, ids with or without gaps; at original or stored size.
        geometry: how the map lies on the original image; None if it is the original image.

    Raises:
        ValueError: the map has neither of these sizes.
    """
    cells, (vertical, horizontal) = cell_runs(label_map), _axes(label_map.shape, geometry)
    table = pd.DataFrame({"cell_id": cells.ids})
    heights, widths = vertical.counts[cells.rows], _between(horizontal.counts, cells)
    areas = cells.sums(heights * widths)
    # a cell thinner than one original pixel has no weight: every pixel counts the same then
    lost = (areas == 0)[cells.owner]
    heights, widths = np.where(lost, 1, heights), np.where(lost, cells.stops - cells.starts, widths)
    across = np.where(
        lost, _between(horizontal.centres, cells), _between(horizontal.counts * horizontal.centres, cells)
    )
    total = cells.sums(heights * widths)
    table["center_y"] = cells.sums(heights * widths * vertical.centres[cells.rows]) / total
    table["center_x"] = cells.sums(heights * across) / total
    y0, x0, y1, x1 = cells.boxes().T
    for low, high, axis, names in ((y0, y1, vertical, ("y0", "y1")), (x0, x1, horizontal, ("x0", "x1"))):
        start = np.minimum(axis.first[low], axis.first[-1] - 1)
        table[names[0]], table[names[1]] = start, np.maximum(axis.first[high], start + 1)
    table["area_px"] = np.maximum(areas, 1).astype(np.int64)
    touches = (y0 == 0) | (x0 == 0) | (y1 >= vertical.content) | (x1 >= horizontal.content)
    table["touches_border"] = touches
    return table[["cell_id", *GEOMETRY_COLUMNS]]


def _axes(shape: tuple[int, ...], geometry: Geometry | None) -> tuple[_Axis, _Axis]:
    if geometry is None or shape == (geometry.height, geometry.width):
        return _axis(shape[0], shape[0], shape[0]), _axis(shape[1], shape[1], shape[1])
    if shape != (geometry.size, geometry.size):
        raise ValueError(
            f"the label map is {shape}, expected the original {(geometry.height, geometry.width)} "
            f"or the stored {(geometry.size, geometry.size)}."
        )
    return (
        _axis(geometry.size, geometry.content_height, geometry.height),
        _axis(geometry.size, geometry.content_width, geometry.width),
    )


def _axis(length: int, content: int, original: int) -> _Axis:
    """Place `content` of `length` map pixels on `original` ones, as `Geometry.labels_to_native` does."""
    source = np.minimum(((np.arange(original) + 0.5) * content / original).astype(np.intp), content - 1)
    counts = np.bincount(source, minlength=length)
    middle = (np.arange(length) + 0.5) * original / content - 0.5
    sums = np.bincount(source, weights=np.arange(original), minlength=length)
    centres = np.where(counts > 0, sums / np.maximum(counts, 1), middle)
    return _Axis(counts, centres, np.searchsorted(source, np.arange(length + 1)), content)


def _between(values: np.ndarray, cells: CellRuns) -> np.ndarray:
    """Sum the values (n,) of the columns of each run: (R,)."""
    sums = np.concatenate(([0], np.cumsum(values)))
    return np.asarray(sums[cells.stops] - sums[cells.starts])


def describe_cells(
    label_map: np.ndarray, nuclei: np.ndarray | None = None, *, geometry: Geometry | None = None
) -> pd.DataFrame:
    """Return `measure_cells` and `pieces` of every cell, its connected parts; with nuclei `n_nuclei` too.

    Args:
        label_map: (H, W) int, 0 background, ids with or without gaps; at original or stored size.
        nuclei: (H, W) int label map of nuclei, with the cells' ids or its own. Each counts for the cell that holds most
            of it; those that share an id but do not touch count one by one.
        geometry: how the map lies on the original image; None if it is the original image.

    Raises:
        ValueError: the maps differ in size, or `label_map` is none.
    """
    table = measure_cells(label_map, geometry=geometry)
    ids = table["cell_id"].to_numpy()
    table["pieces"] = _pieces(label_map, ids)
    if nuclei is not None:
        if nuclei.shape != label_map.shape:
            raise ValueError(f"nuclei is {nuclei.shape}, the label map {label_map.shape}: they must match.")
        table["n_nuclei"] = _nuclei_of(label_map, nuclei, ids)
    return table


def _pieces(label_map: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return the number of 8-connected parts of every cell."""
    parts, count = label(label_map, background=0, connectivity=2, return_num=True)
    owners = np.zeros(count + 1, label_map.dtype)
    owners[parts] = label_map  # the pixels of a part are all of one cell
    return np.bincount(np.searchsorted(ids, owners[1:]), minlength=len(ids))


def _nuclei_of(label_map: np.ndarray, nuclei: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return how many nuclei every cell has, (N,) int64."""
    both = (label_map > 0) & (nuclei > 0)
    parts = label(nuclei, background=0, connectivity=2)
    overlap = pd.DataFrame({"cell": label_map[both], "part": parts[both]})
    pixels = overlap.groupby(["part", "cell"]).size().rename("pixels").reset_index()
    owner = pixels.sort_values(["pixels", "cell"], ascending=[False, True]).drop_duplicates("part").cell
    return owner.value_counts().reindex(ids, fill_value=0).to_numpy()
