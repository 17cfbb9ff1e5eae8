"""The pixels of the cells of a field, with their distances to nuclei and edges, and statistics of each cell."""

from functools import cached_property

import cv2
import numpy as np

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
