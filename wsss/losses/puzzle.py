"""The agreement term of Puzzle-CAM."""

from torch import Tensor

from wsss.options.recipe import PuzzleConfig


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
