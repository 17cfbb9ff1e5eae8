"""How an image of any size sits in a square store, and how results come back to it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from wsss.core.checks import DataError

FIELD_UM = 2048 * 0.08
"""Edge of a whole field of the Human Protein Atlas, in micrometres."""


@dataclass(frozen=True)
class Geometry:
    """An image of (height, width) pixels, scaled to fit a (size, size) square, its top left corner at (0, 0).

    The content fills rows 0..content_height-1 and columns 0..content_width-1; the rest is padding (zeros).
    """

    height: int
    width: int
    size: int

    @property
    def sizes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(H, W) of the original image, and of the stored square: label maps have one of them."""
        return (self.height, self.width), (self.size, self.size)

    @property
    def scale(self) -> float:
        """Stored pixels per original pixel."""
        return self.size / max(self.height, self.width)

    @property
    def content_height(self) -> int:
        """Rows of the square that hold the image."""
        return max(1, round(self.height * self.scale))

    @property
    def content_width(self) -> int:
        """Columns of the square that hold the image."""
        return max(1, round(self.width * self.scale))

    def stored_um(self, pixel_um: float | None) -> float:
        """Return the micrometres per stored pixel from those per original one; None for a whole field of the HPA."""
        longest = max(self.height, self.width)
        return (FIELD_UM / longest if pixel_um is None else pixel_um) / self.scale

    def image_to_store(self, image: np.ndarray) -> np.ndarray:
        """Scale (C, height, width) uint8 into (C, size, size) uint8; area averaging shrinks, bicubic enlarges."""
        import cv2

        out = np.zeros((len(image), self.size, self.size), np.uint8)
        method = cv2.INTER_AREA if self.scale < 1 else cv2.INTER_CUBIC
        for source, target in zip(image, out, strict=True):
            shape = (self.content_width, self.content_height)
            target[: shape[1], : shape[0]] = cv2.resize(source, shape, interpolation=method)
        return out

    def labels_to_store(self, label_map: np.ndarray) -> np.ndarray:
        """Scale a (height, width) label map into (size, size), nearest neighbour; one of that size passes as it is."""
        if label_map.shape == (self.size, self.size) and (self.height, self.width) != label_map.shape:
            return label_map
        out = np.zeros((self.size, self.size), label_map.dtype)
        rows, columns = self._centres()
        out[: self.content_height, : self.content_width] = label_map[rows[:, None], columns[None, :]]
        return out

    def labels_to_native(self, label_map: np.ndarray) -> np.ndarray:
        """Scale a (size, size) label map back to (height, width), nearest neighbour; a native map passes as it is."""
        if label_map.shape == (self.height, self.width):
            return label_map
        rows = _nearest(self.height, self.content_height)
        columns = _nearest(self.width, self.content_width)
        return label_map[rows[:, None], columns[None, :]]

    def _centres(self) -> tuple[np.ndarray, np.ndarray]:
        return _nearest(self.content_height, self.height), _nearest(self.content_width, self.width)


def _nearest(wanted: int, given: int) -> np.ndarray:
    """Return for each of `wanted` pixels the index of the nearest of `given` pixels over the same length."""
    return np.minimum(((np.arange(wanted) + 0.5) * given / wanted).astype(np.intp), given - 1)


MOST_FILLING = 1 << 36
"""Pixels in the boxes of polygons, times their corners, at most: each pixel is compared with every corner."""


def check_filling(rings: Iterable[np.ndarray], size: tuple[int, int], where: object) -> None:
    """Refuse polygons that would take hours to fill.

    Args:
        rings: (n, 2) of x, y in pixels.
        size: (H, W) of the image.
        where: the file, for messages.

    Raises:
        DataError: they would.
    """
    work = 0.0
    for ring in rings:
        low, high = ring.min(axis=0).clip(0), np.minimum(ring.max(axis=0) + 1, size[::-1])
        work += float((high - low).clip(0).prod()) * len(ring)
    if work > MOST_FILLING:
        raise DataError(
            f"{where} has polygons of {work:.1e} pixels times corners, more than {MOST_FILLING:.1e} are refused: "
            "simplify them."
        )


def enclosed(ring: np.ndarray) -> float:
    """Return the area of a ring, (n, 2) of x, y, in pixels."""
    x, y = ring.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


MOST_COVERED = 16
"""Times that the masks of an image may cover it, taken together."""


def check_covered(pixels: int, size: tuple[int, int], where: object) -> None:
    """Refuse masks that cover their image over and over: painting them takes as long as that.

    Raises:
        DataError: they do.
    """
    if pixels > max(1 << 24, MOST_COVERED * size[0] * size[1]):
        raise DataError(
            f"{where}: the masks of its cells have {pixels} pixels in all, more than {MOST_COVERED} times the image of "
            f"{size[0]} x {size[1]}: they are no cells."
        )


FAR = 1e9
EMPTY = np.zeros((0, 2, 2))


def fill(rings: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Return the pixels whose centres an odd number of rings encloses.

    A centre on an outline counts if its right side, or what is below it, is inside, as in Java and QuPath.

    Args:
        rings: (n, 2) of x, y; pixel (0, 0) reaches from 0 to 1.
        size: (H, W) of the image.

    Returns:
        (N, 2) int64: first flat number of a run of pixels, and the one behind its last.
    """
    height, width = size
    centred = [ring.clip(-FAR, FAR) - 0.5 for ring in rings]
    ends = np.concatenate([np.stack([ring, np.roll(ring, -1, axis=0)], axis=1) for ring in centred] or [EMPTY])
    ends = np.take_along_axis(ends, np.argsort(ends[..., 1:], axis=1), axis=1)  # the upper end of each edge first
    (x0, y0), (x1, y1) = ends[:, 0].T, ends[:, 1].T
    first, behind = (np.ceil(y.clip(0, height)).astype(np.int64) for y in (y0, y1))
    count = behind - first
    edge = np.repeat(np.arange(len(ends)), count)
    row = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    slope = (x1 - x0)[edge] / (y1 - y0)[edge]
    column = np.ceil((x0[edge] + (row - y0[edge]) * slope).clip(0, width)).astype(np.int64)
    crossings = np.sort(row * (width + 1) + column).reshape(-1, 2)  # an even number in each row
    rows, columns = np.divmod(crossings, width + 1)
    runs = rows * width + columns
    return runs[runs[:, 0] < runs[:, 1]]
