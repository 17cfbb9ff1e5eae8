"""Test-time augmentation: several views of images and crops, each undone on the output, then averaged."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wsss.models.cam_net import CamNet, class_maps, crop_outputs
from wsss.models.device import Device
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
