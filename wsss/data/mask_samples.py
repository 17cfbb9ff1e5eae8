"""Images and targets as PyTorch samples, and what a mask set holds."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from wsss.core.checks import ConfigError, DataError
from wsss.core.files import digest_json
from wsss.data.augment import Augment, build_augment
from wsss.data.dataset import Key
from wsss.data.folds import make_folds
from wsss.data.masks import MaskSet
from wsss.data.targets import gap_weights, make_target
from wsss.options.masks import MaskConfig, MaskLossConfig
from wsss.options.recipe import MaskRecipe

COVERAGE_BINS = 5
"""Kinds of images by share of the mask, beside the empty ones, over which folds are spread evenly."""


@dataclass(frozen=True)
class Survey:
    """What reading every mask once has told; every fault of the set has shown by then."""

    coverage: np.ndarray
    """(N,) share of each image that is mask; NaN where it is unknown."""
    sizes: np.ndarray
    """(N, 2) height and width; 0 where the mask is unknown."""


def survey(masks: MaskSet) -> Survey:
    """Read every mask.

    Raises:
        DataError: a mask is not what it must be, or there is none at all.
    """
    coverage, sizes = np.full(len(masks), np.nan), np.zeros((len(masks), 2), np.int64)
    for i in np.flatnonzero(masks.has_truth):
        label_map = masks.label_map(int(i))
        coverage[i], sizes[i] = (label_map > 0).mean(), label_map.shape
    if not masks.has_truth.any():
        raise DataError(f"{masks.folder} has no mask to learn from: add masks/ or train.csv.")
    return Survey(coverage, sizes)


def coverage_folds(coverage: np.ndarray, n: int, seed: int, groups: np.ndarray | None = None) -> np.ndarray:
    """Assign images to n folds, each with its share of empty, small and large masks; -1 where the mask is unknown.

    Args:
        coverage: (N,) share of each image that is mask, NaN where it is unknown.
        n: number of folds.
        seed: the same seed gives the same folds.
        groups: (N,) int; images of one number (tiles of one large image) go to the same fold. None: each by itself.

    Raises:
        ConfigError: fewer images than folds.
    """
    if groups is not None:
        _, group = np.unique(groups, return_inverse=True)
        known = np.isfinite(coverage)
        with np.errstate(invalid="ignore"):
            mean = np.bincount(group[known], coverage[known], group.max() + 1) / np.bincount(
                group[known], minlength=group.max() + 1
            )
        return np.where(known, coverage_folds(mean, n, seed)[group], -1)
    known = np.flatnonzero(np.isfinite(coverage))
    own = coverage[known]
    edges = np.quantile(own[own > 0], np.linspace(0, 1, COVERAGE_BINS + 1)[1:-1]) if (own > 0).any() else []
    kind = np.where(own > 0, 1 + np.searchsorted(edges, own), 0)
    labels = kind[:, None] == np.unique(kind)
    folds = np.full(len(coverage), -1)
    folds[known] = make_folds(labels, np.arange(len(known)), n, seed)
    return folds


def folds_digest(ids: list[str], folds: np.ndarray) -> str:
    """Return what tells one division into folds from another."""
    return digest_json(dict(zip(ids, folds.tolist(), strict=True)))


class MaskSamples(Dataset[tuple[Tensor, Tensor, int]]):
    """Samples (image (C, h, w) uint8, target (K, h, w) uint8, index), augmented by the seed of the key.

    Targets are those of `make_target`; pixels beyond the image's edge are ignored. Where the loss asks for weights of
    gaps they are one channel more, as `pack_weights` makes it.
    """

    def __init__(self, masks: MaskSet, augment: Augment | None, config: MaskConfig, loss: MaskLossConfig) -> None:
        self.masks, self.augment, self.config, self.loss = masks, augment, config, loss

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor, int]:
        """Read one image; the same key always gives the same sample."""
        index, seed = key
        image, label_map, ignored = self.masks.image(index), self.masks.label_map(index), self.masks.ignored(index)
        if self.augment is not None:
            beside = (label_map, ignored, np.ones_like(ignored))
            image, (label_map, ignored, inside) = self.augment.with_masks(image, beside, seed)
            ignored = ignored | ~inside
        target = make_target(label_map, ignored, self.config.target, self.config.border_px)
        if self.loss.needs_border:
            weights = gap_weights(label_map, self.loss.border_weight, self.loss.border_sigma)
            target = np.concatenate([target, pack_weights(weights, self.loss.border_weight)[None]])
        return torch.from_numpy(np.ascontiguousarray(image)), torch.from_numpy(target), index


def pack_weights(weights: np.ndarray, most: float) -> np.ndarray:
    """Turn (H, W) weights of 1..1 + most into uint8, so that they travel with the target."""
    return np.rint((weights - 1) / max(most, 1e-6) * 255).astype(np.uint8)


def unpack_target(packed: Tensor, outputs: int, most: float) -> tuple[Tensor, Tensor | None]:
    """Split (B, K or K + 1, H, W) into target and (B, 1, H, W) weights, if there are any."""
    if packed.shape[1] == outputs:
        return packed, None
    return packed[:, :outputs], 1 + most / 255 * packed[:, outputs:].float()


def training_augment(recipe: MaskRecipe, masks: MaskSet, found: Survey) -> Augment:
    """Build the augmentation of a recipe; crop 0 is the size of the images, if they all have one.

    Raises:
        ConfigError: they do not, or are not square.
    """
    crop = recipe.crop
    if not crop:
        edges = np.unique(found.sizes[masks.has_truth])
        if len(edges) > 1:
            raise ConfigError(f"crop is 0, but images have edges of {edges[0]} to {edges[-1]} px: pass --crop EDGE.")
        crop = int(edges[0])
    return build_augment(recipe.augment, crop, channels=masks.channels)
