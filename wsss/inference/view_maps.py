"""Test-time augmentation of a classifier: several views of images and crops, each undone on the maps, then averaged."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from wsss.core.device import Device
from wsss.inference.cam import class_maps, crop_probs
from wsss.inference.tta import VIEWS, View, apply, undo
from wsss.models.cam_net import CamNet
from wsss.options.scoring import TtaConfig

STEP = 32
"""Edges are multiples of it, so that the maps of every size cover just the image."""

Cells = Sequence[np.ndarray | None]


def view_maps(
    net: CamNet, images: np.ndarray, device: Device, config: TtaConfig, cells: Cells | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Average the raw class maps and the probabilities of several views.

    Args:
        net: the network.
        images: (B, C, H, W) uint8.
        device: where to compute.
        config: the views.
        cells: (H, W) label map of each image, None for one without; for networks that pool over cells.

    Returns:
        (B, K, h, w) and (B, K) float32; h and w are those of the maps at the first of `config.scales`.
    """
    maps, probs = [], []
    for scale in config.scales:
        sized = resized(images, scale)
        labels = None if cells is None else [None if own is None else _nearest(own, sized.shape[2:]) for own in cells]
        for view in VIEWS[config.views]:
            seen = None if labels is None else [None if own is None else _apply(own, view) for own in labels]
            cam, own = class_maps(net, _apply(sized, view), device, seen)
            maps.append(undo(torch.from_numpy(cam), view))
            probs.append(own)
    size = list(maps[0].shape[2:])
    same = [cam if list(cam.shape[2:]) == size else _resize(cam, size) for cam in maps]
    return torch.stack(same).mean(dim=0).numpy(), np.mean(probs, axis=0)


def view_crop_probs(net: CamNet, batches: Iterable[np.ndarray], device: Device, config: TtaConfig) -> np.ndarray:
    """Average the (N, K) probabilities of crops, (n, C, s, s) uint8 a batch, over the views at their own size."""
    found = []
    for crops in batches:
        views = [crop_probs(net, [_apply(crops, view)], device) for view in VIEWS[config.views]]
        found.append(np.mean(views, axis=0))
    return np.concatenate(found) if found else crop_probs(net, [], device)


def resized(images: np.ndarray, scale: float) -> np.ndarray:
    """Return (B, C, H, W) uint8 images at about `scale` of their size: edges are multiples of 32 px, at least one."""
    size = [max(STEP, round(edge * scale / STEP) * STEP) for edge in images.shape[2:]]
    if scale == 1 or size == list(images.shape[2:]):
        return images
    return _resize(torch.from_numpy(images).float(), size).round().clamp(0, 255).to(torch.uint8).numpy()


def _apply(array: np.ndarray, view: View) -> np.ndarray:
    return apply(torch.from_numpy(np.ascontiguousarray(array)), view).contiguous().numpy()


def _resize(pixels: torch.Tensor, size: list[int]) -> torch.Tensor:
    return F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)


def _nearest(label_map: np.ndarray, size: Sequence[int]) -> np.ndarray:
    rows, columns = ((np.arange(n) * m + m // 2) // n for n, m in zip(size, label_map.shape, strict=True))
    return label_map[np.ix_(rows, columns)]
