"""Cell features that a biologist would name: where in the cell the protein is, how it is textured, what it goes with.

All are ratios, correlations or shapes of profiles, which change little when the protein's stain is brighter or weaker.
They are made from the cells' pixels, with their distances to nuclei and edges.
"""

from collections.abc import Callable, Mapping
from functools import cache, cached_property
from itertools import pairwise

import cv2
import numpy as np
from skimage.measure import regionprops

from wsss.cells.regions import CellPixels, group_pixels
from wsss.core.channels import HPA_STAINS, Stains

NUCLEUS_SIGMA = 1.5
"""Blur of the nuclear stain in pixels before nuclei are estimated."""
NUCLEUS_LEVEL = 0.45
"""Height between a cell's dark and bright ends of its stain from which a pixel belongs to its nucleus."""


class FieldPixels:
    """The pixels (P,) of the cells of one field, cell after cell, and statistics of each cell (N,)."""

    def __init__(
        self, image: np.ndarray, label_map: np.ndarray, nuclei: np.ndarray | None, stains: Stains = HPA_STAINS[0]
    ) -> None:
        """Prepare a field.

        Args:
            image: (C, H, W) uint8.
            label_map: (H, W) int, 0 background; ids may have gaps.
            nuclei: (H, W), not 0 in nuclei; None to estimate each cell's nucleus from its stain.
            stains: what the channels show. Without a nuclear stain, no pixel is of a nucleus.
        """
        self.stains = stains
        self.signal = stains.signal
        self.label_map = label_map
        self.cells = group_pixels(label_map)
        self.owner = self.cells.owner
        self.planes = image.astype(np.float32) / 255
        self._blurred: dict[tuple[int, float], np.ndarray] = {}
        mask = self._nuclei(nuclei)
        self.nucleus = self.take(mask) > 0
        self.cytoplasm = ~self.nucleus
        inside = np.zeros(label_map.shape, np.uint8)
        inside.ravel()[self.cells.order] = self.nucleus
        self.depth = self.take(_depth(label_map))
        """(P,) distance in pixels to the nearest pixel of another cell or of the background."""
        self.from_nucleus = self.take(_distance(1 - inside))
        """(P,) distance in pixels to the nearest nucleus, 0 inside; without a nuclear stain, to the cell's middle."""
        if stains.nucleus is None:
            self.from_nucleus = self.largest(self.depth)[self.owner] - self.depth
        self.in_nucleus = self.take(_distance(inside))
        """(P,) distance in pixels to the nearest pixel outside nuclei, 0 there."""

    def take(self, plane: np.ndarray) -> np.ndarray:
        """The plane's values in the cells' pixels, (P,)."""
        return plane.ravel()[self.cells.order]

    @cached_property
    def green(self) -> np.ndarray:
        """(P,) the protein, in [0, 1]."""
        return self.take(self.planes[self.stains.signal])

    def blurred(self, channel: int, sigma: float) -> np.ndarray:
        """A channel (H, W) after a Gaussian of `sigma` pixels."""
        key = channel, sigma
        if key not in self._blurred:
            self._blurred[key] = blur(self.planes[channel], sigma)
        return self._blurred[key]

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

    def centred(self, values: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
        """The values less the mean of their cell, (P,) float32."""
        return values - np.nan_to_num(self.average(values, where)).astype(np.float32)[self.owner]

    def deviation(self, values: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
        """The standard deviation of each cell, (N,)."""
        return np.sqrt(self.average(self.centred(values, where) ** 2, where))

    def correlation(self, a: np.ndarray, b: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
        """Pearson's correlation of two channels in each cell (N,); 0 where one of them is flat."""
        a, b = self.centred(a, where), self.centred(b, where)
        both, aa, bb = (self.average(x, where) for x in (a * b, a * a, b * b))
        return both / (np.sqrt(aa * bb) + 1e-6)

    def quantiles(self, values: np.ndarray, wanted: tuple[float, ...], where: np.ndarray | None = None) -> np.ndarray:
        """Quantiles of each cell (len(wanted), N), over the pixels `where` (P,) if given; NaN without any."""
        owner = self.owner if where is None else self.owner[where]
        kept = values if where is None else values[where]
        kept = kept[np.lexsort((kept, owner))]
        sizes = np.bincount(owner, minlength=len(self.cells))
        starts = np.cumsum(sizes) - sizes
        ranks = np.array(wanted)[:, None] * np.maximum(sizes - 1, 0)
        low = ranks.astype(np.int64)
        high = np.minimum(low + 1, np.maximum(sizes - 1, 0))
        kept = np.append(kept, 0)  # for cells at the end without a pixel
        below, above = kept[np.minimum(starts + low, len(kept) - 1)], kept[np.minimum(starts + high, len(kept) - 1)]
        return np.where(sizes > 0, below + (above - below) * (ranks - low), np.nan)

    def _nuclei(self, given: np.ndarray | None) -> np.ndarray:
        """Return (H, W) uint8: the given nuclei, or the largest part of each cell that is bright, holes filled."""
        mask = np.zeros(self.label_map.shape, np.uint8)
        if not len(self.cells) or self.stains.nucleus is None:
            return mask
        if given is not None:
            return (given > 0).astype(np.uint8)
        values = self.take(self.blurred(self.stains.nucleus.channel, NUCLEUS_SIGMA))
        low, high = self.quantiles(values, (0.2, 0.97))
        mask.ravel()[self.cells.order] = values > (low + NUCLEUS_LEVEL * (high - low))[self.owner]
        mask = np.asarray(cv2.morphologyEx(mask, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))))
        _, outside = cv2.connectedComponents(np.pad(1 - mask, 1, constant_values=1), connectivity=4)
        mask[(outside != outside[0, 0])[1:-1, 1:-1]] = 1  # holes
        return _largest_parts(mask, self.cells, self.label_map.shape)


def _largest_parts(mask: np.ndarray, cells: CellPixels, shape: tuple[int, ...]) -> np.ndarray:
    """Keep the largest connected part of a mask (H, W) uint8 in each cell."""
    count, parts = cv2.connectedComponents(mask, connectivity=4)
    part = parts.ravel()[cells.order].astype(np.int64)
    known, pair = np.unique(cells.owner * count + part, return_inverse=True)
    area = np.bincount(pair) * (known % count > 0)
    best = np.zeros(len(cells), np.int64)
    np.maximum.at(best, known // count, area)
    out = np.zeros(shape, np.uint8)
    out.ravel()[cells.order] = (part > 0) & (area[pair] == best[cells.owner])
    return out


def blur(plane: np.ndarray, sigma: float) -> np.ndarray:
    """Blur (H, W) float32 by a Gaussian of `sigma` pixels."""
    return cv2.GaussianBlur(plane, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)


def _distance(mask: np.ndarray) -> np.ndarray:
    """Distance in pixels from each pixel of a mask (H, W) uint8 to the nearest one outside it, 0 there."""
    if mask.all():
        return np.ones(mask.shape, np.float32)
    return np.asarray(cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)


def _depth(label_map: np.ndarray) -> np.ndarray:
    """Distance in pixels from each cell pixel to the nearest pixel of another cell or of the background."""
    border = np.zeros(label_map.shape, bool)
    rows, columns = label_map[1:] != label_map[:-1], label_map[:, 1:] != label_map[:, :-1]
    border[1:] |= rows
    border[:-1] |= rows
    border[:, 1:] |= columns
    border[:, :-1] |= columns
    return _distance((~border).astype(np.uint8))


EPSILON = 0.004
"""One grey level of 255: added to both sides of a ratio, so that darkness gives 1 and not noise."""
ZONES = 5
"""Parts of the way from the nucleus (1) to the cell's edge (5)."""
EDGE_BANDS = (0.0, 1.5, 2.5, 3.5, 5.0, 8.0, 13.0)
"""Borders in pixels of the bands along the cell's edge."""
SIGMAS = (0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0)
"""Blurs in pixels between which the texture energies lie."""
OPENINGS = (3, 5, 9, 13)
"""Widths in pixels up to which grains are counted."""
DIRECTIONS = 36
"""Directions from the nucleus in which the rim is looked at."""
LAGS = (2, 4, 8)
"""Distances in pixels over which the protein is compared with itself."""
PARTS_OF_CELL = ("cytoplasm", "nucleus")

Columns = dict[str, np.ndarray]


@cache
def describe_features(views: tuple[Stains, ...] = HPA_STAINS) -> Mapping[str, str]:
    """Return every feature of some views of a field in words, by name, in the order of the columns."""
    words_of: dict[str, str] = {}
    for stains in views:
        words = {name: text.replace("protein", stains.called) for name, text in _describe(stains).items()}
        words_of |= {stains.prefix + name: text for name, text in words.items() if _makes_sense(name, stains)}
    return words_of


def _makes_sense(name: str, stains: Stains) -> bool:
    """Say whether a feature has pixels and stains to be made of."""
    if stains.nucleus is None and (name.startswith("nucleus_") or name in ("dark_dna", "excess_halo")):
        return False
    return bool(stains.other_stains) or not (name.startswith("excess_") or name.endswith(("_explained", "_rest")))


def _describe(stains: Stains) -> dict[str, str]:
    words = {}
    zones = {"nucleus_inner": "the inside of the nucleus", "nucleus_outer": "the outer part of the nucleus"}
    start = "nucleus" if stains.nucleus else "middle"
    zones |= {f"zone_{k}": f"zone {k} of {ZONES} from {start} to edge" for k in range(1, ZONES + 1)}
    for name, place in zones.items():
        words[name] = f"protein in {place}, relative to the cell"
        for stain in stains.others:
            words[f"{name}_to_{stain.name}"] = f"protein in {place}, relative to the cell and to the {stain.words}"
    for k, (low, high) in enumerate(pairwise(EDGE_BANDS), 1):
        words[f"edge_{k}"] = f"protein {low:g} to {high:g} px from the cell's edge, relative to the cytoplasm"
    words |= {
        "rim_mean": "protein: brightest line at the edge against the band inside, mean over directions",
        "rim_median": "protein: brightest line at the edge against the band inside, median over directions",
        "rim_low": "protein: brightest line at the edge against the band inside, weakest quarter of the directions",
        "rim_high": "protein: brightest line at the edge against the band inside, strongest quarter of the directions",
        "rim_variation": "protein: unevenness along the cell's edge",
    }
    for part in PARTS_OF_CELL:
        here = f"protein in the {part}"
        for stain in stains.other_stains:
            words[f"{part}_follows_{stain.name}"] = f"{here} goes with the {stain.words}, the other stains considered"
        words[f"{part}_explained"] = f"{here}: share of its variation that the stains explain"
        words[f"{part}_rest"] = f"{here}: variation that the stains do not explain"
    for name, place in (
        ("edge", "at the edge"),
        ("edge_inner", "just inside the edge"),
        ("middle", "midway from nucleus to edge"),
        ("halo", "around the nucleus"),
    ):
        words[f"excess_{name}"] = f"protein {place}: more than the stains explain"
    for part in PARTS_OF_CELL:
        here = f"protein in the {part}"
        for low, high in pairwise(SIGMAS):
            words[f"{part}_texture_{low:g}"] = f"{here}: structures of {low:g} to {high:g} px"
            if low in (1, 2, 4):
                words[f"{part}_skew_{low:g}"] = f"{here}: such of {low:g} px bright on dark, or the reverse"
                words[f"{part}_contrast_{low:g}"] = f"{here}: such of {low:g} px against their surroundings"
        words[f"{part}_coarseness"] = f"{here}: coarse against fine structures"
        for share in (5, 25, 75, 90, 97):
            words[f"{part}_q{share:02}"] = f"{here}: its {share} % quantile against its median"
    for sigma in (1, 2):
        for part in (*PARTS_OF_CELL, "edge"):
            words[f"{part}_ridges_{sigma}"] = f"protein at the {part}: bright lines of about {2 * sigma} px"
            if part != "edge":
                words[f"{part}_spots_{sigma}"] = f"protein in the {part}: bright spots of about {2 * sigma} px"
                words[f"{part}_holes_{sigma}"] = f"protein in the {part}: dark spots of about {2 * sigma} px"
        words[f"alignment_{sigma}"] = f"protein in the cytoplasm: structures of {2 * sigma} px that lie side by side"
        words[f"cytoplasm_radial_{sigma}"] = f"protein in the cytoplasm: changes away from the nucleus ({sigma} px)"
        words[f"edge_radial_{sigma}"] = f"protein at the edge: changes across rather than along it ({sigma} px)"
        words[f"slope_{sigma}"] = f"protein in the cytoplasm: rises (above 0) or falls towards the edge ({sigma} px)"
    words |= {f"likeness_{lag}": f"protein in the cytoplasm: resembles itself {lag} px away" for lag in LAGS}
    words["dark_dna"] = "protein in the nucleus: where DNA is sparse (nucleoli) against where it is dense"
    for sigma in (1, 2, 4):
        words[f"nucleus_peak_{sigma}"] = f"protein in the nucleus: its brightest spot of about {2 * sigma} px"
        words[f"nucleus_pit_{sigma}"] = f"protein in the nucleus: its darkest spot of about {2 * sigma} px"
    for part in PARTS_OF_CELL:
        for width in OPENINGS:
            words[f"{part}_grains_{width}"] = f"protein in the {part}: share of the signal in grains of {width} px"
    words |= {
        "nucleus_to_cytoplasm": "protein: nucleus against cytoplasm",
        "brightness": "protein: mean brightness above the darkest cell pixels, logarithmic",
    }
    for stain in stains.others[::-1]:
        words[f"to_{stain.name}"] = f"protein: brightness relative to the {stain.words}"
    words["nucleus_depth"] = "cell: distance of the nucleus from the edge, logarithmic"
    if stains.shape:
        words |= SHAPES
    return words


SHAPES = {
    "shape_area": "cell: area, logarithmic",
    "shape_eccentricity": "cell: elongation, 0 for a circle",
    "shape_solidity": "cell: share of its convex hull that it fills",
    "shape_roundness": "cell: area against that of a circle of the same perimeter",
}
"""What the outline of a cell says, in words, by name."""

DESCRIPTIONS = describe_features()
"""Every feature of images of the Atlas in words, by name."""


def cell_features(
    image: np.ndarray,
    label_map: np.ndarray,
    nuclei: np.ndarray | None = None,
    views: tuple[Stains, ...] = HPA_STAINS,
) -> np.ndarray:
    """Describe the protein's pattern in every cell.

    Args:
        image: (C, H, W) uint8.
        label_map: (H, W) int, 0 background; ids may have gaps.
        nuclei: (H, W), not 0 in nuclei; None to estimate each cell's nucleus from its stain.
        views: what the channels show, see `stains_of`.

    Returns:
        (N, F) float32, all finite, rows in the order of sorted ids, columns as in `describe_features(views)`.

    Raises:
        ValueError: sizes differ, or the image lacks a channel.
    """
    most = max(k for stains in views for k in (stains.signal, *(stain.channel for stain in stains.other_stains)))
    if image.ndim != 3 or len(image) <= most or image.shape[1:] != label_map.shape:
        raise ValueError(
            f"the image is {image.shape}, expected ({most + 1} or more, H, W) of the label map {label_map.shape}."
        )
    names, columns_of = describe_features(views), Columns()
    for stains in views:
        field = FieldPixels(image, label_map, nuclei, stains)
        if not len(field.cells):
            return np.zeros((0, len(names)), np.float32)
        parts = (*PARTS, _shape) if stains.shape else PARTS
        columns = {name: values for part in parts for name, values in part(field).items()}
        columns_of |= {stains.prefix + name: values for name, values in columns.items()}
    table = np.column_stack([columns_of[name] for name in names])
    return np.nan_to_num(table, nan=0.0, posinf=0.0, neginf=0.0).astype(np.float32)


def _shape(field: FieldPixels) -> Columns:
    """What the outline of the cell says."""
    numbered = np.zeros(field.label_map.shape, np.int32)
    numbered.ravel()[field.cells.order] = field.owner + 1
    regions = regionprops(numbered)
    area = np.array([region.area for region in regions])
    perimeter = np.array([max(region.perimeter, 1) for region in regions])
    return {
        "shape_area": np.log(area),
        "shape_eccentricity": np.array([region.eccentricity for region in regions]),
        "shape_solidity": np.array([region.solidity for region in regions]),
        "shape_roundness": np.minimum(4 * np.pi * area / perimeter**2, 2),
    }


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """log((a + e) / (b + e)); 0 where a side has no pixels."""
    return np.nan_to_num(np.log((np.maximum(a, 0) + EPSILON) / (np.maximum(b, 0) + EPSILON)))


def _parts(field: FieldPixels) -> dict[str, np.ndarray]:
    return {"cytoplasm": field.cytoplasm, "nucleus": field.nucleus}


def _way(field: FieldPixels) -> np.ndarray:
    """(P,) 0 at the nucleus, 1 at the cell's edge."""
    return field.from_nucleus / (field.from_nucleus + field.depth + 1e-6)


def _profile(field: FieldPixels) -> Columns:
    """Protein by the way from the middle of the nucleus to the edge, plain and relative to two stains."""
    inner = field.in_nucleus / np.maximum(field.largest(field.in_nucleus), 1)[field.owner] >= 0.5
    zone = np.minimum((_way(field) * ZONES).astype(np.int64), ZONES - 1)
    places = {"nucleus_inner": field.nucleus & inner, "nucleus_outer": field.nucleus & ~inner}
    places |= {f"zone_{k + 1}": field.cytoplasm & (zone == k) for k in range(ZONES)}
    stains = {stain.name: field.take(field.planes[stain.channel]) for stain in field.stains.others}
    mean, means = field.average(field.green), {name: field.average(stain) for name, stain in stains.items()}
    out = {}
    for name, place in places.items():
        out[name] = _ratio(field.average(field.green, place), mean)
        for stain, values in stains.items():
            out[f"{name}_to_{stain}"] = out[name] - _ratio(field.average(values, place), means[stain])
    return out


def _edge(field: FieldPixels) -> Columns:
    """Protein by distance from the edge, and its line along the edge by direction."""
    depth, cytoplasm = field.depth, field.average(field.green, field.cytoplasm)
    out = {}
    for k, (low, high) in enumerate(pairwise(EDGE_BANDS), 1):
        band = (depth >= low) & (depth < high) & field.cytoplasm
        out[f"edge_{k}"] = _ratio(field.average(field.green, band), cytoplasm)
    count = len(field.cells) * DIRECTIONS
    sector = np.minimum(((_angle(field) + np.pi) / (2 * np.pi) * DIRECTIONS).astype(np.int64), DIRECTIONS - 1)
    sector += field.owner * DIRECTIONS
    smooth = field.take(field.blurred(field.signal, 0.8))
    rim = np.full(count, -1.0)
    np.maximum.at(rim, sector, np.where(depth < 5, smooth, -1))
    inside = (depth >= 5) & (depth < 12) & field.cytoplasm
    number = np.bincount(sector, inside, count)
    within = np.bincount(sector, smooth * inside, count) / np.maximum(number, 1)
    seen = ((rim >= 0) & (number > 0)).reshape(-1, DIRECTIONS)
    line = np.log((np.maximum(rim, 0) + EPSILON) / (within + EPSILON)).reshape(seen.shape)
    lines = np.ma.array(line, mask=~seen)
    quarters = [_masked_quantile(lines, share) for share in (0.25, 0.5, 0.75)]
    rims = np.ma.array(rim.reshape(seen.shape), mask=~seen)
    return out | {
        "rim_mean": lines.mean(axis=1).filled(0),
        "rim_median": quarters[1],
        "rim_low": quarters[0],
        "rim_high": quarters[2],
        "rim_variation": (rims.std(axis=1) / (rims.mean(axis=1) + EPSILON)).filled(0),
    }


def _masked_quantile(table: np.ma.MaskedArray, share: float) -> np.ndarray:
    """Quantile of each row over what is not masked; 0 for rows without any."""
    known = ~np.ma.getmaskarray(table)
    ordered = np.sort(np.where(known, table.data, np.finfo(float).max), axis=1)
    rank = share * np.maximum(known.sum(axis=1) - 1, 0)
    low, high = np.floor(rank).astype(int), np.ceil(rank).astype(int)
    rows = np.arange(len(ordered))
    below, above = ordered[rows, low], ordered[rows, high]
    return np.where(known.any(axis=1), below + np.where(high > low, (above - below) * (rank - low), 0), 0)


def _angle(field: FieldPixels) -> np.ndarray:
    """(P,) direction from the middle of the cell's nucleus, or of the cell where it has none, in -pi..pi."""
    places = np.unravel_index(field.cells.order, field.label_map.shape)
    away = []
    for place in (p.astype(np.float64) for p in places):
        middle = field.average(place, field.nucleus)
        middle = np.where(np.isnan(middle), field.average(place), middle)
        away.append(place - middle[field.owner])
    return np.arctan2(*away)


def _company(field: FieldPixels) -> Columns:
    """Protein fitted by the other stains, in the cytoplasm and in the nucleus, and where it exceeds the fit."""
    other_stains, signal = field.stains.other_stains, field.signal
    if not other_stains:
        return {}
    channels = [signal, *(stain.channel for stain in other_stains)]
    smooth = {channel: field.take(field.blurred(channel, 1.5)) for channel in channels}
    out: dict[str, np.ndarray] = {}
    for part, place in _parts(field).items():
        green = field.centred(smooth[signal], place) * place
        stains = []
        for channel in channels[1:]:
            stain = field.centred(smooth[channel], place) * place
            spread = np.sqrt(field.average(stain**2)) + 1e-4
            stains.append(stain / spread[field.owner].astype(np.float32))
        gram = np.array([[field.average(a * b) for b in stains] for a in stains]).transpose(2, 0, 1)
        right = np.array([field.average(a * green) for a in stains]).T
        weights = np.linalg.solve(gram + 0.02 * np.eye(len(other_stains)), right[..., None])[..., 0]
        rest = green - sum(weights[field.owner, k].astype(np.float32) * stain for k, stain in enumerate(stains))
        mean = np.nan_to_num(field.average(field.green, place)) + EPSILON
        out |= {f"{part}_follows_{stain.name}": weights[:, k] / mean for k, stain in enumerate(other_stains)}
        out[f"{part}_explained"] = 1 - field.average(rest**2) / (field.average(green**2) + 1e-6)
        out[f"{part}_rest"] = np.log(np.sqrt(np.nan_to_num(field.average(rest**2, place))) / mean + 0.01)
        if part == "cytoplasm":
            way = _way(field)
            places = {
                "edge": field.depth < 2.5,
                "edge_inner": (field.depth >= 2.5) & (field.depth < 5),
                "middle": (way > 0.3) & (way < 0.7),
                "halo": field.from_nucleus < 4,
            }
            out |= {f"excess_{k}": field.average(rest, where & place) / mean for k, where in places.items()}
    return out


def _texture(field: FieldPixels) -> Columns:
    """Structures of the protein by size, their contrast and whether they are bright or dark; quantiles."""
    planes = [field.blurred(field.signal, sigma) for sigma in SIGMAS]
    smooth = field.take(field.blurred(field.signal, 0.8))
    out = {}
    for part, place in {"cytoplasm": field.cytoplasm & (field.depth >= 2), "nucleus": field.nucleus}.items():
        mean = np.nan_to_num(field.average(field.green, place)) + EPSILON
        energies = []
        for low, (fine, coarse) in zip(SIGMAS, pairwise(planes), strict=False):
            bands = field.take(fine - coarse)
            energy = np.nan_to_num(field.deviation(bands, place))
            energies.append(energy**2)
            out[f"{part}_texture_{low:g}"] = np.log(energy / mean + 0.005)
            if low in (1, 2, 4):
                scaled = field.centred(bands, place) / (energy[field.owner] + 1e-4)
                out[f"{part}_skew_{low:g}"] = field.average(scaled**3, place)
                local = field.take((fine - coarse) / (planes[-1] + EPSILON))
                out[f"{part}_contrast_{low:g}"] = np.log(np.nan_to_num(field.deviation(local, place)) + 0.005)
        total = np.sum(energies, axis=0) + 1e-9
        out[f"{part}_coarseness"] = np.tensordot(np.arange(len(energies)), np.array(energies), 1) / total
        q05, q25, q50, q75, q90, q97 = field.quantiles(smooth, (0.05, 0.25, 0.5, 0.75, 0.9, 0.97), place)
        for name, values in (("05", q05), ("25", q25), ("75", q75), ("90", q90), ("97", q97)):
            out[f"{part}_q{name}"] = _ratio(values, q50)
    return out


def _lines(field: FieldPixels) -> Columns:
    """Lines and spots from the second derivatives of the protein, directions from its first ones."""
    angle = _angle(field)
    outwards = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    inner = field.cytoplasm & (field.depth >= 3)
    cytoplasm = field.average(field.green, field.cytoplasm) + EPSILON
    out = {}
    for sigma in (1, 2):
        gy, gx = np.gradient(field.blurred(field.signal, float(sigma)))
        gyy, gyx = np.gradient(gy)
        gxx = np.gradient(gx, axis=1)
        middle, apart = (gxx + gyy) / 2, np.sqrt(((gxx - gyy) / 2) ** 2 + gyx**2)
        low, high = middle - apart, middle + apart
        spots = np.maximum(-high, 0)
        kinds = {"ridges": np.maximum(-low, 0) - spots, "spots": spots, "holes": np.maximum(low, 0)}
        places = {"cytoplasm": inner, "nucleus": field.nucleus, "edge": field.cytoplasm & (field.depth < 3)}
        for part, place in places.items():
            mean = np.nan_to_num(field.average(field.green, place)) + EPSILON
            for kind in ("ridges",) if part == "edge" else tuple(kinds):
                strength = np.nan_to_num(field.average(field.take(kinds[kind]), place))
                out[f"{part}_{kind}_{sigma}"] = np.log(strength / mean + 0.003)
        xx, yy, xy = (blur(plane, 2.0 * sigma) for plane in (gx * gx, gy * gy, gx * gy))
        aligned, total = (field.take(p) for p in (np.sqrt((xx - yy) ** 2 + 4 * xy**2), xx + yy))
        out[f"alignment_{sigma}"] = field.average(aligned, inner) / (field.average(total, inner) + 1e-7)
        gx, gy = field.take(gx), field.take(gy)
        across, along = gx * outwards[0] + gy * outwards[1], gy * outwards[0] - gx * outwards[1]
        for part, place in (("cytoplasm", inner), ("edge", field.cytoplasm & (field.depth < 4))):
            sides = (np.sqrt(field.average(side**2, place)) for side in (across, along))
            out[f"{part}_radial_{sigma}"] = _ratio(*sides)
        out[f"slope_{sigma}"] = field.average(across, inner) / cytoplasm
    return out


def _likeness(field: FieldPixels) -> Columns:
    """Correlation of the protein in the cytoplasm with itself some pixels away."""
    inner = field.cytoplasm & (field.depth >= 2)
    number = field.take(field.label_map)
    out = {}
    for lag in LAGS:
        both = np.zeros(())
        for axis in (0, 1):
            there = np.roll(field.label_map, lag, axis)
            np.moveaxis(there, axis, 0)[:lag] = 0  # from the other side of the image
            same = inner & (field.take(there) == number)
            moved = field.take(np.roll(field.planes[field.signal], lag, axis))
            both = both + field.correlation(field.green, moved, same)
        out[f"likeness_{lag}"] = np.asarray(both) / 2
    return out


def _nucleus(field: FieldPixels) -> Columns:
    """Where in the nucleus the protein is: with sparse or dense DNA, in spots or around them."""
    core = field.nucleus & (field.in_nucleus > 2)
    if field.stains.nucleus is None:
        return {}
    blue = field.take(field.blurred(field.stains.nucleus.channel, 1.5))
    sparse, dense = (bound[field.owner] for bound in field.quantiles(blue, (0.2, 0.8), core))
    at_sparse, at_dense = (field.average(field.green, core & side) for side in (blue <= sparse, blue >= dense))
    out = {"dark_dna": _ratio(at_sparse, at_dense)}
    mean = field.average(field.green, field.nucleus) + EPSILON
    for sigma in (1, 2, 4):
        coarse = SIGMAS[SIGMAS.index(sigma) + 2]
        bands = field.take(field.blurred(field.signal, float(sigma)) - field.blurred(field.signal, coarse))
        out[f"nucleus_peak_{sigma}"] = field.largest(np.where(core, bands, -1)) / mean
        out[f"nucleus_pit_{sigma}"] = field.largest(np.where(core, -bands, -1)) / mean
    return out


def _grains(field: FieldPixels) -> Columns:
    """Share of the protein that openings of rising width take away."""
    out, last = {}, field.planes[field.signal]
    for width in OPENINGS:
        disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
        opened = cv2.morphologyEx(field.planes[field.signal], cv2.MORPH_OPEN, disk)
        taken, last = field.take(last - opened), opened
        for part, place in _parts(field).items():
            mean = field.average(field.green, place) + EPSILON
            out[f"{part}_grains_{width}"] = field.average(taken, place) / mean
    return out


def _levels(field: FieldPixels) -> Columns:
    """Brightness against haze, compartments and stains; the nucleus's place."""
    haze, others = float(np.quantile(field.green, 0.002)), field.stains.others
    mean = field.average(field.green)
    nucleus, cytoplasm = (field.average(field.green, part) - haze for part in (field.nucleus, field.cytoplasm))
    depth = field.average(field.depth, field.nucleus)
    return {
        "nucleus_to_cytoplasm": _ratio(nucleus, cytoplasm),
        "brightness": np.log(np.maximum(mean - haze, 0) + EPSILON),
        **{
            f"to_{other.name}": _ratio(mean, field.average(field.take(field.planes[other.channel]))) for other in others
        },
        "nucleus_depth": np.log(np.maximum(depth, 0.5)),
    }


PARTS: tuple[Callable[[FieldPixels], Columns], ...] = (
    _profile,
    _edge,
    _company,
    _texture,
    _lines,
    _likeness,
    _nucleus,
    _grains,
    _levels,
)
