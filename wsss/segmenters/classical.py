"""Cells without a trained model: nuclei from their stain, cells by watershed over stains that fill or outline them.

Every length follows from the radius of a typical nucleus, which is measured in the image itself, so that one set of
constants serves any microscope, any size of cell and any scale of storage.
"""

import functools
from dataclasses import dataclass

import cv2
import numpy as np
from skimage.filters import threshold_otsu
from skimage.measure import label
from skimage.segmentation import expand_labels, watershed

from wsss.cells.instances import fill_holes, without_small
from wsss.cells.regions import group_pixels
from wsss.core.checks import DataError
from wsss.segmenters import Backend, BackendOptions, CellMaps, Field


def part_touching(mask: np.ndarray, light: np.ndarray, *, sigma: float, neck: float) -> np.ndarray:
    """Label the objects of a mask, cutting where a neck is thin or dark against both sides.

    Every summit of the distance to the background starts as a separate object; then neighbours are joined, widest
    neck first, unless their neck (its half width times its relative brightness) is below `neck` times the smaller
    of the two. The ratio has no length in it, so small and large objects part alike.

    Args:
        mask: (H, W) bool.
        light: (H, W) float32 >= 0, brightness over background; a dark line speaks for two objects.
        sigma: smoothing of the distance, in pixels.
        neck: in [0, 1]; higher parts more.

    Returns:
        (H, W) int32, 0 background, objects 1..N.
    """
    depth = cv2.GaussianBlur(_distance(mask), (0, 0), max(sigma, 0.5))
    summits = (depth >= cv2.dilate(depth, np.ones((3, 3), np.uint8))) & mask
    _, markers = cv2.connectedComponents(summits.astype(np.uint8), connectivity=8)
    parts = watershed(-depth, markers, mask=mask).astype(np.int32)
    return _join(parts, depth, light, neck)


def _join(parts: np.ndarray, depth: np.ndarray, light: np.ndarray, neck: float) -> np.ndarray:
    count = int(parts.max()) + 1
    heights, means = _maxima(parts.ravel(), depth.ravel(), count), _means(parts.ravel(), light.ravel(), count)
    root = np.arange(count)
    for first, second, saddle, shine in zip(*_borders(parts, depth, light), strict=True):
        a, b = _find(root, first), _find(root, second)
        dark = min(1.0, shine / max(min(means[first], means[second]), 1e-6))
        if a != b and saddle * dark >= neck * min(heights[a], heights[b]):
            low, high = sorted((a, b))
            root[high] = low
            heights[low] = max(heights[a], heights[b])
    roots = np.array([_find(root, k) for k in range(count)])
    return np.unique(roots, return_inverse=True)[1].astype(np.int32)[parts]


def _borders(parts: np.ndarray, depth: np.ndarray, light: np.ndarray) -> tuple[list, list, list, list]:
    """Return both sides, greatest depth and mean light of every border between two parts, deepest first."""
    pairs, saddles, lights = [], [], []
    for one, two in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        a, b = parts[one], parts[two]
        at = (a != b) & (a > 0) & (b > 0)
        pairs.append(np.stack([np.minimum(a[at], b[at]), np.maximum(a[at], b[at])], axis=1))
        saddles.append(np.minimum(depth[one][at], depth[two][at]))
        lights.append(np.minimum(light[one][at], light[two][at]))
    keys, border = np.unique(np.concatenate(pairs), axis=0, return_inverse=True)
    border = border.ravel()
    deepest = _maxima(border, np.concatenate(saddles), len(keys))
    shine = _means(border, np.concatenate(lights), len(keys))
    order = np.argsort(-deepest, kind="stable")
    return keys[order, 0].tolist(), keys[order, 1].tolist(), deepest[order].tolist(), shine[order].tolist()


def _maxima(index: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    out = np.zeros(count, values.dtype)
    np.maximum.at(out, index, values)
    return out


def _means(index: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    return np.bincount(index, values, count) / np.maximum(np.bincount(index, minlength=count), 1)


def _find(root: np.ndarray, item: int) -> int:
    while root[item] != item:
        item = int(root[item])
    return item


@dataclass(frozen=True)
class ClassicalConfig:
    """What may be tuned; lengths are in radii of a typical nucleus, areas in areas of one."""

    nucleus_floor: float = 0.45
    """A nucleus is brighter than this share of the way from background to Otsu's threshold."""
    least_contrast: float = 0.08
    """An image whose nuclei are not brighter than their surroundings by this (of the square root of the full range)
    has none: what stands out is noise."""
    nucleus_rim: float = 0.45
    """A nucleus ends where blue falls below this share of its own peak (over background)."""
    neck: float = 0.8
    """Two nuclei are separated where the neck between them, times its relative brightness, is thinner than this
    share of the smaller one."""
    smooth: float = 0.28
    """Smoothing of the nuclei's depth before they are parted; more forgives rougher outlines."""
    least_nucleus: float = 0.15
    """Smaller nuclei (in areas) are dropped."""
    cell_floor: float = 0.62
    """Cytoplasm is brighter than this share of the way from background to Otsu's threshold (square-root scale)."""
    reach: float = 6.0
    """No part of a cell is farther than this from its nucleus."""
    distance_weight: float = 0.08
    """Weight of the distance from a nucleus, relative to brightness, when touching cells are separated."""
    collar: float = 0.4
    """This far around a nucleus everything is its cell's, however dim it is next to a bright neighbour."""
    opening: float = 0.2
    """Parts of cells that are thinner than twice this are dropped."""
    largest_hole: float = 1.0
    """Larger dark areas enclosed by cells are background."""
    edge: int = 640
    """Larger images are segmented at this edge length and the maps scaled back."""
    grow: float = 0.0
    """How far cells reach around nuclei where no stain shows them."""


def make(options: BackendOptions) -> Backend:
    """Make the backend.

    Raises:
        ConfigError: no channel shows nuclei or fills the cells.
    """
    if "nucleus" not in options.roles and "cell" not in options.roles:
        options.need_roles("classical", "nucleus or cell")
    return functools.partial(segment_field, config=ClassicalConfig(grow=options.grow))


def segment_field(field: Field, config: ClassicalConfig | None = None) -> CellMaps:
    """Segment one field.

    Args:
        field: with nuclei and, if it is there, a stain that fills the cells or shows their outline. Without one, cells
            are the nuclei, grown by `config.grow`; without nuclei, cells are what is bright.
        config: None for the defaults.

    Returns:
        Cells and nuclei with shared ids 1..N, both (h, w) int32; N may be 0. Without a nuclear stain no nuclei.

    Raises:
        DataError: no channel shows nuclei or fills the cells.
    """
    config = config or ClassicalConfig()
    nucleus, cell, outline = (
        None if plane is None else reduced_root(plane, config) for plane in (field.nucleus, field.cell, field.outline)
    )
    if nucleus is not None:
        nuclei, radius = find_nuclei(nucleus, config)
        if cell is not None:
            cells = grow_cells(nuclei, cell, radius, config)
        elif outline is not None:
            cells = fill_outlines(nuclei, outline, radius, config)
        else:
            cells = expand_labels(nuclei, config.grow * radius) if config.grow else nuclei
    elif cell is not None:
        nuclei = None
        bodies, radius = find_nuclei(cell, config)  # what fills the cells, as if they were nuclei
        cells = grow_cells(bodies, cell, radius, config)
    else:
        raise DataError(f"{field.name} has no channel that shows nuclei or fills the cells: see prepare --roles.")
    return maps_of_shape(cells, nuclei, field.image.shape[1:])


def maps_of_shape(cells: np.ndarray, nuclei: np.ndarray | None, shape: tuple[int, int]) -> CellMaps:
    """Return label maps scaled to (H, W) without mixing ids."""
    wide = shape[::-1]
    whole = [
        None if one is None else cv2.resize(one.astype(np.int32), wide, interpolation=cv2.INTER_NEAREST_EXACT)
        for one in (cells, nuclei)
    ]
    assert whole[0] is not None
    return CellMaps(cells=whole[0], nuclei=whole[1])


def fill_outlines(nuclei: np.ndarray, outline: np.ndarray, radius: float, config: ClassicalConfig) -> np.ndarray:
    """Grow one cell around every nucleus up to the bright line between cells, (h, w) float32.

    Returns:
        (h, w) int32 with the ids of `nuclei`; every nucleus lies within its cell.
    """
    if radius == 0:
        return nuclei.copy()
    signal = _smooth(outline, radius / 8)
    _, floor = _cut(signal, config.cell_floor, 0.03)
    away = _distance(nuclei == 0) / radius
    mask = fill_holes(signal > floor, np.inf) & (away < config.reach) | (nuclei > 0)
    relief = signal / max(float(signal.max()), 1e-6) + config.distance_weight * away
    cells = watershed(relief, nuclei, mask=mask)
    return tidy_cells(cells.astype(np.int32), nuclei, config.opening * radius)


def reduced_root(plane: np.ndarray, config: ClassicalConfig) -> np.ndarray:
    """Return the square root of a (H, W) uint8 plane in [0, 1], float32, its longer edge reduced to `config.edge`."""
    return np.sqrt(scaled(plane, min(1.0, config.edge / max(plane.shape))).astype(np.float32) / 255)


def scaled(plane: np.ndarray, factor: float) -> np.ndarray:
    """Scale a (H, W) uint8 plane; area averaging shrinks, linear interpolation enlarges."""
    shape = [max(1, round(length * factor)) for length in plane.shape[::-1]]
    return cv2.resize(plane, shape, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)


def _smooth(plane: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(plane, (0, 0), max(sigma, 0.5), borderType=cv2.BORDER_REPLICATE)


def _cut(plane: np.ndarray, share: float, least: float) -> tuple[float, float]:
    """Return background level and the threshold `share` of the way from there to Otsu's."""
    background = float(np.percentile(plane, 2))
    return background, background + max(share * (threshold_otsu(plane) - background), least)


def find_nuclei(blue: np.ndarray, config: ClassicalConfig) -> tuple[np.ndarray, float]:
    """Find nuclei in the square root of the blue plane, (h, w) float32 in [0, 1].

    Returns:
        Label map (h, w) int32 1..N, and the radius of a typical nucleus in pixels.
    """
    blurred = _smooth(blue, max(blue.shape) / 512)
    background, floor = _cut(blurred, config.nucleus_floor, 0.04)
    rough = fill_holes(blurred > _cut(blurred, 0.8, 0.06)[1], np.inf)
    radius = _typical_radius(rough)
    if radius == 0 or blurred[rough].mean() - blurred[~rough].mean() < config.least_contrast:
        return np.zeros(blue.shape, np.int32), 0.0
    blurred = _smooth(blue, radius / 8)
    area = np.pi * radius**2
    mask = fill_holes(blurred > floor, area)
    light = np.maximum(blurred - background, 0)
    parts = part_touching(mask, light, sigma=config.smooth * radius, neck=config.neck)
    rim = background + config.nucleus_rim * (_peaks(parts, blurred) - background)
    mask = fill_holes(mask & (blurred > rim[parts]), area)
    mask = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, _disk(0.25 * radius)) > 0
    parts = part_touching(mask, light, sigma=config.smooth * radius, neck=config.neck)
    return without_small(parts, config.least_nucleus * area), radius


def _disk(radius: float) -> np.ndarray:
    side = 2 * max(1, round(radius)) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))


def _distance(mask: np.ndarray) -> np.ndarray:
    return cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)


def _typical_radius(mask: np.ndarray) -> float:
    """Return the radius of a typical blob: the median, over pixels, of the radius of their blob's inner circle."""
    count, parts, _, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    if count == 1:
        return 0.0
    inner = _maxima(parts[mask], _distance(mask)[mask], count)
    areas = np.bincount(parts[mask], minlength=count)
    order = np.argsort(inner)
    half = np.searchsorted(np.cumsum(areas[order]), areas.sum() / 2)
    return float(inner[order[half]]) * 1.2


def _peaks(parts: np.ndarray, plane: np.ndarray) -> np.ndarray:
    """Return the 90 % quantile of `plane` in every part; entry 0 is 0."""
    pixels = group_pixels(parts)
    groups = np.split(plane.ravel()[pixels.order], pixels.starts[1:])
    out = np.zeros(int(parts.max()) + 1, np.float32)
    for part, values in zip(pixels.ids, groups, strict=False):
        out[part] = np.quantile(values, 0.9)
    return out


def grow_cells(nuclei: np.ndarray, cytoplasm: np.ndarray, radius: float, config: ClassicalConfig) -> np.ndarray:
    """Grow one cell around every nucleus over the brighter of the square roots of red and yellow, (h, w) float32.

    Returns:
        (h, w) int32 with the ids of `nuclei`; every nucleus lies within its cell.
    """
    if radius == 0:
        return nuclei.copy()
    signal = _smooth(cytoplasm, radius / 6)
    _, floor = _cut(signal, config.cell_floor, 0.03)
    away = _distance(nuclei == 0) / radius
    mask = (signal > floor) & (away < config.reach) | (nuclei > 0)
    relief = config.distance_weight * away - signal / max(float(signal.max()), 1e-6)
    mask = fill_holes(mask, config.largest_hole * np.pi * radius**2)
    seeds = np.where(mask, expand_labels(nuclei, config.collar * radius), 0)
    cells = watershed(relief, seeds, mask=mask)
    return tidy_cells(cells.astype(np.int32), nuclei, config.opening * radius)


def tidy_cells(cells: np.ndarray, nuclei: np.ndarray, opening: float) -> np.ndarray:
    """Smooth outlines and drop fragments: open by a small disk, then keep of each cell what holds on to its nucleus.

    Args:
        cells: (H, W) int32.
        nuclei: (H, W) int32 with the ids of the cells.
        opening: radius of the disk, in pixels.

    Returns:
        The cells, (H, W) int32.
    """
    body = cv2.morphologyEx((cells > 0).astype(np.uint8), cv2.MORPH_OPEN, _disk(opening)) > 0
    cells = np.where(body | (nuclei > 0), cells, 0)
    parts = label(cells, background=0, connectivity=1)
    held = np.zeros(int(parts.max()) + 1, bool)
    held[parts[nuclei > 0]] = True
    held[0] = False
    return np.where(held[parts], cells, 0)
