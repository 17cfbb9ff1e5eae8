"""The Lovász hinge: a convex stand-in for 1 - IoU of a mask.

Source: Berman, Triki and Blaschko, arXiv 1705.08790; elu + 1 and the symmetric form are Kaggle practice (method,
section 6). segmentation_models_pytorch has the relu form alone, one image at a time; this one agrees with it.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Rectifier = Literal["relu", "elu"]


def lovasz_hinge(
    logits: Tensor, truth: Tensor, valid: Tensor, *, rectifier: Rectifier = "relu", symmetric: bool = False
) -> Tensor:
    """Return the Lovász hinge of each row.

    Args:
        logits: (R, P) of the pixels of R masks.
        truth: (R, P) 0/1, same type.
        valid: (R, P) bool; other pixels do not count.
        rectifier: relu, whose gradient is 0 for pixels beyond the margin, or elu + 1, whose gradient never is.
        symmetric: mean of the hinge of the mask and that of its complement, so that background counts alike.

    Returns:
        (R,) at least 0; 0 for a row without valid pixels.
    """
    one = _one_sided(logits, truth, valid, rectifier)
    if not symmetric:
        return one
    return (one + _one_sided(-logits, 1 - truth, valid, rectifier)) / 2


def _one_sided(logits: Tensor, truth: Tensor, valid: Tensor, rectifier: Rectifier) -> Tensor:
    errors = 1 - logits * (2 * truth - 1)
    errors = errors.masked_fill(~valid, -torch.inf)  # sorted last, where both rectifiers give 0
    errors, order = errors.sort(dim=1, descending=True)
    weights = jaccard_steps((truth * valid).gather(1, order))
    rectified = F.relu(errors) if rectifier == "relu" else F.elu(errors) + 1
    return (rectified * weights).sum(dim=1)


def jaccard_steps(truth: Tensor) -> Tensor:
    """Return how much each further wrong pixel raises 1 - IoU; (R, P) truth sorted by falling error -> (R, P)."""
    total = truth.sum(dim=1, keepdim=True)
    intersection = total - truth.cumsum(dim=1)
    union = total + (1 - truth).cumsum(dim=1)
    loss = 1 - intersection / union  # the union holds at least the first pixel
    return torch.cat([loss[:, :1], loss.diff(dim=1)], dim=1)
