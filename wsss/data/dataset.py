"""Images as PyTorch samples."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from wsss.data.catalog import DataSet

Augment = Callable[[np.ndarray, int], np.ndarray]
Key = tuple[int, int]
"""(index of the image in the data set, seed of its augmentation)."""


class ImageSamples(Dataset[tuple[Tensor, Tensor, int]]):
    """Samples (image (4, h, w) uint8, labels (K,) float32, index) of a data set.

    Args:
        data: the data set.
        augment: (image (4, S, S), seed) -> image; None for stored images as they are.
    """

    def __init__(self, data: DataSet, augment: Augment | None = None) -> None:
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
