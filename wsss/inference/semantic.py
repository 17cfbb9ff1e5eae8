"""Mask networks on an image of any size: several of its views (test-time augmentation), and tiles of a large one.

Images larger than memory are read part by part; their masks and objects are found and written band by band.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from uuid import NAMESPACE_URL, uuid5

import numpy as np
import tifffile
import torch
from scipy import ndimage
from torch import Tensor

from wsss.cells.instances import EIGHT, REACH, drop_small, mask_channel, objects_of
from wsss.core.checks import DataError, check_range
from wsss.core.files import disk_errors
from wsss.core.rle import Order, encode_parts
from wsss.data.large import LargeImage
from wsss.data.masks import Contrast
from wsss.exports.annotations import cell_polygons, feature_text, geometry, write_feature_texts
from wsss.inference.checkpoints import Checkpoint
from wsss.models.cam_net import VIEWS, apply, resize_images, undo
from wsss.models.device import Device, check_outputs, in_parts
from wsss.models.unet import Unet, probabilities
from wsss.options.masks import MaskInferConfig

Predict = Callable[[Tensor], Tensor]
"""(B, C, H, W) images -> (B, K, H, W) probabilities."""


def predict_views(predict: Predict, images: Tensor, kind: str = "none", scales: Sequence[float] = (1.0,)) -> Tensor:
    """Average the predictions of several views of (B, C, H, W) images.

    Args:
        predict: the network with its sigmoid or softmax, for images of any size.
        images: of 0..255.
        kind: none, mirror, flips or turns.
        scales: sizes of the image; not 1 for resized copies (bilinear), whose maps are resized back.

    Returns:
        (B, K, H, W) float32.
    """
    views = VIEWS[kind]
    total: Tensor | None = None
    for scale in scales:
        size = [max(1, round(edge * scale)) for edge in images.shape[2:]]
        sized = images if scale == 1 else resize_images(images.float(), size)
        for view in views:
            maps = undo(predict(apply(sized, view)).float(), view)
            maps = maps if maps.shape[2:] == images.shape[2:] else resize_images(maps, list(images.shape[2:]))
            total = maps if total is None else total + maps
    assert total is not None  # scales are checked not to be empty
    return total / (len(views) * len(scales))


ROWS = 128
"""Rows that are handed on at a time."""
BATCH_PX = 1 << 20
"""Pixels of the tiles that are predicted at once: one of 1,024 px, several smaller ones."""

Read = Callable[[int, int, int, int], np.ndarray]
"""(y0, y1, x0, x1) -> (C, y1 - y0, x1 - x0) uint8."""
PredictTiles = Callable[[np.ndarray], np.ndarray]
"""(B, C, h, w) uint8 -> (B, K, h, w) float maps."""


def tile_starts(length: int, tile: int, overlap: float) -> list[int]:
    """Return where tiles begin along an axis: evenly spaced, `overlap` of a tile in common at least, none outside."""
    check_range("overlap", overlap, 0, 0.9)
    if length <= tile:
        return [0]
    step = max(1, int(tile * (1 - overlap)))
    count = -(-(length - tile) // step) + 1
    return [round(k * (length - tile) / (count - 1)) for k in range(count)]


def fall_off(length: int) -> np.ndarray:
    """Return weights along an axis: a raised cosine, highest in the middle, nearly 0 at the ends; (length,) float32."""
    places = (np.arange(length) + 0.5) / length
    return np.asarray(np.sin(np.pi * places) ** 2, np.float32)


def predict_tiles(
    read: Read,
    predict: PredictTiles,
    size: tuple[int, int],
    *,
    tile: int = 1024,
    overlap: float = 0.5,
) -> Iterator[tuple[int, np.ndarray]]:
    """Predict an image tile by tile, blended with weights that fall off to the tile's border.

    Tiles are processed in bands from top to bottom, neighbours in batches of up to `BATCH_PX` pixels, and rows that no
    further tile touches are yielded at once. So memory grows with tile x width of the image, not with its height, and
    reader and writer may be files.

    Args:
        read: gives a part of the image.
        predict: gives the maps of a batch of tiles.
        size: (H, W) of the image.
        tile: edge of the tiles, px; smaller where the image is.
        overlap: share of a tile that its neighbour covers too, 0 to .9.

    Yields:
        (first row, (K, rows, W) float32) from top to bottom, every row once.
    """
    height, width = size
    edge_y, edge_x = min(tile, height), min(tile, width)
    starts_y, starts_x = tile_starts(height, edge_y, overlap), tile_starts(width, edge_x, overlap)
    window = fall_off(edge_y)[:, None] * fall_off(edge_x)
    down, across = _weights(starts_y, edge_y, height), _weights(starts_x, edge_x, width)
    sums = np.zeros((0, edge_y, width), np.float32)
    at_once = max(1, BATCH_PX // (edge_y * edge_x))
    for k, y in enumerate(starts_y):
        for first in range(0, len(starts_x), at_once):
            places = starts_x[first : first + at_once]
            batch = predict(np.stack([read(y, y + edge_y, x, x + edge_x) for x in places]))
            if not len(sums):
                sums = np.zeros((batch.shape[1], edge_y, width), np.float32)
            for x, maps in zip(places, batch, strict=True):
                sums[:, :, x : x + edge_x] += maps * window
        done = (starts_y[k + 1] if k + 1 < len(starts_y) else height) - y
        for row in range(0, done, ROWS):
            last = min(row + ROWS, done)
            yield y + row, sums[:, row:last] / (down[y + row : y + last, None] * across)
        for row in range(edge_y - done):  # row by row: a second copy would double the memory
            sums[:, row] = sums[:, row + done]
        sums[:, edge_y - done :] = 0


def _weights(starts: list[int], tile: int, length: int) -> np.ndarray:
    """Return the sum of all tiles' weights along an axis; those of both axes multiply, for tiles lie on a grid."""
    out = np.zeros(length, np.float32)
    for start in starts:
        out[start : start + tile] += fall_off(tile)
    return out


class MaskPredictor:
    """The mean of several networks on one image of any size.

    Args:
        checkpoints: the networks, all of one target.
        config: views, sizes, tiles.
    """

    def __init__(self, checkpoints: list[Checkpoint[Unet]], config: MaskInferConfig, device: Device) -> None:
        self.checkpoints, self.config, self.device = checkpoints, config, device
        self.target = checkpoints[0].recipe.masks.target
        self.stretches = checkpoints[0].recipe.masks.contrast == "stretched"
        """Whether the networks learnt from stretched images."""

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return the (K, H, W) float32 probabilities of a (C, H, W) uint8 image."""
        size = image.shape[1], image.shape[2]
        if self.stretches:
            image = Contrast.of(image).apply(image)
        if max(size) <= self.config.tile:
            return self.parts(image[None])[0]
        bands = predict_tiles(
            lambda y0, y1, x0, x1: image[:, y0:y1, x0:x1],
            self.parts,
            size,
            tile=self.config.tile,
            overlap=self.config.overlap,
        )
        return np.concatenate([band for _, band in bands], axis=1)

    @torch.inference_mode()
    def parts(self, parts: np.ndarray) -> np.ndarray:
        """Return the (B, K, H, W) maps of (B, C, H, W) uint8 images, or tiles, each of which is seen as a whole.

        The size of the batch changes the maps by rounding alone: 1e-5 at most in float32.
        """
        whole = np.require(parts, requirements=["C", "W"])
        return np.concatenate(
            in_parts(self.checkpoints[0].net, whole.shape, lambda rows: self._see(torch.from_numpy(whole[rows])))
        )

    def _see(self, images: torch.Tensor) -> np.ndarray:
        """Return the maps of images that are seen at once."""
        images, config = self.device.put(images), self.config
        asks = [partial(self._ask, checkpoint) for checkpoint in self.checkpoints]
        maps = [predict_views(answer, images, config.tta, config.scales) for answer in asks]
        mean = torch.stack(maps).mean(dim=0)
        holds = mean[:, -1].mean(dim=(1, 2))
        seen: np.ndarray = emptied(mean[:, :-1], holds, self.target, config.empty_below).cpu().numpy()
        check_outputs(seen)
        return seen

    def _ask(self, checkpoint: Checkpoint[Unet], images: torch.Tensor) -> torch.Tensor:
        """Return (B, K + 1, H, W): the maps, and as a map the probability that the image holds anything."""
        with self.device.autocast():
            output = checkpoint.net(images)
        maps = probabilities(output.logits.float(), self.target)
        holds = torch.ones_like(maps[:, :1])
        if output.holds is not None:
            holds = holds * output.holds.float().sigmoid()[:, None, None, None]
        return torch.cat([maps, holds], dim=1)


def emptied(maps: torch.Tensor, holds: torch.Tensor, target: str, below: float) -> torch.Tensor:
    """Return (B, K, H, W) probabilities, of nothing anywhere where (B,) `holds` is below `below`.

    `holds` stays on its device: nothing waits for it.
    """
    nothing = torch.zeros_like(maps)
    if target == "softmax":
        nothing[:, 0] = 1
    return torch.where((holds >= below)[:, None, None, None], maps, nothing)


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
