"""Losses: of image labels, one value an entry, and of masks, a weighted sum of terms.

Those of image labels take logits (B, K) and targets (B, K) in [0, 1] and return (B, K). The loss of a mask network may
switch its terms at an epoch, and includes the decoder's coarser outputs.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from wsss.options.masks import IGNORE, MOST, MaskLossConfig
from wsss.options.recipe import LossConfig, PuzzleConfig


def bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def focal(logits: Tensor, targets: Tensor, gamma: float) -> Tensor:
    """Cross-entropy times (1 - p of the truth)^gamma: sure entries count less (Lin et al., arXiv 1708.02002)."""
    # 1 - p as sigmoid(-logits): it is not 0 where p rounds to 1, where a gamma below 1 has no gradient.
    wrong = targets * torch.sigmoid(-logits) + (1 - targets) * torch.sigmoid(logits)
    return wrong.clamp(min=1e-30).pow(gamma) * bce(logits, targets)


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


def agreement(full: Tensor, merged: Tensor, labels: Tensor, config: PuzzleConfig) -> Tensor:
    """Return how far the maps of whole images are from the merged maps of their tiles, a scalar in float32.

    Args:
        full: (B, K, h, w) class maps, or (B, C, h, w) features where `config.maps` is 'features'.
        merged: the same shape, from the tiles.
        labels: (B, K) 0/1; used where `config.classes` is not 'all' (and not for features).
        config: distance, rectification, classes, side that is a fixed target.
    """
    full, merged = full.float(), merged.float()
    if config.maps == "relu":
        full, merged = full.relu(), merged.relu()
    if config.stop_gradient == "full":
        full = full.detach()
    elif config.stop_gradient == "tiles":
        merged = merged.detach()
    gap = full - merged
    distance = gap.abs() if config.distance == "l1" else gap.square()
    if config.classes == "all" or config.maps == "features":
        return distance.mean()
    per_class = distance.mean(dim=(2, 3)) * labels  # (B, K)
    return per_class.mean() if config.classes == "labels" else per_class.sum() / labels.sum().clamp(min=1)


def ramp_weight(config: PuzzleConfig, progress: float) -> float:
    """Return the weight of the term when `progress` (0..1) of the training is done."""
    return config.weight if config.ramp == 0 else config.weight * min(1.0, progress / config.ramp)


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
        teacher_cam: (B, K, h', w') of the first network, brought to the same size.
        labels: (B, K) 0/1.

    Source: arXiv 2103.07246, section 3.3. The paper trains by this alone; here it is added to the classification
    loss and compares maps in [0, 1], because cells need probabilities as well as maps.
    """
    taught = F.interpolate(teacher_cam.float(), cam.shape[2:], mode="bilinear", align_corners=False)
    target = keep_winners(present_maps(taught, labels)).detach()
    gap = (present_maps(cam, labels) - target).square().mean(dim=(2, 3))  # (B, K)
    return gap.sum() / labels.sum().clamp(min=1)


class ComboLoss:
    """BCE of the whole image + BCE of its merged tiles + weight x mean |difference of the maps|.

    Source: the recipe's ComboLoss, method, section 2; each part has its options.
    """

    def __init__(self, loss: LossConfig, puzzle: PuzzleConfig) -> None:
        self.loss, self.puzzle = loss, puzzle
        self.classify = build_classify(loss)
        self.names = ["loss", "full"]
        """Of what a call returns."""
        self.names += ["tiles", "agreement"] if puzzle.side > 1 else []

    def __call__(
        self,
        full: tuple[Tensor, Tensor],
        tiles: tuple[Tensor, Tensor] | None,
        labels: Tensor,
        progress: float = 1.0,
    ) -> dict[str, Tensor]:
        """Return scalars by name: 'loss' is the sum to minimise, the others its parts before weighting.

        Args:
            full: of whole images: (B, K) logits and the (B, K, h, w) maps (or features) that must agree.
            tiles: the same of the merged tiles, or None without a puzzle.
            labels: (B, K) 0/1.
            progress: share of the training that is done, for the ramp of the agreement's weight.
        """
        parts = {"full": self.classify(full[0], labels)}
        total = parts["full"]
        if tiles is not None:
            parts["tiles"] = self.classify(tiles[0], labels)
            parts["agreement"] = agreement(full[1], tiles[1], labels, self.puzzle)
            total = total + self.loss.tile_weight * parts["tiles"]
            total = total + ramp_weight(self.puzzle, progress) * parts["agreement"]
        return {"loss": total, **parts}


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


SURE = 0.7
"""Pixels whose true side is less probable are hard (the threshold of mmsegmentation's sampler)."""
SMOOTH = 1.0
"""Pixels added to both sides of an overlap ratio, so that an empty mask found empty costs nothing."""


def border_term(logits: Tensor, truth: Tensor, valid: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy with (B, 1, H, W) pixel weights, large in the gaps between near objects (Ronneberger et al.)."""
    weights = weights.to(logits.dtype).expand_as(logits) * valid
    return (bce(logits, truth) * weights).sum() / weights.sum().clamp(min=1e-6)


def ohem_term(logits: Tensor, truth: Tensor, valid: Tensor, share: float) -> Tensor:
    """Cross-entropy of the valid pixels whose true side is less probable than SURE, or of the hardest `share` if more.

    A share alone does not train where more than a few pixels stay wrong: half for every pixel is then its minimum.
    """
    values = bce(logits, truth).masked_fill(~valid, -torch.inf).flatten().sort(descending=True).values
    # How many count is known to the GPU alone, and is not waited for.
    least = (share * valid.sum()).round().clamp(min=1)
    count = torch.maximum(least, (values > -math.log(SURE)).sum())
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
