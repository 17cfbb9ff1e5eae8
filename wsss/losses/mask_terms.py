"""Losses of masks, one function a term.

All take logits (B, K, H, W), truth (B, K, H, W) 0/1 of the same type, and valid (B, K, H, W) bool: pixels of the
ignore band are in no sum and no count. All are finite for empty and full masks, and 0 where nothing is valid.
Dice and Jaccard of segmentation_models_pytorch give 0 for an empty mask however much is predicted in it, and its BCE
counts ignored pixels in the mean; hence the few lines here.
"""

import torch
from torch import Tensor

from wsss.losses.classify import bce, focal
from wsss.losses.lovasz import Rectifier, lovasz_hinge

SMOOTH = 1.0
"""Pixels added to both sides of an overlap ratio, so that an empty mask found empty costs nothing."""


def bce_term(logits: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """Binary cross-entropy, mean over valid pixels."""
    return mean_of(bce(logits, truth), valid)


def focal_term(logits: Tensor, truth: Tensor, valid: Tensor, gamma: float) -> Tensor:
    """Focal loss, mean over valid pixels."""
    return mean_of(focal(logits, truth, gamma), valid)


def border_term(logits: Tensor, truth: Tensor, valid: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy with (B, 1, H, W) pixel weights, large in the gaps between near objects (Ronneberger et al.)."""
    weights = weights.to(logits.dtype).expand_as(logits) * valid
    return (bce(logits, truth) * weights).sum() / weights.sum().clamp(min=1e-6)


def ohem_term(logits: Tensor, truth: Tensor, valid: Tensor, share: float) -> Tensor:
    """Cross-entropy of the hardest `share` of the valid pixels of the batch, at least one."""
    values = bce(logits, truth).masked_fill(~valid, -torch.inf).flatten().sort(descending=True).values
    # How many count is known to the GPU alone, and is not waited for.
    count = (share * valid.sum()).round().clamp(min=1)
    counts = (torch.arange(len(values), device=values.device) < count) & values.isfinite()
    return values.where(counts, 0.0).sum() / count


def dice_term(logits: Tensor, truth: Tensor, valid: Tensor, per_image: bool) -> Tensor:
    """1 - 2 |A and B| / (|A| + |B|) of probabilities, mean over masks."""
    both, predicted, true = _sums(logits, truth, valid, per_image)
    return (1 - (2 * both + SMOOTH) / (predicted + true + SMOOTH)).mean()


def jaccard_term(logits: Tensor, truth: Tensor, valid: Tensor, per_image: bool) -> Tensor:
    """1 - |A and B| / |A or B| of probabilities, mean over masks."""
    both, predicted, true = _sums(logits, truth, valid, per_image)
    return (1 - (both + SMOOTH) / (predicted + true - both + SMOOTH)).mean()


def lovasz_term(
    logits: Tensor, truth: Tensor, valid: Tensor, per_image: bool, rectifier: Rectifier, symmetric: bool
) -> Tensor:
    """Lovász hinge, mean over masks."""
    rows = (_rows(part, per_image) for part in (logits, truth, valid))
    return lovasz_hinge(*rows, rectifier=rectifier, symmetric=symmetric).mean()


def mean_of(values: Tensor, valid: Tensor) -> Tensor:
    """Return the mean over valid pixels; 0 where there is none."""
    return (values * valid).sum() / valid.sum().clamp(min=1)


def _sums(logits: Tensor, truth: Tensor, valid: Tensor, per_image: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return the (R,) soft areas of the intersection, the prediction and the truth."""
    probs = _rows(torch.sigmoid(logits) * valid, per_image)
    true = _rows(truth * valid, per_image)
    return (probs * true).sum(dim=1), probs.sum(dim=1), true.sum(dim=1)


def _rows(pixels: Tensor, per_image: bool) -> Tensor:
    """Lay (B, K, H, W) out as (B * K, H * W), one mask a row, or (K, B * H * W), one class a row."""
    return pixels.flatten(2).flatten(0, 1) if per_image else pixels.transpose(0, 1).flatten(1)
