"""Images as PyTorch samples, how often each is drawn, and the batches of an epoch."""

import re
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from wsss.core.checks import ConfigError, DataError
from wsss.data.augment import Augment
from wsss.data.catalog import DataSet
from wsss.data.pseudo import PseudoSet
from wsss.options.masks import IGNORE


def class_weights(labels: np.ndarray) -> np.ndarray:
    """Weigh each class by 1 / its images.

    Args:
        labels: (N, K) of 0/1.

    Returns:
        (K,) float64; 0 for a class without images.
    """
    counts = (labels > 0).sum(axis=0)
    return np.where(counts > 0, 1.0 / np.maximum(counts, 1), 0.0)


def find_clip_class(labels: np.ndarray, clip: str = "rank:3") -> int | None:
    """Find the class whose weight no image may exceed.

    Args:
        labels: (N, K) of 0/1.
        clip: 'rank:R' for the R-th rarest class that has images (the commonest if there are fewer; the lower
            id first if two are as rare), 'class:ID' for a class by id, 'none' for no limit.

    Returns:
        the class id, or None for no limit.

    Raises:
        ConfigError: `clip` is none of these, or its class does not exist.
        DataError: its class has no images, or no class has.
    """
    match = re.fullmatch(r"(rank|class):(\d+)", clip)
    if clip == "none":
        return None
    if not match or clip == "rank:0":
        raise ConfigError(f"clip is '{clip}', expected rank:3 (third rarest), class:8 (by id) or none.")
    counts = (labels > 0).sum(axis=0)
    number = int(match.group(2))
    if match.group(1) == "rank":
        order = [int(k) for k in np.argsort(counts, kind="stable") if counts[k] > 0]
        if not order:
            raise DataError("no image has a label: the balanced sampler has no classes to balance.")
        return order[min(number, len(order)) - 1]
    if number >= len(counts):
        raise ConfigError(f"clip is '{clip}', expected a class from 0 to {len(counts) - 1}.")
    if counts[number] == 0:
        raise DataError(f"clip class {number} has no images: name another with clip class:ID, or use rank:3.")
    return number


def image_weights(labels: np.ndarray, clip: str = "rank:3") -> np.ndarray:
    """Weigh each image by the mean weight of its classes, at most the weight of the clip class.

    Images without any label count as one more class.

    Args:
        labels: (N, K) of 0/1.
        clip: see find_clip_class.

    Returns:
        (N,) float64, all above 0; sums to no particular value.

    Source: the sampler of the recipe, where the clip class is 8, Intermediate filaments, the third rarest.
    """
    present = labels > 0
    weights = class_weights(labels)
    number = present.sum(axis=1)
    bare = number == 0
    out = np.where(bare, 1.0 / max(1, bare.sum()), (present @ weights) / np.maximum(number, 1))
    limit = find_clip_class(labels, clip)
    return out if limit is None else np.minimum(out, weights[limit])


def draw_epoch(weights: np.ndarray | None, n: int, *, seed: int, epoch: int) -> np.ndarray:
    """Draw the images of one epoch. Resume at any step by slicing the same draw again.

    Args:
        weights: (N,) from image_weights, for `n` draws with replacement; None for each of `n` images once,
            shuffled.
        n: number of draws.
        seed: of the run; at least 0.
        epoch: counted from 0.

    Returns:
        (n,) int64 image indices; the same for the same arguments on every machine and rank.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch,)))
    if weights is None:
        return rng.permutation(n)
    return rng.choice(len(weights), size=n, p=weights / weights.sum())


def shard(indices: np.ndarray, rank: int, world: int) -> np.ndarray:
    """Take the part of one process: every `world`-th index from `rank` on; all parts together hold each index once.

    Args:
        indices: (n,) equal on all processes.
        rank: 0 .. world - 1.
        world: number of processes.

    Returns:
        (n / world,) indices, rounded up for the first processes and down for the others.
    """
    if not 0 <= rank < world:
        raise ValueError(f"rank is {rank}, expected 0 to {world - 1}.")
    return indices[rank::world]


Key = tuple[int, int]
"""(index of the image in the data set, seed of its augmentation)."""


class ImageSamples(Dataset[tuple[Tensor, Tensor, int]]):
    """Samples (image (4, h, w) uint8, labels (K,) float32, index) of a data set.

    Args:
        data: the data set.
        augment: (image (4, S, S), seed) -> image; None for stored images as they are.
    """

    def __init__(self, data: DataSet, augment: Callable[[np.ndarray, int], np.ndarray] | None = None) -> None:
        self.data, self.augment = data, augment

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor, int]:
        """Read one image; the same key always gives the same sample."""
        index, seed = key
        image = self.data.image(index)
        image = np.array(image) if self.augment is None else self.augment(image, seed)
        return torch.from_numpy(np.ascontiguousarray(image)), torch.from_numpy(self.data.labels[index]), index


class EpochBatches(Sampler[list[Key]]):
    """Batches of keys of one epoch; `start` skips batches that a resumed run has already seen.

    The augmentation seed of a sample depends on the run's seed, the epoch and its place in it, on nothing else. Of
    several processes each takes its part of every batch; one left without any, in a short last batch, gets a double
    that its caller must not count.
    """

    def __init__(self, batch: int, seed: int, rank: int = 0, world: int = 1) -> None:
        self.batch, self.seed, self.rank, self.world = batch, seed, rank, world
        self.order: np.ndarray = np.zeros(0, np.int64)
        self.epoch = self.start = 0

    def set(self, order: np.ndarray, epoch: int, start: int = 0) -> None:
        """Choose the images of the epoch in their order, and the batch to begin with."""
        self.order, self.epoch, self.start = order, epoch, start

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch) - self.start

    def __iter__(self) -> Iterator[list[Key]]:
        seeds = np.random.default_rng([self.seed, self.epoch]).integers(2**31, size=len(self.order))
        keys = list(zip(self.order.tolist(), seeds.tolist(), strict=True))
        for b in range(self.start, -(-len(keys) // self.batch)):
            whole = keys[b * self.batch : (b + 1) * self.batch]
            yield whole[self.rank :: self.world] or whole[:1]


class MapSamples(Dataset[tuple[Tensor, Tensor, int]]):
    """Samples (image (C, h, w) uint8, target (K, h, w) uint8 of 0, 1 and 255, index), augmented by the seed of the key.

    Pixels beyond the image's edge are ignored.
    """

    def __init__(self, data: DataSet, pseudo: PseudoSet, augment: Augment) -> None:
        self.data, self.pseudo, self.augment = data, pseudo, augment

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor, int]:
        """Read one image; the same key always gives the same sample."""
        index, seed = key
        classes, masks = self.pseudo.masks(self.data.ids[index])
        planes = [*masks, np.ones(masks.shape[1:], np.uint8)]
        image, moved = self.augment.with_masks(self.data.image(index), planes, seed)
        *moved_masks, inside = moved
        target = np.zeros((len(self.data.classes), *inside.shape), np.uint8)
        for k, mask in zip(classes, moved_masks, strict=True):
            target[k] = mask
        target[:, inside == 0] = IGNORE
        return torch.from_numpy(image), torch.from_numpy(target), index
