"""What a network of single cells says of crops: one of the classes, so softmax instead of sigmoid."""

from collections.abc import Iterable

import numpy as np
import torch

from wsss.core.device import Device
from wsss.models.cam_net import CamNet


@torch.no_grad()
def cell_probs(net: CamNet, batches: Iterable[np.ndarray], device: Device) -> np.ndarray:
    """Return the probabilities (N, K) float32, rows sum to 1, of crops that come as (n, C, s, s) uint8.

    Args:
        net: in evaluation mode.
        batches: of crops; there may be none.
        device: where to compute.
    """
    found = [np.zeros((0, net.classifier.out_channels), np.float32)]
    for crops in batches:
        with device.autocast():
            output = net(device.put(torch.from_numpy(crops)))
        found.append(output.logits.float().softmax(dim=1).cpu().numpy())
    return np.concatenate(found)
