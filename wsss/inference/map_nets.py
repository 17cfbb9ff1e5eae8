"""Class maps of the U-Nets beside a classifier's networks."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from wsss.core.device import Device
from wsss.inference.checkpoints import CamCheckpoint
from wsss.models.memory import in_parts
from wsss.models.unet import Unet

BLOCK = 4
"""Maps are averaged over blocks of so many pixels: the statistics of a cell need no finer ones."""


@torch.inference_mode()
def unet_maps(checkpoints: Sequence[CamCheckpoint], images: np.ndarray, device: Device) -> list[np.ndarray]:
    """Return the class maps (B, K, h, w) float32 in [0, 1] of each U-Net of the checkpoints, of (B, C, H, W) uint8."""
    nets = {unet.digest: unet for checkpoint in checkpoints for unet in checkpoint.unets}
    return [_maps(net.net, images, device) for net in nets.values()]


def _maps(net: Unet, images: np.ndarray, device: Device) -> np.ndarray:
    def see(rows: slice) -> np.ndarray:
        with device.autocast():
            logits = net(device.put(torch.from_numpy(images[rows]))).logits
        return np.asarray(F.avg_pool2d(logits.float().sigmoid(), BLOCK).cpu().numpy())

    return np.concatenate(in_parts(net, images.shape, see))
