"""What a trained network says of images and of cells' crops, as numpy arrays. Needs torch and numpy alone."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from wsss.core.device import Device
from wsss.core.label_maps import number_cells
from wsss.models.cam_net import CamNet
from wsss.models.cell_pool import cell_weights


@torch.no_grad()
def class_maps(
    net: CamNet, images: np.ndarray, device: Device, cells: Sequence[np.ndarray | None] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the raw class maps (B, K, h, w) and probabilities (B, K), float32, of (B, C, H, W) uint8 images.

    Args:
        net: the network.
        images: (B, C, H, W) uint8.
        device: where to compute.
        cells: (H, W) label map of each image, None for one without; a network that was trained to pool over cells does
            so, and takes an image without cells for a single one.
    """
    with device.autocast():
        output = net(device.put(torch.from_numpy(images)))
    if net.pool is not None and cells is not None:
        none = np.zeros(images.shape[2:], np.int32)
        numbered = np.stack([none if own is None else number_cells(own) for own in cells])
        output = net.pooled(output, cell_weights(device.put(torch.from_numpy(numbered)), output.cam.shape[2:]))
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
