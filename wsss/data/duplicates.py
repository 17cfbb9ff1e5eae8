"""Near-duplicate images, found by small thumbnails and verified on the stored pixels.

Every image leaves a thumbnail when it is prepared. The most similar thumbnails of each image are found by blocks of a
matrix product and ranked allowing for shifts; the first of them are verified on the stored pixels. So the cost of this
last step grows with the number of images, even if all of them look alike. Copies that were rotated by
90 degrees or mirrored are found by thumbnails that are turned one way.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from wsss.core.console import progress
from wsss.core.label_maps import Geometry

EDGE = 16
"""Edge of a thumbnail."""
COARSE = 8
"""Edge to which thumbnails are pooled for the search."""
ALIKE = 0.6
"""Correlation of pooled thumbnails from which a pair is verified."""
SAME = 0.6
"""Correlation of aligned, high-passed images from which a pair is a near-duplicate."""
BLOCK = 4096
NEAREST = 32
"""Most similar images of each image by pooled thumbnails."""
TURNED = 0.9
"""Correlation of thumbnails from which a pair is verified that is alike once one of the two is rotated or mirrored."""
PARTNERS = 5
"""Of these, by thumbnails, that are verified; copies of one image all find the same first ones."""
DETAIL = 128
"""Edge to which images are scaled for verification."""
SHIFT = 8
"""Largest shift looked for, in pixels of the detail image (1/16 of the edge)."""
STEPS = 25.0
"""int8 steps per standard deviation of a thumbnail channel."""


def thumbnail(stored: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return what an image looks like from afar, whatever its brightness.

    Args:
        stored: (C, size, size) uint8.
        geometry: where the image lies in it.

    Returns:
        (C, 16, 16) int8, each channel with mean 0 and standard deviation 25 (clipped); zeros for a constant channel.
    """
    content = stored[:, : geometry.content_height, : geometry.content_width]
    small = _shrink(content, EDGE)
    small -= small.mean((1, 2), keepdims=True)
    spread = small.std((1, 2), keepdims=True)
    scaled = np.divide(small * STEPS, spread, out=np.zeros_like(small), where=spread > 1e-3)
    return np.clip(np.rint(scaled), -127, 127).astype(np.int8)


def find_duplicates(thumbnails: np.ndarray, content: Callable[[int], np.ndarray]) -> list[tuple[int, int, float]]:
    """Find pairs of near-duplicate images.

    Args:
        thumbnails: (N, C, 16, 16) int8.
        content: gives the pixels of image i, (C, h, w) uint8 without padding; called for likely pairs only.

    Returns:
        (a, b, correlation) with a < b, sorted.
    """
    pairs = _most_similar(thumbnails, _alike(_vectors(thumbnails)))
    upright, turns = _upright(thumbnails)
    turned = _most_similar(upright, _alike(_vectors(upright)), TURNED)
    turned = turned[turns[turned[:, 0]] != turns[turned[:, 1]]]

    @lru_cache(maxsize=64)  # half a megabyte each
    def detail(i: int, turn: int) -> tuple[np.ndarray, np.ndarray]:
        fine = _detail(_turn(content(i), turn))
        return fine, np.fft.rfft2(fine)

    tries = [(a, b, 0, 0) for a, b in pairs.tolist()]
    tries += [(a, b, int(turns[a]), int(turns[b])) for a, b in turned.tolist()]
    duplicates: dict[tuple[int, int], float] = {}
    for a, b, turn_a, turn_b in progress(tries, "near-duplicates"):
        same = _correlation(*detail(a, turn_a), *detail(b, turn_b))
        if same >= SAME:
            duplicates[a, b] = max(round(same, 4), duplicates.get((a, b), 0.0))
    return sorted((a, b, same) for (a, b), same in duplicates.items())


def _turn(images: np.ndarray, turn: int) -> np.ndarray:
    """Mirror (..., h, w) images left to right (1) and top to bottom (2), then swap rows and columns (4)."""
    images = images[..., ::-1] if turn & 1 else images
    images = images[..., ::-1, :] if turn & 2 else images
    return images.swapaxes(-1, -2) if turn & 4 else images


def _upright(thumbnails: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn thumbnails (N, C, E, E) so that copies that were rotated or mirrored are alike: brighter to the right and to
    the bottom, and more so to the right. Returns them and (N,) the turn of each, see `_turn`.
    """
    place = np.arange(EDGE) - (EDGE - 1) / 2
    planes = thumbnails.sum(1, dtype=np.float32)
    right, down = planes.sum(1) @ place, planes.sum(2) @ place
    turns = (right < 0) + 2 * (down < 0) + 4 * (np.abs(down) > np.abs(right))
    upright = thumbnails.copy()
    for turn in range(1, 8):
        upright[turns == turn] = _turn(thumbnails[turns == turn], turn)
    return upright, turns


def _correlation(one: np.ndarray, one_fft: np.ndarray, two: np.ndarray, two_fft: np.ndarray) -> float:
    """Return the correlation of two images at the best shift of at most 1/16 of the edge.

    Args:
        one: (C, DETAIL, DETAIL) fine structure of the first image.
        one_fft: its transform.
        two: that of the second.
        two_fft: its transform.
    """
    peaks = np.fft.irfft2((one_fft * np.conj(two_fft)).sum(0), s=one.shape[1:])
    near = np.r_[: SHIFT + 1, -SHIFT:0]
    window = peaks[np.ix_(near, near)]
    row, column = np.unravel_index(np.argmax(window), window.shape)
    a, b = _overlap(one, two, int(near[row]), int(near[column]))
    norm = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / norm if norm > 0 else 0.0


def _overlap(one: np.ndarray, two: np.ndarray, dy: int, dx: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what two images (..., E, E) have in common if the first one lies (dy, dx) px further down and right."""
    edge = one.shape[-1]
    a = one[..., max(dy, 0) : edge + min(dy, 0), max(dx, 0) : edge + min(dx, 0)]
    b = two[..., max(-dy, 0) : edge + min(-dy, 0), max(-dx, 0) : edge + min(-dx, 0)]
    return a, b


def _shrink(image: np.ndarray, edge: int) -> np.ndarray:
    return np.stack([cv2.resize(c, (edge, edge), interpolation=cv2.INTER_AREA) for c in image.astype(np.float32)])


def _detail(image: np.ndarray) -> np.ndarray:
    """Return (C, DETAIL, DETAIL) float32 without slow changes of brightness, each channel of unit spread."""
    small = _shrink(image, DETAIL)
    small -= np.stack([cv2.GaussianBlur(channel, (0, 0), DETAIL / 16) for channel in small])
    spread = small.std((1, 2), keepdims=True)
    return np.divide(small, spread, out=np.zeros_like(small), where=spread > 1e-3)


def _vectors(thumbnails: np.ndarray) -> np.ndarray:
    """Pool thumbnails to (N, C * 64) float32 of unit length; zeros stay zeros."""
    count, channels = thumbnails.shape[:2]
    step = EDGE // COARSE
    blocks = thumbnails.reshape(count, channels, COARSE, step, COARSE, step)
    vectors = blocks.mean((3, 5), dtype=np.float32).reshape(count, -1)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)


def _alike(vectors: np.ndarray) -> np.ndarray:
    """Return pairs (P, 2) of a < b: each image with its NEAREST most similar ones, if they are ALIKE."""
    count = len(vectors)
    nearest = _Nearest(np.full((count, NEAREST), -1, np.float32), np.full((count, NEAREST), -1))
    for i in progress(range(0, count, BLOCK), "alike images"):
        for j in range(i, count, BLOCK):
            scores = vectors[i : i + BLOCK] @ vectors[j : j + BLOCK].T
            if i == j:
                np.fill_diagonal(scores, -1)
            else:
                nearest.offer(j, i, scores.T)
            nearest.offer(i, j, scores)
    mine, place = np.nonzero(nearest.score >= ALIKE - BLOCK * 1e-6)
    both = np.sort(np.stack([mine, nearest.partner[mine, place]], axis=1), axis=1)
    return np.unique(both, axis=0)


@dataclass
class _Nearest:
    """The most similar images of each image so far."""

    score: np.ndarray
    """(N, NEAREST) float32, falling."""
    partner: np.ndarray
    """(N, NEAREST) numbers of the images, -1 for none."""

    def offer(self, first: int, start: int, scores: np.ndarray) -> None:
        """Offer the images from `start` on, scores (R, M), to those from `first` on."""
        some = np.flatnonzero((scores >= ALIKE).any(axis=1))
        if not len(some):
            return
        scores = scores[some] - np.arange(scores.shape[1], dtype=np.float32) * 1e-6  # among equals the first ones
        most = min(NEAREST, scores.shape[1])
        top = np.argpartition(scores, -most, axis=1)[:, -most:]
        rows = first + some
        value = np.concatenate([self.score[rows], np.take_along_axis(scores, top, 1)], axis=1)
        who = np.concatenate([self.partner[rows], start + top], axis=1)
        order = np.lexsort((who, -value), axis=1)[:, :NEAREST]
        self.score[rows], self.partner[rows] = (np.take_along_axis(part, order, 1) for part in (value, who))


def _most_similar(thumbnails: np.ndarray, pairs: np.ndarray, least: float = -1) -> np.ndarray:
    """Keep the pairs (P, 2) in which one is among the PARTNERS most similar to the other, shifts up to 1 px allowed;
    only those that correlate by `least`.
    """
    scores = np.zeros(len(pairs), np.float32)
    for start in range(0, len(pairs), BLOCK):
        one, two = (thumbnails[pairs[start : start + BLOCK, side]].astype(np.float32) for side in (0, 1))
        shifted = [_cosine(*_overlap(one, two, dy, dx)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        scores[start : start + BLOCK] = np.max(shifted, axis=0)
    image, number = pairs.T.ravel(), np.tile(np.arange(len(pairs)), 2)  # each pair seen from both sides
    order = np.lexsort((pairs[:, ::-1].T.ravel(), -np.tile(scores.round(3), 2), image))
    rank = np.arange(len(order)) - np.searchsorted(image[order], image[order])
    kept = np.unique(number[order[rank < PARTNERS]])
    return pairs[kept[scores[kept] >= least]]


def _cosine(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Return the cosine between each of (N, C, h, w) and its like (N,); 0 where one of them is 0."""
    product = np.einsum("nchw,nchw->n", one, two)
    norm = np.sqrt(np.einsum("nchw,nchw->n", one, one) * np.einsum("nchw,nchw->n", two, two))
    return np.divide(product, norm, out=np.zeros_like(product), where=norm > 0)
