"""Images with masks as PyTorch samples: survey of the masks, folds, targets and pixel weights."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.utils.data import Dataset

from wsss.cells.mask_instances import enlarge, enlargement
from wsss.core.checks import ConfigError, DataError
from wsss.core.files import digest_json
from wsss.data.augment import Augment, build_augment
from wsss.data.folds import make_folds
from wsss.data.masks import MaskSet
from wsss.data.samples import Key
from wsss.options.masks import IGNORE, MOST, MaskConfig, MaskLossConfig
from wsss.options.recipe import MaskRecipe


def make_target(label_map: np.ndarray, ignored: np.ndarray, kind: str, border_px: int = 2) -> np.ndarray:
    """Turn objects into a target.

    Args:
        label_map: (H, W) int, 0 background.
        ignored: (H, W) bool, pixels that must not count.
        kind: binary, border, softmax or distance, see `MaskConfig.target`.
        border_px: width of the border on each side of the line between two objects.

    Returns:
        (K, H, W) uint8 of 0, 1 and 255 (must not count): the mask; or the mask without border, and the border; or
        background, inside and border, which exclude each other; or the mask, and `MOST` x `inner_distance`.
    """
    mask = label_map > 0
    if kind == "binary":
        channels = [mask]
    elif kind == "distance":
        channels = [mask, np.rint(MOST * inner_distance(label_map))]
    else:
        border = touching_border(label_map, border_px)
        channels = [mask & ~border, border]
        if kind == "softmax":
            channels.insert(0, ~mask & ~border)
    target = np.stack(channels).astype(np.uint8)
    target[:, ignored] = IGNORE
    return target


def inner_distance(label_map: np.ndarray) -> np.ndarray:
    """Return each pixel's distance to the edge of its object, over the largest in the object; 0 outside objects.

    The image's edge is no edge of an object.

    Returns:
        (H, W) float32 in [0, 1].
    """
    out = np.zeros(label_map.shape, np.float32)
    for k, box in enumerate(ndimage.find_objects(label_map), 1):
        if box is None:
            continue
        window = tuple(slice(max(0, axis.start - 1), axis.stop + 1) for axis in box)
        inside = label_map[window] == k
        distance = ndimage.distance_transform_edt(inside) if not inside.all() else np.ones(inside.shape)
        out[window][inside] = (distance / distance.max())[inside]
    return out


def touching_border(label_map: np.ndarray, width: int) -> np.ndarray:
    """Return the (H, W) bool pixels of objects within about `width` px of the line to a neighbour.

    A neighbour touches, or lies so near that the line in the middle of the gap is within `width` px. An object's free
    edge is no border, and neither is the gap itself.
    """
    if not label_map.any():
        return np.zeros(label_map.shape, bool)
    distance, nearest = ndimage.distance_transform_edt(label_map == 0, return_indices=True)
    grown = np.where(distance <= width, label_map[tuple(nearest)], 0)
    line = np.zeros(label_map.shape, bool)
    for axis in (0, 1):
        first, second = (np.take(grown, range(a, grown.shape[axis] - 1 + a), axis) for a in (0, 1))
        differ = (first != second) & (first > 0) & (second > 0)
        pad = [(0, 0), (0, 0)]
        for a in (0, 1):
            pad[axis] = (a, 1 - a)
            line |= np.pad(differ, pad)
    if width > 1:
        line = ndimage.binary_dilation(line, iterations=width - 1)
    return line & (label_map > 0)


def gap_weights(label_map: np.ndarray, weight: float, sigma: float) -> np.ndarray:
    """Return 1 + weight * exp(-(d1 + d2)^2 / (2 sigma^2)), d1 and d2 the distances to the two nearest objects.

    Distances beyond 4 sigma count as infinite. Pixels of objects have weight 1.

    Returns:
        (H, W) float32.

    Source: Ronneberger, Fischer and Brox, arXiv 1505.04597.
    """
    reach = math.ceil(4 * sigma)
    near = np.full((2, *label_map.shape), np.inf, np.float32)  # the two smallest distances so far
    for k, box in enumerate(ndimage.find_objects(label_map), 1):
        if box is None:
            continue
        window = tuple(
            slice(max(0, side.start - reach), min(edge, side.stop + reach))
            for side, edge in zip(box, label_map.shape, strict=True)
        )
        distance = ndimage.distance_transform_edt(label_map[window] != k).astype(np.float32)
        both = near[:, *window]
        second = np.minimum(both[1], np.maximum(both[0], distance))
        near[:, *window] = np.stack([np.minimum(both[0], distance), second])
    weights = 1 + weight * np.exp(-np.square(near.sum(axis=0)) / (2 * sigma**2))
    return np.where(label_map > 0, 1, weights).astype(np.float32)


COVERAGE_BINS = 5
"""Bins of images by share of the mask, besides the empty ones; each bin is spread evenly over the folds."""


@dataclass(frozen=True)
class Survey:
    """What reading every mask once has shown; a faulty mask is reported then."""

    coverage: np.ndarray
    """(N,) share of each image that is mask; NaN where it is unknown."""
    sizes: np.ndarray
    """(N, 2) height and width; 0 where the mask is unknown."""


def survey(masks: MaskSet) -> Survey:
    """Read every mask.

    Raises:
        DataError: a mask is invalid, or there is none at all.
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
    shares = coverage[known]
    edges = np.quantile(shares[shares > 0], np.linspace(0, 1, COVERAGE_BINS + 1)[1:-1]) if (shares > 0).any() else []
    kind = np.where(shares > 0, 1 + np.searchsorted(edges, shares), 0)
    labels = kind[:, None] == np.unique(kind)
    folds = np.full(len(coverage), -1)
    folds[known] = make_folds(labels, np.arange(len(known)), n, seed)
    return folds


def folds_digest(ids: list[str], folds: np.ndarray) -> str:
    """Return the digest of a division into folds."""
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
        image, label_map, ignored = self.read(index)
        if self.augment is not None:
            planes = (label_map, ignored, np.ones_like(ignored))
            image, (label_map, ignored, inside) = self.augment.with_masks(image, planes, seed)
            ignored = ignored | ~inside
        return torch.from_numpy(np.ascontiguousarray(image)), self.target(label_map, ignored), index

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return an image as networks see it, (C, H, W) uint8, its objects (H, W) int32, ignored pixels (H, W) bool."""
        image, label_map, ignored = self.masks.image(index), self.masks.label_map(index), self.masks.ignored(index)
        if self.config.contrast == "stretched":
            image = self.masks.contrast(index).apply(image)
        times = enlargement(label_map, self.config.object_px)
        if times > 1:
            image = enlarge(image, times, smooth=True)
            label_map, grown = enlarge(np.stack([label_map, ignored.astype(np.int32)]), times, smooth=False)
            ignored = grown > 0
        return image, label_map, ignored

    def target(self, label_map: np.ndarray, ignored: np.ndarray) -> Tensor:
        """Return the packed target (K or K + 1, H, W) uint8 of objects and ignored pixels."""
        target = make_target(label_map, ignored, self.config.target, self.config.border_px)
        if self.loss.needs_border:
            weights = gap_weights(label_map, self.loss.border_weight, self.loss.border_sigma)
            target = np.concatenate([target, pack_weights(weights, self.loss.border_weight)[None]])
        return torch.from_numpy(target)


def pack_weights(weights: np.ndarray, most: float) -> np.ndarray:
    """Turn (H, W) weights of 1..1 + most into uint8, so that they travel with the target."""
    return np.rint((weights - 1) / max(most, 1e-6) * 255).astype(np.uint8)


def unpack_target(packed: Tensor, outputs: int, most: float) -> tuple[Tensor, Tensor | None]:
    """Split (B, K or K + 1, H, W) into target and (B, 1, H, W) weights, if there are any."""
    if packed.shape[1] == outputs:
        return packed, None
    return packed[:, :outputs], 1 + most / 255 * packed[:, outputs:].float()


def training_augment(recipe: MaskRecipe, masks: MaskSet, surveyed: Survey) -> Augment:
    """Build the augmentation of a recipe; crop 0 is the size of the images, if they all have one.

    Raises:
        ConfigError: they do not, or are not square.
    """
    crop = recipe.crop
    if not crop:
        edges = np.unique(surveyed.sizes[masks.has_truth])
        if len(edges) > 1:
            raise ConfigError(f"crop is 0, but images have edges of {edges[0]} to {edges[-1]} px: pass --crop EDGE.")
        crop = int(edges[0])
    return build_augment(recipe.augment, crop, channels=masks.channels)
