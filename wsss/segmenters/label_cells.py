"""From probability maps of nuclei and cells to label maps with shared ids: full-size outlines at a reduced price.

What decides how many cells there are (seeds) and where they end (thresholds) is done on every pixel, by operations
that cost a few milliseconds; what decides who owns which side of a touching border (watersheds) is done on a map of a
quarter of the resolution, and where cells are small once more along these borders at twice that. Constants are those
of hpacellseg's label_cell, which were made for fields of 2048 x 2048 pixels; here they are scaled to the maps at hand.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from skimage.segmentation import watershed

from wsss.cells.morphology import drop_small, fill_cells, fill_holes, renumber
from wsss.core.checks import DataError

REFERENCE_EDGE = 2048
"""Edge of the fields, in pixels, for which the areas and the radius below are meant."""

SEED_LEVEL, NUCLEUS_LEVEL, BORDER_LEVEL, CELL_LEVEL = 0.15, 0.4, 0.05, 0.22
SEED_AREA, NUCLEUS_HOLE, NUCLEUS_AREA, CELL_AREA, CLOSING_RADIUS = 500, 1000, 2500, 5500, 6
MOST_REDUCTION, LEAST_EDGE = 4.0, 512
"""The watersheds run on maps reduced by this factor, but not to a longer edge below this."""
SMALL_CELL = 2500
"""Cells of fewer pixels than this (their mean, on the reduced map) have their touching borders drawn again, finer: a
border that is off by half a reduced pixel takes two per cent off the overlap of a cell of 600 such pixels."""


@dataclass(frozen=True)
class _Maps:
    """Border and body of nuclei or of cells, (H, W) uint8."""

    border: np.ndarray
    body: np.ndarray

    def shrunk(self, shape: tuple[int, int]) -> "_Maps":
        """Scale both to (width, height) `shape` by area averaging."""
        return _Maps(*(cv2.resize(m, shape, interpolation=cv2.INTER_AREA) for m in (self.border, self.body)))


def label_cells(nuclei: np.ndarray, cells: np.ndarray, *, scale: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Label nuclei and cells in the probability maps of a segmentation network.

    Args:
        nuclei: (H, W, 3) uint8, or float in [0, 1]: unused, border, body; as hpacellseg gives them. Any size.
        cells: the same for cells, of the same size.
        scale: pixels of the maps per pixel of the reference (a field photographed at 2048 x 2048); None takes the
            longer edge for that of a whole field.

    Returns:
        Nuclei and cells, (H, W) int32 with shared ids 1..N. A nucleus lies within its cell.

    Raises:
        DataError: a map has another shape, or values that are no probabilities.

    Source: hpacellseg's label_cell (section 5 of the method), without its limits on number, type and size.
    """
    nucleus, cell = _read(nuclei, "nuclei"), _read(cells, "cells")
    if nucleus.body.shape != cell.body.shape:
        raise DataError(f"the nuclei map is {nucleus.body.shape}, the cell map {cell.body.shape}: they must match.")
    height, width = cell.body.shape
    scale = max(height, width) / REFERENCE_EDGE if scale is None else scale
    step = min(MOST_REDUCTION, max(1.0, max(height, width) / LEAST_EDGE))
    shape = (max(1, round(width / step)), max(1, round(height / step)))
    seeds = _find_seeds(nucleus, SEED_AREA * (scale / step) ** 2, shape)
    level = _cell_level(cell.body)
    small_nucleus, small_cell = nucleus.shrunk(shape), cell.shrunk(shape)
    labels = _label_reduced(seeds, small_nucleus, small_cell, level, scale / step)
    nuclei_mask, small_nuclei_mask = (m.body > _byte(NUCLEUS_LEVEL) for m in (nucleus, small_nucleus))
    cells_mask, small_cells_mask = ((m.body > level) | (m.border > _byte(BORDER_LEVEL)) for m in (cell, small_cell))
    full_nuclei = _refine(labels[0], nuclei_mask, small_nuclei_mask)
    light = cell.body if _are_small(labels[1]) else None
    full_cells = _refine(labels[1], cells_mask, small_cells_mask, light)
    full_nuclei[full_nuclei != full_cells] = 0
    return full_nuclei.astype(np.int32), full_cells.astype(np.int32)


def _byte(probability: float) -> int:
    return round(255 * probability)


def _read(maps: np.ndarray, name: str) -> _Maps:
    """Take border and body out of (H, W, 3) maps as uint8."""
    if maps.ndim != 3 or maps.shape[2] != 3 or 0 in maps.shape:
        raise DataError(f"the {name} map is {maps.shape}, expected (H, W, 3): unused, border, body.")
    if maps.dtype == np.uint8:
        return _Maps(*(cv2.extractChannel(maps, k) for k in (1, 2)))
    if not np.issubdtype(maps.dtype, np.floating):
        raise DataError(f"the {name} map is {maps.dtype}, expected uint8, or float in [0, 1].")
    planes = [np.ascontiguousarray(maps[..., k], np.float32) for k in (1, 2)]
    low, high = min(float(p.min()) for p in planes), max(float(p.max()) for p in planes)
    if not (low >= 0 and high <= 1):  # NaN fails both
        raise DataError(f"the {name} map holds values from {low:g} to {high:g}, expected probabilities 0..1.")
    return _Maps(*(cv2.convertScaleAbs(p, alpha=255) for p in planes))


def _find_seeds(nucleus: _Maps, least: float, shape: tuple[int, int]) -> np.ndarray:
    """Label bodies away from borders at full size, scale to `shape` and drop the tiny ones: (h, w) int32.

    Reduced first, the thin borders between neighbours would blur away and the neighbours become one.
    """
    mask = (nucleus.body > _byte(SEED_LEVEL)) & (nucleus.border <= _byte(BORDER_LEVEL))
    _, parts = cv2.connectedComponents(mask.view(np.uint8), connectivity=4)
    rows, columns = _nearest(shape[1], parts.shape[0]), _nearest(shape[0], parts.shape[1])
    seeds = parts[rows[:, None], columns]
    return drop_small(seeds, least)


def _nearest(wanted: int, given: int) -> np.ndarray:
    return np.minimum(((np.arange(wanted) + 0.5) * given / wanted).astype(np.intp), given - 1)


def _cell_level(body: np.ndarray) -> int:
    """Return the level above which a pixel is of a cell: half of Otsu's, but not below the fixed one."""
    otsu, _ = cv2.threshold(body, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return max(_byte(CELL_LEVEL), round(otsu / 2))


def _label_reduced(
    seeds: np.ndarray, nucleus: _Maps, cell: _Maps, level: int, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Run the steps of label_cell on maps of `scale`; return nuclei and cells with shared ids 1..N."""
    area = scale**2
    mask = fill_holes(nucleus.body > _byte(NUCLEUS_LEVEL), NUCLEUS_HOLE * area)
    nuclei = drop_small(_flood(nucleus.body, seeds, mask), NUCLEUS_AREA * area)
    cells = drop_small(_flood(cell.body, nuclei, (cell.body > level) | (nuclei > 0)), CELL_AREA * area)
    cells = fill_cells(_close(cells, CLOSING_RADIUS * scale))
    # uint16: the sum of two uint8 maps would wrap
    both = cell.body.astype(np.uint16) + cell.border
    cells = _flood(both, cells, (cell.border > _byte(BORDER_LEVEL)) | (cells > 0))
    cells = drop_small(fill_cells(cells), CELL_AREA * area)
    cells, nuclei = renumber(cells, nuclei)
    return nuclei, cells


def _flood(light: np.ndarray, seeds: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Grow the seeds over the mask, brightest pixels first: (H, W) int32."""
    # the inside of a seed has nothing to conquer: left out, it does not pass through the watershed's queue
    inside = np.zeros(seeds.shape, bool)
    centre = seeds[1:-1, 1:-1]
    inside[1:-1, 1:-1] = centre > 0
    for neighbour in (seeds[:-2, 1:-1], seeds[2:, 1:-1], seeds[1:-1, :-2], seeds[1:-1, 2:]):
        inside[1:-1, 1:-1] &= centre == neighbour
    grown = watershed(-light.astype(np.int32), seeds, mask=mask & ~inside).astype(np.int32)
    np.copyto(grown, seeds, where=inside & mask)
    return grown


def _close(labels: np.ndarray, radius: float) -> np.ndarray:
    """Close gaps narrower than a disk; labels keep what they have."""
    if radius < 0.5:
        return labels
    side = 2 * round(radius) + 1
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    # float32 holds every id below 2**24 exactly, and OpenCV has no morphology of int32
    closed = cv2.morphologyEx(labels.astype(np.float32), cv2.MORPH_CLOSE, disk).astype(np.int32)
    return np.where(labels > 0, labels, closed)


def _are_small(labels: np.ndarray) -> bool:
    return bool(0 < np.count_nonzero(labels) < SMALL_CELL * labels.max())


def _refine(
    labels: np.ndarray, mask: np.ndarray, small_mask: np.ndarray, light: np.ndarray | None = None
) -> np.ndarray:
    """Bring reduced labels to the size of `mask`, outlines following `mask` where the reduced ones followed theirs.

    With `light`, the borders between labels follow its valleys too, at half the size of `mask`.

    Returns:
        (H, W) float32 or uint16 (whatever is fastest to scale), whole numbers.
    """
    narrow = labels.astype(np.uint16) if labels.max() < 2**16 else labels.astype(np.float32)
    around = np.where(labels > 0, narrow, cv2.dilate(narrow, np.ones((3, 3), np.uint8)))
    shape = mask.shape[::-1]
    if light is not None:
        around = _redraw_borders(around, light)
    wide = cv2.resize(around, shape, interpolation=cv2.INTER_NEAREST)
    added = ((labels > 0) & ~small_mask).astype(np.uint8)
    keep = mask.view(np.uint8) | cv2.resize(added, shape, interpolation=cv2.INTER_NEAREST)
    return cv2.copyTo(wide, keep)


def _redraw_borders(labels: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Draw the borders between touching labels (h, w) again at half the size of `light`, where that is larger."""
    shape = (light.shape[1] // 2, light.shape[0] // 2)
    if shape[0] <= labels.shape[1] or shape[1] <= labels.shape[0]:
        return labels
    kernel = np.ones((3, 3), np.uint8)
    highest = cv2.dilate(labels, kernel)
    lowest = cv2.erode(np.where(labels > 0, labels, highest.max()), kernel)
    open_again = ((highest != lowest) & (labels > 0)).view(np.uint8)
    wide = cv2.resize(labels, shape, interpolation=cv2.INTER_NEAREST)
    seeds = np.where(cv2.resize(open_again, shape, interpolation=cv2.INTER_NEAREST) > 0, 0, wide).astype(np.int32)
    grown = _flood(cv2.resize(light, shape, interpolation=cv2.INTER_AREA), seeds, wide > 0)
    # a label that was all border keeps its place
    return np.where(grown > 0, grown, wide).astype(labels.dtype)
