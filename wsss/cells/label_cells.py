"""From probability maps of nuclei and cells to label maps with shared ids: full-size outlines at a reduced price.

What decides how many cells there are (seeds) and where they end (thresholds) is done on every pixel, by operations that
cost a few milliseconds; what decides who owns which side of a touching border (watersheds) is done on a map of a quarter
of the resolution. Constants are those of hpacellseg's label_cell, which were made for fields of 2048 x 2048 pixels;
here they are scaled to the maps at hand.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from skimage.segmentation import watershed

from wsss.core.checks import DataError

REFERENCE_EDGE = 2048
"""Edge of the fields, in pixels, for which the areas and the radius below are meant."""

SEED_LEVEL, NUCLEUS_LEVEL, BORDER_LEVEL, CELL_LEVEL = 0.15, 0.4, 0.05, 0.22
SEED_AREA, NUCLEUS_HOLE, NUCLEUS_AREA, CELL_AREA, CLOSING_RADIUS = 500, 1000, 2500, 5500, 6
REDUCED_SCALE = 0.25
"""Resolution of the watersheds, as a share of the reference's."""


@dataclass(frozen=True)
class _Maps:
    """Border and body of nuclei or of cells, (H, W) uint8."""

    border: np.ndarray
    body: np.ndarray


def label_cells(
    nuclei: np.ndarray, cells: np.ndarray, *, scale: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Label nuclei and cells in the probability maps of a segmentation network.

    Args:
        nuclei: (H, W, 3) uint8, or float in [0, 1]: unused, border, body; as hpacellseg gives them. Any size.
        cells: the same for cells, of the same size.
        scale: pixels of the maps per pixel of the reference (a field photographed at 2048 x 2048); None takes the
            longer edge for that of a whole field.

    Returns:
        Nuclei and cells, (H, W) int32 with shared ids 1..N in reading order of the cells' seeds. Every cell has a
        nucleus, and every nucleus lies within its cell.

    Raises:
        DataError: a map has another shape, or values that are no probabilities.

    Source: semantics of hpacellseg's label_cell, section 5 of the method, without its limits on number, type and size.
    """
    nucleus, cell = _split_map(nuclei, "nuclei"), _split_map(cells, "cells")
    if nucleus.body.shape != cell.body.shape:
        raise DataError(f"the nuclei map is {nucleus.body.shape}, the cell map {cell.body.shape}: they must match.")
    height, width = cell.body.shape
    scale = max(height, width) / REFERENCE_EDGE if scale is None else scale
    step = max(1.0, scale / REDUCED_SCALE)
    shape = (max(1, round(width / step)), max(1, round(height / step)))
    seeds = _resize(_find_seeds(nucleus, SEED_AREA * scale**2), shape)
    level = _cell_level(cell.body)
    small_nuclei, small_cells = _label_reduced(
        seeds, _shrink(nucleus, shape), _shrink(cell, shape), level, scale / step
    )
    cell_mask = (cell.body > level) | (cell.border > round(255 * BORDER_LEVEL))
    full_cells = _refine(small_cells, cell_mask, _inside(_shrink(cell, shape), level))
    nucleus_mask = nucleus.body > round(255 * NUCLEUS_LEVEL)
    small_mask = _shrink(nucleus, shape).body > round(255 * NUCLEUS_LEVEL)
    full_nuclei = _refine(small_nuclei, nucleus_mask, small_mask)
    return np.where(full_nuclei == full_cells, full_nuclei, 0), full_cells
