"""Mask networks on an image of any size: several of its views (test-time augmentation), and tiles of a large one."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from wsss.core.checks import check_range
from wsss.data.masks import Contrast
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
        device: where to compute.
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
