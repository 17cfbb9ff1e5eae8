"""Cell features that a biologist would name: where in the cell the protein is, how it is textured, what it goes with.

Nearly all are ratios, correlations or ranks, which do not change when the protein's stain is brighter or weaker.
"""

from collections.abc import Callable
from itertools import pairwise

import cv2
import numpy as np

from wsss.cells.regions import CellPixels, group_pixels

RED, GREEN, BLUE, YELLOW = range(4)
EPSILON = 0.004
"""One grey level of 255: added to both sides of a ratio, so that darkness gives 1 and not noise."""
SCALES = (1.0, 2.0, 4.0, 8.0)
"""Sigmas in pixels between which the texture energies lie."""
RINGS = (0.0, 0.2, 0.45, 0.7, 1.0)
"""Borders of the rings from the cell's edge (0) to its innermost point (1)."""

DESCRIPTIONS = {
    "green_mean": "protein: mean brightness in the cell, logarithmic",
    "green_to_field": "protein: brightness relative to the other cells of the field",
    "green_rank": "protein: rank of the cell's brightness within the field",
    "green_to_background": "protein: brightness above the space between cells, relative to the brightest cells",
    "green_variation": "protein: standard deviation over mean",
    "green_skew": "protein: skewness of brightness, high for few bright spots",
    "green_q10": "protein: its dark tenth relative to the mean",
    "green_q50": "protein: its median relative to the mean",
    "green_q90": "protein: its bright tenth relative to the mean",
    "green_q99": "protein: its brightest hundredth relative to the mean",
    "texture_1_2": "protein: structures of about 2 pixels",
    "texture_2_4": "protein: structures of about 4 pixels",
    "texture_4_8": "protein: structures of about 8 pixels",
    "texture_grain": "protein: fine against coarse structures",
    "texture_skew": "protein: fine structures bright on dark (above 0) or dark on bright",
    "spots": "protein: share of pixels in small bright spots",
    "granularity": "protein: share of the signal in grains up to 5 pixels wide",
    "ring_outer": "protein: at the cell's edge, relative to the mean",
    "ring_second": "protein: in the second ring from the edge, relative to the mean",
    "ring_third": "protein: in the third ring from the edge, relative to the mean",
    "ring_inner": "protein: in the cell's middle, relative to the mean",
    "membrane": "protein: a thin line at the edge against the band just inside",
    "edge_variation": "protein: unevenness along the cell's edge",
    "nucleus_to_cytoplasm": "protein: nucleus against cytoplasm",
    "nucleus_share": "protein: share of the signal that lies in the nucleus",
    "nucleus_variation": "protein: unevenness within the nucleus",
    "nucleus_peak": "protein: brightest part of the nucleus against its mean (nucleoli, bodies)",
    "nucleus_rim": "protein: rim of the nucleus against its inside",
    "perinuclear": "protein: band around the nucleus against the rest of the cytoplasm",
    "cytoplasm_variation": "protein: unevenness within the cytoplasm",
    "nucleus_fine": "protein: fine structures in the nucleus",
    "cytoplasm_fine": "protein: fine structures in the cytoplasm",
    "with_red": "protein goes with microtubules (correlation)",
    "with_blue": "protein goes with DNA (correlation)",
    "with_yellow": "protein goes with the endoplasmic reticulum (correlation)",
    "with_red_outside": "protein goes with microtubules in the cytoplasm",
    "with_yellow_outside": "protein goes with the endoplasmic reticulum in the cytoplasm",
    "with_blue_inside": "protein goes with DNA within the nucleus",
    "fine_with_red": "fine structures of the protein go with those of the microtubules",
    "fine_with_yellow": "fine structures of the protein go with those of the endoplasmic reticulum",
    "area": "cell: area, logarithmic",
    "nucleus_area": "cell: share of the nucleus in the area",
    "roundness": "cell: 1 for a disk, lower for long or lobed shapes",
}
"""Every feature in words, by name."""

FEATURES = tuple(DESCRIPTIONS)


def cell_features(image: np.ndarray, label_map: np.ndarray, nuclei: np.ndarray | None = None) -> np.ndarray:
    """Describe the protein's pattern in every cell.

    Args:
        image: (4, H, W) uint8, RGBY.
        label_map: (H, W) int, 0 background; ids may have gaps.
        nuclei: (H, W), not 0 in nuclei; None to estimate each cell's nucleus from blue.

    Returns:
        (N, len(FEATURES)) float32, all finite, rows in the order of sorted ids.

    Raises:
        ValueError: sizes differ or the image has not four channels.
    """
    if image.shape != (4, *label_map.shape):
        raise ValueError(f"the image is {image.shape}, expected (4, H, W) of the label map {label_map.shape}.")
    cells = group_pixels(label_map)
    if len(cells) == 0:
        return np.zeros((0, len(FEATURES)), np.float32)
    field = _Field(image, label_map, cells, nuclei)
    found: dict[str, np.ndarray] = {}
    for part in PARTS:
        found |= part(field)
    table = np.column_stack([found[name] for name in FEATURES])
    return np.nan_to_num(table, nan=0.0, posinf=0.0, neginf=0.0).astype(np.float32)


class _Field:
    """The pixels of the cells of one field, cell after cell, with what several features share."""

    def __init__(self, image: np.ndarray, label_map: np.ndarray, cells: CellPixels, nuclei: np.ndarray | None) -> None:
        self.cells, self.owner, self.label_map = cells, cells.owner, label_map
        planes = image.astype(np.float32) / 255
        self.green_plane = planes[GREEN]
        self.red, self.green, self.blue, self.yellow = (self.take(plane) for plane in planes)
        self.blurred = {sigma: _blur(planes[GREEN], sigma) for sigma in SCALES}
        self.fine = self.take(self.blurred[1.0] - self.blurred[2.0])
        self.fine_other = {
            name: self.take(_fine(planes[channel])) for name, channel in (("red", RED), ("yellow", YELLOW))
        }
        self.mean = self.average(self.green)
        self.depth_px = self.take(_depth(label_map))
        self.depth = self.depth_px / np.maximum(self.largest(self.depth_px), 1)[self.owner]
        smooth_blue = self.take(cv2.blur(planes[BLUE], (3, 3), borderType=cv2.BORDER_REFLECT))
        self.nucleus = self._nucleus(smooth_blue) if nuclei is None else self.take(nuclei) > 0

    def take(self, plane: np.ndarray) -> np.ndarray:
        """The plane's values in the cells' pixels, (P,)."""
        return plane.ravel()[self.cells.order]

    def largest(self, values: np.ndarray) -> np.ndarray:
        """The maximum of each cell, (N,)."""
        return np.maximum.reduceat(values, self.cells.starts)

    def average(self, values: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
        """The mean of each cell (N,), over the pixels `where` (P,) if given; NaN without any."""
        starts, number = self.cells.starts, self.cells.sizes
        if where is not None:
            values, number = values * where, np.add.reduceat(where, starts, dtype=np.int64)
        total = np.add.reduceat(values, starts, dtype=np.float64)
        return np.divide(total, number, out=np.full(len(starts), np.nan), where=number > 0)

    def deviation(self, values: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
        """The standard deviation of each cell, (N,)."""
        return np.sqrt(self.average(self.centred(values, where) ** 2, where))

    def centred(self, values: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
        """The values less the mean of their cell, (P,) float32."""
        return values - np.nan_to_num(self.average(values, where)).astype(np.float32)[self.owner]

    def correlation(self, a: np.ndarray, b: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
        """Pearson's correlation of two channels in each cell (N,); 0 where one of them is flat."""
        a, b = self.centred(a, where), self.centred(b, where)
        both, aa, bb = (self.average(x, where) for x in (a * b, a * a, b * b))
        return both / (np.sqrt(aa * bb) + 1e-6)

    def _nucleus(self, blue: np.ndarray) -> np.ndarray:
        """Pixels brighter in blue than halfway between the cell's dark and bright ends."""
        low, high = _quantiles(blue, self.cells, (0.2, 0.97))
        return blue > (low + 0.45 * (high - low))[self.owner]


def _blur(plane: np.ndarray, sigma: float) -> np.ndarray:
    """Blur by about a Gaussian: two box filters, whose cost does not grow with sigma."""
    width = round(float(np.sqrt(6 * sigma**2 + 1))) | 1
    once = cv2.blur(plane, (width, width), borderType=cv2.BORDER_REPLICATE)
    return cv2.blur(once, (width, width), borderType=cv2.BORDER_REPLICATE)


def _fine(plane: np.ndarray) -> np.ndarray:
    return _blur(plane, 1.0) - _blur(plane, 2.0)


def _depth(label_map: np.ndarray) -> np.ndarray:
    """Distance in pixels from each cell pixel to the nearest pixel of another cell or of the background."""
    border = np.zeros(label_map.shape, bool)
    rows, columns = label_map[1:] != label_map[:-1], label_map[:, 1:] != label_map[:, :-1]
    border[1:] |= rows
    border[:-1] |= rows
    border[:, 1:] |= columns
    border[:, :-1] |= columns
    if not border.any():
        return np.ones(label_map.shape, np.float32)
    depth = cv2.distanceTransform((~border).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(depth, np.float32)


def _quantiles(values: np.ndarray, cells: CellPixels, wanted: tuple[float, ...]) -> np.ndarray:
    """Return quantiles of each cell, (len(wanted), N)."""
    parts = [np.sort(part) for part in np.split(values, cells.starts[1:])]
    ranks = np.array(wanted)[:, None] * (cells.sizes - 1)
    low = ranks.astype(np.int64)
    high = np.minimum(low + 1, cells.sizes - 1)
    ordered = np.concatenate(parts)
    below, above = ordered[cells.starts + low], ordered[cells.starts + high]
    return below + (above - below) * (ranks - low)


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """log((a + e) / (b + e)); 0 where a side has no pixels."""
    return np.nan_to_num(np.log((a + EPSILON) / (b + EPSILON)))


def _intensity(field: _Field) -> dict[str, np.ndarray]:
    mean, centred = field.mean, field.centred(field.green)
    deviation = np.sqrt(field.average(centred**2))
    outside = field.green_plane[field.label_map == 0]
    background = np.median(outside) if outside.size else 0.0
    above = np.maximum(mean - background, 0)
    rank = mean.argsort().argsort() / max(1, len(mean) - 1)
    q10, q50, q90, q99 = _quantiles(field.green, field.cells, (0.1, 0.5, 0.9, 0.99))
    return {
        "green_mean": np.log(mean + EPSILON),
        "green_to_field": _ratio(mean, np.full_like(mean, np.median(mean))),
        "green_rank": rank,
        "green_to_background": above / (np.quantile(above, 0.9) + EPSILON),
        "green_variation": deviation / (mean + EPSILON),
        "green_skew": field.average(centred**3) / (deviation**3 + EPSILON**3),
        "green_q10": _ratio(q10, mean),
        "green_q50": _ratio(q50, mean),
        "green_q90": _ratio(q90, mean),
        "green_q99": _ratio(q99, mean),
    }


def _texture(field: _Field) -> dict[str, np.ndarray]:
    mean = field.mean + EPSILON
    energy, out = {}, {}
    for low, high in pairwise(SCALES):
        name = f"texture_{low:.0f}_{high:.0f}"
        energy[name] = field.deviation(field.take(field.blurred[low] - field.blurred[high]))
        out[name] = np.log(energy[name] / mean + 0.01)
    fine_spread = field.deviation(field.fine) + 1e-4
    out["texture_grain"] = np.log((energy["texture_1_2"] + 1e-4) / (energy["texture_4_8"] + 1e-4))
    out["texture_skew"] = field.average((field.fine / fine_spread[field.owner]) ** 3)
    out["spots"] = field.average((field.fine > 0.12 * mean[field.owner]).astype(np.float32))
    opened = field.take(cv2.morphologyEx(field.green_plane, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8)))
    out["granularity"] = (field.mean - field.average(opened)) / mean
    return out


def _position(field: _Field) -> dict[str, np.ndarray]:
    out = {}
    for name, low, high in zip(("outer", "second", "third", "inner"), RINGS[:-1], RINGS[1:], strict=True):
        inside = (field.depth >= low) & ((field.depth < high) | (high == 1))
        out[f"ring_{name}"] = _ratio(field.average(field.green, inside), field.mean)
    line = field.depth_px < 3
    band = (field.depth_px >= 4) & (field.depth_px < 9)
    at_edge = field.average(field.green, line)
    out["membrane"] = _ratio(at_edge, field.average(field.green, band))
    out["edge_variation"] = field.deviation(field.green, line) / (np.nan_to_num(at_edge) + EPSILON)
    return out


def _compartments(field: _Field) -> dict[str, np.ndarray]:
    inside, outside = field.nucleus, ~field.nucleus
    mask = np.zeros(field.label_map.shape, np.uint8)
    mask.ravel()[field.cells.order[inside]] = 1
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    core = field.take(cv2.erode(mask, cross, iterations=2)) > 0
    halo = (field.take(cv2.dilate(mask, cross, iterations=5)) > 0) & outside
    nucleus, cytoplasm = field.average(field.green, inside), field.average(field.green, outside)
    share = field.average(inside.astype(np.float32))
    bright = field.largest(np.where(inside, field.take(field.blurred[1.0]), 0))
    return {
        "nucleus_to_cytoplasm": _ratio(nucleus, cytoplasm),
        "nucleus_share": np.nan_to_num(nucleus) * share / (field.mean + EPSILON),
        "nucleus_variation": field.deviation(field.green, inside) / (nucleus + EPSILON),
        "nucleus_peak": _ratio(bright, nucleus),
        "nucleus_rim": _ratio(field.average(field.green, inside & ~core), field.average(field.green, core)),
        "perinuclear": _ratio(field.average(field.green, halo), field.average(field.green, outside & ~halo)),
        "cytoplasm_variation": field.deviation(field.green, outside) / (cytoplasm + EPSILON),
        "nucleus_fine": field.deviation(field.fine, inside) / (nucleus + EPSILON),
        "cytoplasm_fine": field.deviation(field.fine, outside) / (cytoplasm + EPSILON),
        "nucleus_area": share,
    }


def _company(field: _Field) -> dict[str, np.ndarray]:
    outside, green = ~field.nucleus, field.green
    return {
        "with_red": field.correlation(green, field.red),
        "with_blue": field.correlation(green, field.blue),
        "with_yellow": field.correlation(green, field.yellow),
        "with_red_outside": field.correlation(green, field.red, outside),
        "with_yellow_outside": field.correlation(green, field.yellow, outside),
        "with_blue_inside": field.correlation(green, field.blue, field.nucleus),
        "fine_with_red": field.correlation(field.fine, field.fine_other["red"]),
        "fine_with_yellow": field.correlation(field.fine, field.fine_other["yellow"]),
    }


def _shape(field: _Field) -> dict[str, np.ndarray]:
    sizes = field.cells.sizes
    # a disk of radius r has a mean depth of r / 3: the ratio falls for every other shape
    mean_depth = field.average(field.depth_px)
    return {"area": np.log(sizes), "roundness": 3 * mean_depth * np.sqrt(np.pi / sizes)}


PARTS: tuple[Callable[[_Field], dict[str, np.ndarray]], ...] = (
    _intensity,
    _texture,
    _position,
    _compartments,
    _company,
    _shape,
)
