"""What a label map says of its cells: place, size, pieces, nuclei, and how much of each the image shows.

Lengths and positions are in pixels of the original image where a `Geometry` is given, else in pixels of the map.
"""

import numpy as np
import pandas as pd
from skimage.measure import label

from wsss.cells.regions import CellPixels, cell_means, group_pixels, measure_cells, shown_share
from wsss.core.label_maps import Geometry

BRIGHT, SMALL = 1.4, 0.75
"""Condensed chromatin: so much brighter in blue, and less than this share of the area, of the median nucleus."""


def describe_cells(
    label_map: np.ndarray,
    nuclei: np.ndarray | None = None,
    *,
    geometry: Geometry | None = None,
    blue: np.ndarray | None = None,
    pixel_um: float | None = None,
) -> pd.DataFrame:
    """Measure every cell of a label map.

    Args:
        label_map: (H, W) int, 0 background, ids with or without gaps; at original or stored size.
        nuclei: (H, W) int label map of nuclei, with the cells' ids or its own.
        geometry: how the map lies on the original image; None if it is the original image.
        blue: (H, W) nuclear stain, for the mitotic hint; needs `nuclei`.
        pixel_um: size of an original pixel in micrometres, for the columns `_um`.

    Returns:
        One row per cell, in rising id: `cell_id`, the geometry columns of the table contract (boxes half-open),
        `pieces` (connected parts) and `share_inside` (estimated share of the cell that the image shows, in (0, 1]).
        With nuclei also `n_nuclei`, `nucleus_id` (the largest one, 0 for none) and `nucleus_area_px`; with blue
        `mitotic`, true where the nucleus is bright and small as condensed chromatin is: a hint, not a finding.

    Raises:
        ValueError: the maps differ in size, or `label_map` is none.
    """
    for name, other in (("nuclei", nuclei), ("blue", blue)):
        if other is not None and other.shape != label_map.shape:
            raise ValueError(f"{name} is {other.shape}, the label map {label_map.shape}: they must match.")
    table = measure_cells(label_map, geometry=geometry)
    ids = table["cell_id"].to_numpy()
    table["pieces"] = _pieces(label_map, ids)
    if nuclei is None:
        table["share_inside"] = shown_share(table.area_px.to_numpy(), table.touches_border.to_numpy())
    else:
        pairs = _pair(label_map, nuclei, ids)
        table["n_nuclei"], table["nucleus_id"] = pairs.n_nuclei.to_numpy(), pairs.nucleus_id.to_numpy()
        bodies = measure_cells(nuclei, geometry=geometry)
        nucleus = bodies.set_index("cell_id").reindex(table.nucleus_id)
        table["nucleus_area_px"] = nucleus.area_px.fillna(0).to_numpy().astype(np.int64)
        size = label_map.shape if geometry is None else (geometry.height, geometry.width)
        table["share_inside"] = _share_inside(table, nucleus.reset_index(drop=True), np.array(size, float))
        if blue is not None:
            table["mitotic"] = table.nucleus_id.isin(_condensed(group_pixels(nuclei), blue, bodies.area_px))
    return _add_um(table, pixel_um) if pixel_um is not None else table


def _pieces(label_map: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return the number of 8-connected parts of every cell."""
    parts, count = label(label_map, background=0, connectivity=2, return_num=True)
    owners = np.zeros(count + 1, label_map.dtype)
    owners[parts] = label_map  # the pixels of a part are all of one cell
    return np.bincount(np.searchsorted(ids, owners[1:]), minlength=len(ids))


def _pair(label_map: np.ndarray, nuclei: np.ndarray, ids: np.ndarray) -> pd.DataFrame:
    """Give every nucleus to the cell that holds most of it; return n_nuclei and nucleus_id of every cell.

    Nuclei that share an id but do not touch count one by one.
    """
    both = (label_map > 0) & (nuclei > 0)
    parts = label(nuclei, background=0, connectivity=2)
    overlap = pd.DataFrame({"cell": label_map[both], "nucleus": nuclei[both], "part": parts[both]})
    overlap = overlap.groupby(["part", "nucleus", "cell"]).size().rename("pixels").reset_index()
    overlap = overlap.sort_values(["pixels", "cell"], ascending=[False, True])
    owned = overlap.drop_duplicates("part")
    counts = owned.groupby("cell").size().reindex(ids, fill_value=0)
    largest = owned.drop_duplicates("cell").set_index("cell").nucleus.reindex(ids, fill_value=0)
    return pd.DataFrame({"n_nuclei": counts, "nucleus_id": largest})


def _share_inside(table: pd.DataFrame, nucleus: pd.DataFrame, frame: np.ndarray) -> np.ndarray:
    """Estimate the share of each border cell inside the image from its area and where its nucleus lies.

    The cell is taken for a disc around its nucleus: of all such discs the one whose part inside the image has the
    cell's area. A nucleus that is cut itself is completed to the image's median radius first.
    """
    share = shown_share(table.area_px.to_numpy(), table.touches_border.to_numpy())
    cut = (table.touches_border & nucleus.area_px.notna()).to_numpy()
    if not cut.any():
        return share
    whole = nucleus[~nucleus.touches_border.fillna(True).astype(bool)]
    typical = float(np.sqrt((whole if len(whole) else nucleus).area_px.median() / np.pi))
    cut_nuclei = nucleus[cut]
    centres = np.stack(
        [
            _completed(cut_nuclei[f"center_{a}"], cut_nuclei[f"{a}0"], cut_nuclei[f"{a}1"], typical, length)
            for a, length in zip("yx", frame, strict=True)
        ],
        axis=1,
    )
    share[cut] = _disc_share(centres, table.area_px[cut].to_numpy(float), frame)
    return share


def _completed(centre: pd.Series, low: pd.Series, high: pd.Series, radius: float, length: float) -> np.ndarray:
    """Move the centre of a nucleus that the border cuts to where a whole one of `radius` would have it."""
    out = centre.to_numpy(float) + 0.5
    out = np.where((low == 0) & (high < length), np.minimum(out, high - radius), out)
    return np.where((high >= length) & (low > 0), np.maximum(out, low + radius), out)


def _disc_share(centres: np.ndarray, areas: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Return the share inside the frame of the discs at `centres` (N, 2) whose inner parts have `areas` (N,)."""
    steps = np.arange(400)
    angle = steps * np.pi * (3 - np.sqrt(5))
    points = np.sqrt((steps + 0.5) / 400)[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=1)

    def inside(radii: np.ndarray) -> np.ndarray:
        places = centres[:, None] + radii[:, None, None] * points
        return np.asarray(((places >= 0) & (places < frame)).all(axis=2).mean(axis=1))

    low: np.ndarray = np.zeros(len(areas))
    high: np.ndarray = np.full(len(areas), 2 * np.hypot(*frame))
    for _ in range(24):
        middle = (low + high) / 2
        enough = inside(middle) * np.pi * middle**2 >= areas
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.clip(inside(high), 1 / 400, 1)


def _condensed(pixels: CellPixels, blue: np.ndarray, areas: pd.Series) -> np.ndarray:
    """Return the ids of the nuclei that are brighter and smaller than the image's median nucleus."""
    if len(pixels) == 0:
        return pixels.ids
    light = cell_means(blue.ravel()[pixels.order], pixels)
    return pixels.ids[(light > BRIGHT * np.median(light)) & (areas < SMALL * areas.median()).to_numpy()]


def _add_um(table: pd.DataFrame, pixel_um: float) -> pd.DataFrame:
    for name in ("center_y", "center_x", "y0", "x0", "y1", "x1"):
        table[f"{name}_um"] = (table[name] + (0.5 if name.startswith("center") else 0)) * pixel_um
    table["area_um2"] = table.area_px * pixel_um**2
    return table
