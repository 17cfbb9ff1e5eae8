"""Objects of images larger than memory, told apart while the rows come in: the same as in one piece."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from wsss.cells.mask_instances import EIGHT, REACH, mask_channel, objects_of

ROWS = 256
"""Rows that are gathered before their objects are looked for."""


class LargeObject(NamedTuple):
    """One object of a large image."""

    number: int
    """From 1 on, unique in the image."""
    y0: int
    x0: int
    mask: np.ndarray
    """(h, w) bool of its box, which begins at (y0, x0)."""


class Settled(NamedTuple):
    """Rows of which every object is known."""

    inside: np.ndarray
    """(rows, W) bool, the pixels of objects; from top to bottom, every row of the image once."""
    objects: list[LargeObject]
    """Those that were finished since; some of their rows may come later."""


def stream_objects(bands: Iterable[np.ndarray], kind: str, *, threshold: float, min_size: int) -> Iterator[Settled]:
    """Find the objects of an image whose rows come in from top to bottom, as `objects_of` finds them in one piece.

    Memory holds the rows of the highest connected part of the mask that is not at its end yet, and some around it.

    Args:
        bands: (K, rows, W) float in [0, 1] each.
        kind, threshold, min_size: as of `objects_of`.
    """
    window = _Window(kind, threshold, min_size)
    for band, last in _gathered(bands):
        yield window.add(band, last=last)


def _gathered(bands: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, bool]]:
    """Join bands to `ROWS` rows at least; say which is the last one."""
    waiting: list[np.ndarray] = []
    ready: np.ndarray | None = None
    for band in bands:
        waiting.append(band)
        if sum(part.shape[1] for part in waiting) >= ROWS:
            if ready is not None:
                yield ready, False
            ready, waiting = np.concatenate(waiting, axis=1), []
    rest = [part for part in (ready, *waiting) if part is not None]
    if rest:
        yield np.concatenate(rest, axis=1), True


class _Window:
    """The rows that objects may still be found in."""

    def __init__(self, kind: str, threshold: float, min_size: int) -> None:
        self.kind, self.threshold, self.min_size = kind, threshold, min_size
        self.probs: np.ndarray | None = None
        self.top = self.count = 0
        """The window's first row in the image, and the objects so far."""

    def add(self, band: np.ndarray, *, last: bool) -> Settled:
        """Take in more rows; hand out the objects that end in them, and the rows that no further object can have."""
        if self.probs is None:
            self.probs = band
            self.done, self.inside = (np.zeros(band.shape[1:], bool) for _ in range(2))
        else:
            empty = np.zeros(band.shape[1:], bool)
            self.probs = np.concatenate([self.probs, band], axis=1)
            self.done, self.inside = (np.concatenate([old, empty]) for old in (self.done, self.inside))
        parts = ndimage.label(mask_channel(self.probs, self.kind) >= self.threshold, EIGHT)[0]
        height = len(parts)
        end = height if last else max(0, height - REACH)  # below it surroundings are missing
        first_open = end
        objects: list[LargeObject] = []
        for number, box in enumerate(ndimage.find_objects(parts), 1):
            if box[0].stop > end:
                first_open = min(first_open, box[0].start)
            elif not self._is_done(parts, number, box):
                objects += self._objects_in(parts, number, box)
        return Settled(self._drop(height if last else max(0, first_open - REACH)), objects)

    def _is_done(self, parts: np.ndarray, number: int, box: tuple[slice, ...]) -> bool:
        """Whether a part of the mask was looked at before; its surroundings are kept for others."""
        return bool((self.done[box] & (parts[box] == number)).any())

    def _objects_in(self, parts: np.ndarray, number: int, box: tuple[slice, ...]) -> Iterator[LargeObject]:
        around = tuple(slice(max(0, axis.start - REACH), axis.stop + REACH) for axis in box)
        part = parts[around] == number
        assert self.probs is not None
        near = objects_of(self.probs[:, *around], self.kind, threshold=self.threshold, min_size=self.min_size)
        numbered = np.where(part, near, 0)
        self.done[around] |= part
        self.inside[around] |= numbered > 0
        for k, place in enumerate(ndimage.find_objects(numbered), 1):
            if place is not None:
                self.count += 1
                y0, x0 = (int(a.start + b.start) for a, b in zip(around, place, strict=True))
                yield LargeObject(self.count, self.top + y0, x0, numbered[place] == k)

    def _drop(self, rows: int) -> np.ndarray:
        """Forget the first rows; return where objects are in them."""
        assert self.probs is not None
        inside, self.top = self.inside[:rows], self.top + rows
        self.probs = self.probs[:, rows:].copy()
        self.done, self.inside = self.done[rows:].copy(), self.inside[rows:].copy()
        return inside
