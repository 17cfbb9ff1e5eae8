"""Multi-label classification losses: logits (B, K) and targets (B, K) in [0, 1] -> (B, K), one value an entry."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from wsss.options.recipe import LossConfig, PuzzleConfig


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
        teacher_cam: the same shape, of the first network.
        labels: (B, K) 0/1.

    Source: arXiv 2103.07246, section 3.3. The paper trains by this alone; here it is added to the classification
    loss and compares maps in [0, 1], because cells need probabilities as well as maps.
    """
    target = keep_winners(present_maps(teacher_cam, labels)).detach()
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
