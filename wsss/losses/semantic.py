"""The whole loss of a mask network: weighted terms, a switch at an epoch, and the decoder's coarser outputs."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from wsss.losses.classify import bce, focal
from wsss.options.masks import IGNORE, MOST, MaskLossConfig

Rectifier = Literal["relu", "elu"]


class MaskLoss:
    """Weighted sum of mask losses, every part by name.

    Args:
        config: which terms with which weights, and their options.
        target: kind of the target, see `MaskConfig.target`. Channels of 'softmax' exclude each other; each is then
            scored against all others. The second channel of 'distance' is a share, learnt by cross-entropy.
    """

    def __init__(self, config: MaskLossConfig, target: str = "binary") -> None:
        self.config, self.softmax, self.distance = config, target == "softmax", target == "distance"

    def __call__(
        self,
        logits: Tensor,
        target: Tensor,
        *,
        weights: Tensor | None = None,
        side: Sequence[Tensor] = (),
        holds: Tensor | None = None,
        epoch: int = 0,
    ) -> dict[str, Tensor]:
        """Return scalars by name: 'loss' is the sum to minimise, the others its terms before weighting.

        Args:
            logits: (B, K, H, W), any float type; computed in float32 at least.
            target: (B, K, H, W) uint8: 0, 1, or 255 for pixels that must not count; shares are 0 to `MOST`.
            weights: (B, 1, H, W) pixel weights of the term 'border'.
            side: coarser outputs at full size, (B, K, H, W) each (deep supervision).
            holds: (B,) logits of whether there is any object in the image.
            epoch: finished epochs, for the switch of terms.

        Raises:
            ValueError: shapes differ, or the term 'border' got no weights.
        """
        chosen = self.config.at(epoch) | ({"distance": 1.0} if self.distance else {})
        parts = self._terms(chosen, logits, target, weights)
        total = _weighted(chosen, parts)
        if side:
            coarse = [_weighted(chosen, self._terms(chosen, output, target, weights)) for output in side]
            parts["side"] = torch.stack(coarse).mean()
            total = total + self.config.side_weight * parts["side"]
        if holds is not None:
            parts["empty"] = bce(holds.float(), self._any(target)).mean()
            total = total + self.config.empty_weight * parts["empty"]
        return {"loss": total, **parts}

    def _any(self, target: Tensor) -> Tensor:
        """Return 1 for each image with a pixel of an object, else 0: (B,) float."""
        objects = target[:, 1:] if self.softmax else target[:, :1] if self.distance else target
        return (objects == 1).flatten(1).any(dim=1).float()

    def _terms(
        self, chosen: Mapping[str, float], logits: Tensor, target: Tensor, weights: Tensor | None
    ) -> dict[str, Tensor]:
        if logits.shape != target.shape:
            raise ValueError(f"logits are {tuple(logits.shape)}, the target {tuple(target.shape)}: they must match.")
        logits = logits if logits.dtype == torch.float64 else logits.float()
        if self.softmax:
            logits = one_vs_rest(logits)
        valid = target != IGNORE
        truth = (target * valid).to(logits.dtype)
        parts = {}
        if self.distance:
            parts["distance"] = mean_of(bce(logits[:, 1:], truth[:, 1:] / MOST), valid[:, 1:])
            logits, truth, valid = logits[:, :1], truth[:, :1], valid[:, :1]
        terms = [name for name in chosen if name != "distance"]
        return parts | {name: self._term(name, logits, truth, valid, weights) for name in terms}

    def _term(self, name: str, logits: Tensor, truth: Tensor, valid: Tensor, weights: Tensor | None) -> Tensor:
        config = self.config
        if name == "bce":
            return mean_of(bce(logits, truth), valid)
        if name == "dice":
            return dice_term(logits, truth, valid, config.per_image)
        if name == "jaccard":
            return jaccard_term(logits, truth, valid, config.per_image)
        if name == "focal":
            return mean_of(focal(logits, truth, config.focal_gamma), valid)
        if name == "ohem":
            return ohem_term(logits, truth, valid, config.ohem_share)
        if name == "lovasz":
            rows = (_rows(part, config.per_image) for part in (logits, truth, valid))
            return lovasz_hinge(*rows, rectifier=config.rectifier, symmetric=config.symmetric).mean()
        if weights is None:
            raise ValueError("the loss term 'border' needs pixel weights.")
        return border_term(logits, truth, valid, weights)


def one_vs_rest(logits: Tensor) -> Tensor:
    """Turn (B, K, H, W) softmax logits into logits of each class against all others: sigmoid of them is the softmax."""
    others = (torch.cat([logits[:, :k], logits[:, k + 1 :]], dim=1) for k in range(logits.shape[1]))
    rest = [torch.logsumexp(rest_logits, dim=1) for rest_logits in others]
    return logits - torch.stack(rest, dim=1)


def _weighted(chosen: Mapping[str, float], parts: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([weight * parts[name] for name, weight in chosen.items()]).sum()


SMOOTH = 1.0
"""Pixels added to both sides of an overlap ratio, so that an empty mask found empty costs nothing."""


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
