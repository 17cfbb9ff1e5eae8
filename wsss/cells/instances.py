"""Cells as objects: measured in one pass over the pixels of a label map, cut out as crops, or found in
the maps of a mask network (threshold, seeds, watershed, minimum size).

Lengths and positions are in pixels of the original image where a `Geometry` is given, else in pixels of the map.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import cv2
import numpy as np
import pandas as pd
from scipy import ndimage
from skimage.measure import label
from skimage.morphology import reconstruction
from skimage.segmentation import watershed

from wsss.cells.regions import CellPixels, CellRuns, cell_ids, cell_runs, group_pixels
from wsss.core.geometry import Geometry
from wsss.options.scoring import CropConfig

GEOMETRY_COLUMNS = ("center_y", "center_x", "y0", "x0", "y1", "x1", "area_px", "touches_border")

BRIGHT, SMALL = 1.4, 0.75
"""Condensed chromatin: so much brighter in blue, and less than this share of the area, of the median nucleus."""

MOST_CHANNELS = 4
"""Channels that OpenCV scales at once."""


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
    axes = _axes(label_map.shape, geometry)
    table = _measure(cell_runs(label_map), axes)
    ids = table["cell_id"].to_numpy()
    table["pieces"] = _pieces(label_map, ids)
    if nuclei is None:
        table["share_inside"] = _share_by_area(table)
    else:
        pairs = _pair(label_map, nuclei, ids)
        table["n_nuclei"], table["nucleus_id"] = pairs.n_nuclei.to_numpy(), pairs.nucleus_id.to_numpy()
        bodies = _measure(cell_runs(nuclei), axes)
        nucleus = bodies.set_index("cell_id").reindex(table.nucleus_id)
        table["nucleus_area_px"] = nucleus.area_px.fillna(0).to_numpy().astype(np.int64)
        table["share_inside"] = _share_inside(table, nucleus.reset_index(drop=True), axes)
        if blue is not None:
            table["mitotic"] = table.nucleus_id.isin(_condensed(group_pixels(nuclei), blue, bodies.area_px))
    return _add_um(table, pixel_um) if pixel_um is not None else table


def measure_cells(label_map: np.ndarray, *, geometry: Geometry | None = None) -> pd.DataFrame:
    """Return `cell_id` and the geometry columns of `describe_cells` alone: all that the tables of predictions hold.

    Counting the parts of every cell, which `describe_cells` does too, takes most of its time on a large map.
    """
    return _measure(cell_runs(label_map), _axes(label_map.shape, geometry))


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


def _measure(cells: CellRuns, axes: tuple[_Axis, _Axis]) -> pd.DataFrame:
    """Return id, centre, box, area and contact with the border of every cell."""
    vertical, horizontal = axes
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


def _between(values: np.ndarray, cells: CellRuns) -> np.ndarray:
    """Sum the values (n,) of the columns of each run: (R,)."""
    sums = np.concatenate(([0], np.cumsum(values)))
    return np.asarray(sums[cells.stops] - sums[cells.starts])


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


def _share_by_area(table: pd.DataFrame) -> np.ndarray:
    """Compare cells at the border with the median whole cell; all are 1 where none is whole."""
    whole = table.area_px[~table.touches_border]
    if whole.empty:
        return np.ones(len(table))
    return np.where(table.touches_border, np.minimum(1, table.area_px / whole.median()), 1.0)


def _share_inside(table: pd.DataFrame, nucleus: pd.DataFrame, axes: tuple[_Axis, _Axis]) -> np.ndarray:
    """Estimate the share of each border cell inside the image from its area and where its nucleus lies.

    The cell is taken for a disc around its nucleus: of all such discs the one whose part inside the image has the
    cell's area. A nucleus that is cut itself is completed to the image's median radius first.
    """
    share = _share_by_area(table)
    cut = (table.touches_border & nucleus.area_px.notna()).to_numpy()
    if not cut.any():
        return share
    frame = np.array([int(axis.first[-1]) for axis in axes], float)
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
    light = np.add.reduceat(blue.ravel()[pixels.order], pixels.starts, dtype=np.float64) / pixels.sizes
    return pixels.ids[(light > BRIGHT * np.median(light)) & (areas < SMALL * areas.median()).to_numpy()]


def _add_um(table: pd.DataFrame, pixel_um: float) -> pd.DataFrame:
    for name in ("center_y", "center_x", "y0", "x0", "y1", "x1"):
        table[f"{name}_um"] = (table[name] + (0.5 if name.startswith("center") else 0)) * pixel_um
    table["area_um2"] = table.area_px * pixel_um**2
    return table


def cell_crops(image: np.ndarray, label_map: np.ndarray, config: CropConfig) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cut out every cell of an image, its surroundings black, batch by batch: memory does not grow with the cells.

    Args:
        image: (C, H, W) uint8.
        label_map: (H, W) int, 0 background; ids may have gaps.
        config: size and mode, and most crops at a time.

    Yields:
        The ids (n,) int32 in rising order and the crops (n, C, size, size) uint8.

    Raises:
        ValueError: image and label map differ in size.
    """
    ids = cell_ids(label_map)
    for k, crops in enumerate(crop_batches([(image, label_map)], config)):
        yield ids[k * config.batch : k * config.batch + len(crops)], crops


def crop_batches(fields: Iterable[tuple[np.ndarray, np.ndarray]], config: CropConfig) -> Iterator[np.ndarray]:
    """Cut out the cells of several images, each an image and its label map as `cell_crops` takes them.

    Yields:
        (n, C, size, size) uint8, image after image and by rising id; a batch goes on into the next image.
    """
    cells = (place for field in fields for place in _places(*field))
    while part := list(islice(cells, config.batch)):
        channels = len(part[0][0])
        crops = np.zeros((len(part), channels, config.size, config.size), np.uint8)
        for crop, (image, label_map, cell, box) in zip(crops, part, strict=True):
            _cut(image, label_map, cell, box, config, crop)
        yield crops


@dataclass(frozen=True)
class Window:
    """How networks that know the size of things want each cell: in the middle of a square of fixed width."""

    size: int
    """Edge of a crop in px."""
    pixel_um: float
    """Micrometres per pixel of a crop."""
    rim_um: float
    """How far around the cell its surroundings stay, in micrometres; beyond they are black."""


def window_batches(
    fields: Iterable[tuple[np.ndarray, np.ndarray, float]], window: Window, batch: int
) -> Iterator[np.ndarray]:
    """Cut out the cells of several images, each an image, its label map and the micrometres per pixel of both.

    Yields:
        (n, C, size, size) uint8 with n up to `batch`, image after image and by rising id; black beyond the image.
    """
    cells = ((*place, um) for image, label_map, um in fields for place in _places(image, label_map))
    while part := list(islice(cells, batch)):
        yield np.stack([_cut_window(*cell, window) for cell in part])


def _cut_window(
    image: np.ndarray, label_map: np.ndarray, cell: int, box: np.ndarray, um: float, window: Window
) -> np.ndarray:
    """Return one cell, (C, size, size): the square around the middle of its box, scaled, its surroundings black."""
    scale = window.pixel_um / um
    edge, rim = max(1, round(window.size * scale)), round(window.rim_um / um)
    top, left = ((int(box[k]) + int(box[k + 2])) // 2 - edge // 2 for k in (0, 1))
    height, width = label_map.shape
    rows, columns = slice(max(0, top), min(height, top + edge)), slice(max(0, left), min(width, left + edge))
    place = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
    planes = np.zeros((len(image) + 1, edge, edge), np.uint8)
    planes[:-1, *place], planes[-1, *place] = image[:, rows, columns], label_map[rows, columns] == cell
    planes[-1] = cv2.dilate(planes[-1], np.ones((2 * rim + 1, 2 * rim + 1), np.uint8))
    size, method = (window.size, window.size), cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR
    *scaled, mask = (cv2.resize(plane, size, interpolation=method) for plane in planes)
    return np.stack(scaled) * mask


def cell_boxes(label_map: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids (N,) int32 in rising order and the boxes (N, 4) int64, y0 x0 y1 x1 half-open, of all cells."""
    cells = cell_runs(label_map)
    return cells.ids, cells.boxes()


def _places(image: np.ndarray, label_map: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, int, np.ndarray]]:
    """Yield the image, its label map, the id and the box of every cell."""
    if image.shape[1:] != label_map.shape:
        raise ValueError(f"the image is {image.shape[1:]}, the label map is {label_map.shape}.")
    for cell, box in zip(*cell_boxes(label_map), strict=True):
        yield image, label_map, int(cell), box


def _cut(
    image: np.ndarray, label_map: np.ndarray, cell: int, box: np.ndarray, config: CropConfig, out: np.ndarray
) -> None:
    """Write one cell into `out` (C, size, size), which is black."""
    y0, x0, y1, x1 = box
    size = config.size
    mask = label_map[y0:y1, x0:x1] == cell
    pixels = np.where(mask[..., None], image[:, y0:y1, x0:x1].transpose(1, 2, 0), np.uint8(0))
    longest = max(mask.shape)
    scale = size / (longest * (1 + 2 * config.margin))
    if config.mode == "stored":
        scale = min(scale, 1.0)
    if scale != 1:
        height, width = (max(1, min(size, round(edge * scale))) for edge in mask.shape)
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        parts = [
            cv2.resize(pixels[..., k : k + MOST_CHANNELS], (width, height), interpolation=method)
            for k in range(0, len(image), MOST_CHANNELS)
        ]
        pixels = np.concatenate([part.reshape(height, width, -1) for part in parts], axis=-1)
    height, width = pixels.shape[:2]
    y, x = (size - height) // 2, (size - width) // 2
    out[:, y : y + height, x : x + width] = pixels.transpose(2, 0, 1)


EIGHT = np.ones((3, 3), bool)
SMOOTH_PX = 1.0
"""Smoothing of the distance map before its peaks are taken as seeds, px."""
NECKS = {"binary": 0.9, "distance": 0.85}
"""Two peaks are two objects if the way between them falls below this share of the lower one."""
LEAST = 0.01
"""Heights below this are alike."""
REACH = 12
"""Pixels around a connected part of the mask that its objects may depend on: the smoothing's reach, twice over."""


def mask_channel(probs: np.ndarray, kind: str) -> np.ndarray:
    """Return the (H, W) probability of the whole mask, border included; probs (K, H, W) of `MaskConfig.target`."""
    if kind in ("binary", "distance"):
        return probs[0]
    if kind == "border":
        return np.minimum(1, probs[0] + probs[1])  # of two that exclude each other: neither need be likely alone
    return 1 - probs[0]


def decode(probs: np.ndarray, kind: str, threshold: float, min_size: int, *, objects: bool) -> np.ndarray:
    """Return `objects_of`, or without `objects` the whole mask as object 1, empty below the minimum size."""
    if objects:
        return objects_of(probs, kind, threshold=threshold, min_size=min_size)
    return drop_small((mask_channel(probs, kind) >= threshold).astype(np.int32), min_size)


def objects_of(
    probs: np.ndarray, kind: str, *, threshold: float = 0.5, min_size: int = 0, mask: np.ndarray | None = None
) -> np.ndarray:
    """Find the objects of one image.

    With a border channel, what is inside and not border makes the seeds, and a watershed of the probability gives
    the border pixels back to them; else seeds are the peaks of the distance to the background, as the network predicts
    it or as the mask has it. A part of the mask without any seed is one object.

    Args:
        probs: (K, H, W) float in [0, 1].
        kind: binary, border, softmax or distance.
        threshold: probability from which a pixel is of the mask.
        min_size: objects of fewer pixels are dropped.
        mask: (H, W) bool, where objects are; None for `mask_channel` from the threshold on.

    Returns:
        (H, W) int32, objects 1..N without gaps, 0 background.
    """
    mask = mask_channel(probs, kind) >= threshold if mask is None else mask
    if kind == "binary":
        height = ndimage.gaussian_filter(ndimage.distance_transform_edt(mask), SMOOTH_PX)
        seeds = _peaks(height, mask, NECKS[kind])
    elif kind == "distance":
        height = ndimage.gaussian_filter(probs[1], SMOOTH_PX)
        seeds = _peaks(height, mask, NECKS[kind])
    else:
        inside, border = (probs[0], probs[1]) if kind == "border" else (probs[1], probs[2])
        height = inside - border
        seeds = ndimage.label((inside >= threshold) & (border < threshold) & mask, EIGHT)[0]
    return drop_small(watershed(-height, _with_seedless(seeds, mask), mask=mask), min_size)


def _peaks(height: np.ndarray, mask: np.ndarray, neck: float) -> np.ndarray:
    """Number the peaks of a (H, W) map in the mask that stand out from the way to any higher one: (H, W) int32.

    Standing out is relative to a peak's height, so that small objects are separated as large ones are.
    """
    fall = np.float32(-np.log(neck))
    steps = np.where(mask, np.log(np.maximum(height, LEAST)), np.log(LEAST) - fall).astype(np.float32)
    below = reconstruction(steps - fall, steps)
    return ndimage.label(mask & (steps - below >= fall * 0.999), EIGHT)[0]


def _with_seedless(seeds: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the seeds, (H, W) int32, and a seed for each connected part of the mask that has none."""
    parts, count = ndimage.label(mask, EIGHT)
    seeded = np.zeros(count + 1, bool)
    seeded[parts[seeds > 0]] = True
    alone = mask & ~seeded[parts]
    return np.where(alone, seeds.max(initial=0) + parts, seeds)


def drop_small(label_map: np.ndarray, min_size: int) -> np.ndarray:
    """Drop objects of fewer than `min_size` pixels and number the others 1..N: (H, W) int32."""
    areas = np.bincount(label_map.ravel())
    keep = areas >= max(1, min_size)
    keep[0] = False
    return np.where(keep, np.cumsum(keep), 0).astype(np.int32)[label_map]
