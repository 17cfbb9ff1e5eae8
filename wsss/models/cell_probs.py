"""What a network of single cells says of crops: one of the classes, so softmax instead of sigmoid."""

from collections.abc import Iterable

import numpy as np
import torch

from wsss.core.device import Device
from wsss.models.cam_net import CamNet
from wsss.models.memory import in_parts


@torch.no_grad()
def cell_probs(net: CamNet, batches: Iterable[np.ndarray], device: Device) -> np.ndarray:
    """Return the probabilities (N, K) float32, rows sum to 1, of crops that come as (n, C, s, s) uint8.

    Args:
        net: in evaluation mode.
        batches: of crops; there may be none.
        device: where to compute.
    """
    none = np.zeros((0, net.classifier.out_channels), np.float32)
    return np.concatenate([none, *(_probs(net, crops, device) for crops in batches)])


def _probs(net: CamNet, crops: np.ndarray, device: Device) -> np.ndarray:
    def see(rows: slice) -> np.ndarray:
        with device.autocast():
            logits = net(device.put(torch.from_numpy(crops[rows]))).logits
        return np.asarray(logits.float().softmax(dim=1).cpu().numpy())

    return np.concatenate(in_parts(net, crops.shape, see))
