"""What a trained network says of images and of cells' crops, as numpy arrays. Needs torch and numpy alone.

Where memory does not hold a batch, it is seen in parts.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from wsss.core.device import Device
from wsss.core.label_maps import number_cells
from wsss.models.cam_net import CamNet, CamOutput
from wsss.models.cell_pool import cell_weights
from wsss.models.memory import in_parts


@torch.no_grad()
def class_maps(
    net: CamNet, images: np.ndarray, device: Device, cells: Sequence[np.ndarray | None] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the raw class maps (B, K, h, w) and probabilities (B, K), float32, of (B, C, H, W) uint8 images.

    Args:
        net: the network.
        images: (B, C, H, W) uint8, B at least 1.
        device: where to compute.
        cells: (H, W) label map of each image, None for one without; a network that was trained to pool over cells does
            so, and takes an image without cells for a single one.
    """

    def see(rows: slice) -> tuple[np.ndarray, np.ndarray]:
        output = see_images(net, device.put(torch.from_numpy(images[rows])), device, numbered(rows))
        return output.cam.float().cpu().numpy(), output.logits.sigmoid().cpu().numpy()

    def numbered(rows: slice) -> Tensor | None:
        if net.pool is None or cells is None:
            return None
        none = np.zeros(images.shape[2:], np.int32)
        own = [none if label_map is None else number_cells(label_map) for label_map in cells[rows]]
        return device.put(torch.from_numpy(np.stack(own)))

    maps, probs = zip(*in_parts(net, images.shape, see), strict=True)
    return np.concatenate(maps), np.concatenate(probs)


def see_images(net: CamNet, images: Tensor, device: Device, cells: Tensor | None = None) -> CamOutput:
    """Return the output for (B, C, H, W) images on the device, pooled over their (B, H, W) cells if there are any."""
    with device.autocast():
        output: CamOutput = net(images)
    return output if cells is None else net.pooled(output, cell_weights(cells, output.cam.shape[2:]))


@torch.no_grad()
def crop_probs(net: CamNet, batches: Iterable[np.ndarray], device: Device) -> np.ndarray:
    """Return the probabilities (N, K) float32 of crops that come in batches of (n, C, s, s) uint8."""
    none = np.zeros((0, net.classifier.out_channels), np.float32)
    return np.concatenate([none, *(_probs(net, crops, device) for crops in batches)])


def _probs(net: CamNet, crops: np.ndarray, device: Device) -> np.ndarray:
    def see(rows: slice) -> np.ndarray:
        logits = see_images(net, device.put(torch.from_numpy(crops[rows])), device).logits
        return np.asarray(logits.sigmoid().cpu().numpy())

    return np.concatenate(in_parts(net, crops.shape, see))
