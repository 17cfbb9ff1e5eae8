"""Masks and objects of images larger than memory: read part by part, found and written band by band."""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from uuid import NAMESPACE_URL, uuid5

import numpy as np
import tifffile
from scipy import ndimage

from wsss.cells.instances import EIGHT, REACH, drop_small, mask_channel, objects_of
from wsss.core.checks import DataError
from wsss.core.files import disk_errors
from wsss.core.rle import Order, encode_parts
from wsss.data.large import LargeImage
from wsss.data.masks import Contrast
from wsss.exports.annotations import cell_polygons, feature_text, geometry, write_feature_texts
from wsss.inference.semantic import MaskPredictor, predict_tiles

GATHERED_ROWS = 256
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
    small: int
    """How many were smaller than the minimum size, and left out."""


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
    """Join bands to `GATHERED_ROWS` rows at least; say which is the last one."""
    waiting: list[np.ndarray] = []
    ready: np.ndarray | None = None
    for band in bands:
        waiting.append(band)
        if sum(part.shape[1] for part in waiting) >= GATHERED_ROWS:
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
        first_open, self.small = end, 0
        objects: list[LargeObject] = []
        for number, box in enumerate(ndimage.find_objects(parts), 1):
            if box[0].stop > end:
                first_open = min(first_open, box[0].start)
            elif not self._is_done(parts, number, box):
                objects += self._objects_in(parts, number, box)
        return Settled(self._drop(height if last else max(0, first_open - REACH)), objects, self.small)

    def _is_done(self, parts: np.ndarray, number: int, box: tuple[slice, ...]) -> bool:
        """Whether a part of the mask was looked at before; its surroundings are kept for others."""
        return bool((self.done[box] & (parts[box] == number)).any())

    def _objects_in(self, parts: np.ndarray, number: int, box: tuple[slice, ...]) -> Iterator[LargeObject]:
        around = tuple(slice(max(0, axis.start - REACH), axis.stop + REACH) for axis in box)
        part = parts[around] == number
        assert self.probs is not None
        near = np.where(part, objects_of(self.probs[:, *around], self.kind, threshold=self.threshold), 0)
        numbered = drop_small(near, max(1, self.min_size))
        self.small += len(np.unique(near)) - len(np.unique(numbered))
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


EDGE = 512
"""Edge of the tiles of the TIFF that is written, px."""


class LargeResult(NamedTuple):
    """What was found in a large image."""

    area_px: int
    """Pixels of the mask."""
    n_objects: int
    """0 where objects are not separated."""
    small: int = 0
    """Objects that were smaller than the minimum size, and left out."""


def predict_large(predictor: MaskPredictor, image: LargeImage, out: Path, objects: Path | None = None) -> LargeResult:
    """Write the mask of a large image to `out`: a tiled TIFF, (H, W) uint8 of 0 and 255, there whole or not at all.

    With `objects`, that file gets the outlines of the objects as GeoJSON, numbered from 1 whatever the tiles, and the
    mask holds their pixels alone. Memory holds one band of tiles, whatever the image's height, and the rows of the
    highest connected part of the mask.

    Raises:
        DataError: the image has other channels than the network was trained with.
    """
    recipe, config = predictor.checkpoints[0].recipe, predictor.config
    if image.channels != recipe.masks.channels:
        raise DataError(
            f"{image.path} has {image.channels} channels, the network was trained with {recipe.masks.channels}."
        )
    contrast = Contrast.of(image.drawn) if predictor.stretches else None

    def read(y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        part = image.read(y0, y1, x0, x1)
        return part if contrast is None else contrast.apply(part)

    bands = predict_tiles(read, predictor.parts, image.size, tile=config.tile, overlap=config.overlap)
    probs = (band for _, band in bands)
    if objects is None:
        masks = (mask_channel(maps, predictor.target) >= config.threshold for maps in probs)
        return LargeResult(_write_mask(out, masks, image.size), 0)
    settled = stream_objects(probs, predictor.target, threshold=config.threshold, min_size=config.min_size or 0)
    return write_objects(settled, image.size, out, objects)


def write_objects(settled: Iterator[Settled], size: tuple[int, int], out: Path, objects: Path) -> LargeResult:
    """Write the mask and the outlines of the objects of an image of `size` (H, W) as they come."""
    count = small = 0
    # The picture's writer asks for rows, the outlines come on the way: they wait in a file that is gone at the end.
    with tempfile.TemporaryFile("w+", encoding="utf-8") as spool:

        def masks() -> Iterator[np.ndarray]:
            nonlocal count, small
            for rows in settled:
                for item in rows.objects:
                    spool.write(feature_text(_feature(item, out.stem)) + "\n")
                count, small = count + len(rows.objects), small + rows.small
                yield rows.inside

        area = _write_mask(out, masks(), size)
        spool.seek(0)
        write_feature_texts(objects, (line.rstrip("\n") for line in spool))
    return LargeResult(area, count, small)


def _feature(item: LargeObject, name: str) -> dict[str, Any]:
    """Return an object as QuPath reads it."""
    pieces = cell_polygons(item.mask.astype(np.uint8))[1]
    moved = [[ring + np.array([item.x0, item.y0]) for ring in rings] for rings in pieces]
    measured = {"cell_id": item.number, "area_px": int(item.mask.sum())}
    return {
        "type": "Feature",
        "id": str(uuid5(NAMESPACE_URL, f"wsss:{name}:{item.number}")),
        "geometry": geometry(moved),
        "properties": {"objectType": "detection", "name": f"{name} {item.number}", "measurements": measured},
    }


def _write_mask(out: Path, masks: Iterator[np.ndarray], size: tuple[int, int]) -> int:
    """Write masks of full width, (h, W) bool from top to bottom, as one tiled TIFF; return their area."""
    area = [0]
    part = out.with_name(f".{out.name}.part")  # tifffile wants a path: a stream without a name will not do
    with disk_errors(out):
        part.parent.mkdir(parents=True, exist_ok=True)
        try:
            tifffile.imwrite(
                part,
                _tiles(masks, size[1], area),
                shape=size,
                dtype=np.uint8,
                tile=(EDGE, EDGE),
                compression="zlib",
                bigtiff=True,
            )
            part.replace(out)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    return area[0]


def large_runs(mask: Path, order: Order) -> str:
    """Return the run-length text of a mask that `predict_large` has written, read part by part."""
    image = LargeImage(mask)
    height, width = image.size
    if order == "rows":
        return encode_parts(image.read(y, min(y + EDGE, height), 0, width).ravel() for y in range(0, height, EDGE))
    parts = (image.read(0, height, x, min(x + EDGE, width))[0] for x in range(0, width, EDGE))
    return encode_parts(part.ravel(order="F") for part in parts)


def _tiles(masks: Iterator[np.ndarray], width: int, area: list[int]) -> Iterator[np.ndarray]:
    """Cut masks of full width, (h, W) bool from top to bottom, into the tiles of a TIFF; add up their area."""
    band, filled = np.zeros((EDGE, width), np.uint8), 0
    for mask in masks:
        area[0] += int(mask.sum())
        while len(mask):
            fits = min(EDGE - filled, len(mask))
            band[filled : filled + fits] = mask[:fits].astype(np.uint8) * 255
            mask, filled = mask[fits:], filled + fits
            if filled == EDGE:
                yield from _cut(band)
                filled = 0
    if filled:
        yield from _cut(band[:filled])


def _cut(band: np.ndarray) -> Iterator[np.ndarray]:
    for x in range(0, band.shape[1], EDGE):
        tile = np.zeros((EDGE, EDGE), np.uint8)
        part = band[:, x : x + EDGE]
        tile[: part.shape[0], : part.shape[1]] = part
        yield tile
