"""Multi-label classification losses: logits (B, K) and targets (B, K) in [0, 1] -> (B, K), one value an entry."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from wsss.options.recipe import LossConfig


def bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def focal(logits: Tensor, targets: Tensor, gamma: float) -> Tensor:
    """Cross-entropy times (1 - p of the truth)^gamma: sure entries count less (Lin et al., arXiv 1708.02002)."""
    p = torch.sigmoid(logits)
    wrong = targets * (1 - p) + (1 - targets) * p
    return wrong.pow(gamma) * bce(logits, targets)


def asymmetric(logits: Tensor, targets: Tensor, gamma: float, margin: float) -> Tensor:
    """Cross-entropy whose absent classes are focal and shifted by `margin` (Ridnik et al., arXiv 2009.14119)."""
    p = torch.sigmoid(logits)
    absent = (p - margin).clamp(min=0)
    present_loss = -targets * F.logsigmoid(logits)
    absent_loss = -(1 - targets) * absent.pow(gamma) * torch.log1p(-absent.clamp(max=1 - 1e-6))
    return present_loss + absent_loss


def build_classify(config: LossConfig) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the loss of `config`: float32 mean over batch and classes, smoothed and weighted as it says."""
    weights = None if config.class_weights is None else torch.tensor(config.class_weights)

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        logits = logits.float()
        targets = targets.float() * (1 - config.smoothing) + config.smoothing / 2
        if config.name == "focal":
            values = focal(logits, targets, config.focal_gamma)
        elif config.name == "asymmetric":
            values = asymmetric(logits, targets, config.negative_gamma, config.negative_margin)
        else:
            values = bce(logits, targets)
        if weights is not None:
            values = values * weights.to(values.device, non_blocking=True)
        return values.mean()

    return loss
