"""Which images an epoch shows: balanced by class or plain, as a pure function of seed and epoch."""

import re

import numpy as np

from wsss.core.checks import ConfigError, DataError


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

    Images without any label count as one more class of their own.

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


def expected_share(labels: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Return (K,) which share of the draws is expected to show each class; an image may show several."""
    present = labels > 0
    if weights is None:
        return present.mean(axis=0)
    return (weights / weights.sum()) @ present
