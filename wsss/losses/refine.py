"""The refinement of DRS: a second network learns the first one's maps, kept where they win."""

import torch
from torch import Tensor


def present_maps(cam: Tensor, labels: Tensor) -> Tensor:
    """Rectify raw class maps (B, K, h, w), divide each by its peak, and empty those of absent classes; float32.

    The peak counts as a constant, so that no gradient pushes it.
    """
    positive = cam.float().relu()
    peak = positive.detach().amax(dim=(2, 3), keepdim=True)
    return positive / (peak + 1e-5) * labels[:, :, None, None]


def keep_winners(maps: Tensor) -> Tensor:
    """Keep, at each pixel of (B, K, h, w), the class with the highest map; the others become 0."""
    winner = maps.argmax(dim=1, keepdim=True)
    return torch.zeros_like(maps).scatter(1, winner, maps.gather(1, winner))


def refinement(cam: Tensor, teacher_cam: Tensor, labels: Tensor) -> Tensor:
    """Return the mean squared distance from the first network's winning maps, over pixels and present classes.

    Args:
        cam: (B, K, h, w) raw maps of the network that learns.
        teacher_cam: the same shape, of the first network.
        labels: (B, K) 0/1.

    Source: arXiv 2103.07246, section 3.3. The paper trains by this alone; here it is added to the classification
    loss and compares maps in [0, 1], because cells need probabilities as well as maps.
    """
    target = keep_winners(present_maps(teacher_cam, labels)).detach()
    gap = (present_maps(cam, labels) - target).square().mean(dim=(2, 3))  # (B, K)
    return gap.sum() / labels.sum().clamp(min=1)
