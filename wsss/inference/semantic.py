"""Networks on several views of an image (test-time augmentation), and mask networks on large images in tiles."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wsss.core.checks import check_range
from wsss.data.masks import Contrast
from wsss.inference.checkpoints import Checkpoint
from wsss.models.cam_net import CamNet, class_maps, crop_outputs
from wsss.models.device import Device, in_parts
from wsss.models.unet import Unet, probabilities
from wsss.models.weights import check_outputs
from wsss.options.masks import MaskInferConfig
from wsss.options.scoring import TtaConfig

STEP = 32
"""Edges of resized images are multiples of it, so that the maps of every size cover just the image."""

Predict = Callable[[Tensor], Tensor]
"""(B, C, H, W) images -> (B, K, H, W) probabilities."""
View = tuple[int, bool]
"""Quarter turns, then whether to flip left and right."""

VIEWS: dict[str, tuple[View, ...]] = {
    "none": ((0, False),),
    "mirror": ((0, False), (0, True)),
    "flips": ((0, False), (0, True), (2, False), (2, True)),
    "turns": tuple((turns, flip) for turns in range(4) for flip in (False, True)),
}
"""By `MaskInferConfig.tta`; half a turn with and without a flip are the flip of both axes and that of one."""


def apply(images: Tensor, view: View) -> Tensor:
    """Turn and flip (..., H, W); `undo` takes it back."""
    turns, flip = view
    turned = torch.rot90(images, turns, (-2, -1))
    return turned.flip(-1) if flip else turned


def undo(maps: Tensor, view: View) -> Tensor:
    """Take back what `apply` did to the image the maps are of."""
    turns, flip = view
    return torch.rot90(maps.flip(-1) if flip else maps, -turns, (-2, -1))


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
        sized = images if scale == 1 else _resize(images.float(), [max(1, round(e * scale)) for e in images.shape[2:]])
        for view in views:
            maps = undo(predict(apply(sized, view)).float(), view)
            maps = maps if maps.shape[2:] == images.shape[2:] else _resize(maps, list(images.shape[2:]))
            total = maps if total is None else total + maps
    assert total is not None  # scales are checked not to be empty
    return total / (len(views) * len(scales))


def _resize(pixels: Tensor, size: list[int]) -> Tensor:
    return F.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=True)


def view_maps(net: CamNet, images: np.ndarray, device: Device, config: TtaConfig) -> tuple[np.ndarray, np.ndarray]:
    """Average the raw class maps and the probabilities of several views.

    Args:
        net: the network.
        images: (B, C, H, W) uint8.
        device: where to compute.
        config: the views.

    Returns:
        (B, K, h, w) and (B, K) float32; h and w are those of the maps at the first of `config.scales`.
    """
    maps, probs = [], []
    for scale in config.scales:
        sized = resized(images, scale)
        for view in VIEWS[config.views]:
            cam, view_probs = class_maps(net, _apply(sized, view), device)
            maps.append(undo(torch.from_numpy(cam), view))
            probs.append(view_probs)
    size = list(maps[0].shape[2:])
    same = [cam if list(cam.shape[2:]) == size else _resize(cam, size) for cam in maps]
    return torch.stack(same).mean(dim=0).numpy(), np.mean(probs, axis=0)


def view_crops(
    net: CamNet, batches: Iterable[np.ndarray], device: Device, config: TtaConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Average the (N, K) probabilities and (N, D) pooled features of crops over the views at their own size.

    Args:
        net: the network.
        batches: of crops, (n, C, s, s) uint8 each.
        device: where to compute.
        config: the views.
    """
    averages = [crop_outputs(net, [], device)]
    for crops in batches:
        views = [crop_outputs(net, [_apply(crops, view)], device) for view in VIEWS[config.views]]
        probs, features = (np.mean(of_views, axis=0) for of_views in zip(*views, strict=True))
        averages.append((probs, features))
    probs, features = (np.concatenate(of_batches) for of_batches in zip(*averages, strict=True))
    return probs, features


def resized(images: np.ndarray, scale: float) -> np.ndarray:
    """Return (B, C, H, W) uint8 images at about `scale` of their size: edges are multiples of 32 px, at least one."""
    size = [max(STEP, round(edge * scale / STEP) * STEP) for edge in images.shape[2:]]
    if scale == 1 or size == list(images.shape[2:]):
        return images
    return _resize(torch.from_numpy(images).float(), size).round().clamp(0, 255).to(torch.uint8).numpy()


def _apply(array: np.ndarray, view: View) -> np.ndarray:
    return apply(torch.from_numpy(np.ascontiguousarray(array)), view).contiguous().numpy()


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
