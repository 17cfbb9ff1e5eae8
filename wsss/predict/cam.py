"""What a trained network says of images and of cells' crops, as numpy arrays. Needs torch and numpy alone."""

from collections.abc import Iterable

import numpy as np
import torch

from wsss.core.device import Device
from wsss.models.cam_net import CamNet


@torch.no_grad()
def class_maps(net: CamNet, images: np.ndarray, device: Device) -> tuple[np.ndarray, np.ndarray]:
    """Return the raw class maps (B, K, h, w) and probabilities (B, K), float32, of (B, C, H, W) uint8 images."""
    with device.autocast():
        output = net(device.put(torch.from_numpy(images)))
    return output.cam.float().cpu().numpy(), output.logits.sigmoid().cpu().numpy()


@torch.no_grad()
def crop_probs(net: CamNet, batches: Iterable[np.ndarray], device: Device) -> np.ndarray:
    """Return the probabilities (N, K) float32 of crops that come in batches of (n, C, s, s) uint8."""
    found = [np.zeros((0, net.classifier.out_channels), np.float32)]
    for crops in batches:
        with device.autocast():
            output = net(device.put(torch.from_numpy(crops)))
        found.append(output.logits.sigmoid().cpu().numpy())
    return np.concatenate(found)
