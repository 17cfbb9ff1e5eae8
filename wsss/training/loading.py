"""Batches of training and validation images: how often each image is drawn, in an order of seed and epoch alone."""

import multiprocessing
import os
import re
import signal
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, ClassVar, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from wsss.core.checks import ConfigError, DataError, Terminated, UserError
from wsss.data.augment import Augment
from wsss.data.catalog import DataSet
from wsss.models.augment import Drawn, augment_batch
from wsss.models.device import Device, return_freed_memory
from wsss.options.recipe import Recipe, SamplerConfig
from wsss.training.drawing import Draw, DrawnAugment, together
from wsss.training.state import World


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
        seed: of the run; at least 0.
        epoch: counted from 0.

    Returns:
        (n,) int64 image indices; the same for the same arguments on every machine and rank.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch,)))
    if weights is None:
        return rng.permutation(n)
    return rng.choice(len(weights), size=n, p=weights / weights.sum())


Key = tuple[int, int]
"""(index of the image in the data set, seed of its augmentation)."""


Sample = tuple[Tensor, Tensor, int] | tuple[Tensor, Tensor, int, list[Draw]]
"""Image, labels, number; and what was drawn to happen to the image where the network computes."""


class ImageSamples(Dataset[Sample]):
    """Samples (image (4, h, w) uint8, labels (K,) float32, index) of a data set.

    Args:
        augment: (image (4, S, S), seed) -> image; None for stored images as they are. Of one that only draws, the
            samples hold the draws too.
    """

    def __init__(self, data: DataSet, augment: Augment | DrawnAugment | None = None) -> None:
        self.data, self.augment = data, augment

    def __getitem__(self, key: Key) -> Sample:
        """Read one image; the same key always gives the same sample."""
        index, seed = key
        image, labels = self.data.image(index), torch.from_numpy(self.data.labels[index])
        if isinstance(self.augment, DrawnAugment):
            image, draws = self.augment(image, seed)
            return torch.from_numpy(image), labels, index, draws
        image = np.array(image) if self.augment is None else self.augment(image, seed)
        return torch.from_numpy(np.ascontiguousarray(image)), labels, index


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


class Batch(NamedTuple):
    """Images of a step."""

    images: Tensor
    """(B, C, h, w) uint8."""
    labels: Tensor
    """(B, K) float32; of masks the packed targets."""
    indices: Tensor
    """(B,) numbers in the data set."""
    drawn: Sequence[Drawn] = ()
    """What is to happen to the images yet, on their device."""

    def on(self, device: Device) -> "Batch":
        """Return the batch with what the network sees moved to a device, and augmented there if that is not done."""
        return Batch(augment_batch(device.put(self.images), self.drawn), device.put(self.labels), self.indices)

    def first(self, count: int) -> "Batch":
        """Return the first images alone, without what is to happen to them: for measuring."""
        return self.part(slice(count))

    def part(self, rows: slice) -> "Batch":
        """Return some of the images, without what is to happen to them."""
        return Batch(self.images[rows], self.labels[rows], self.indices[rows])


class EpochLoader:
    """Batches of the training images.

    Args:
        draw: returns the numbers of the images of an epoch, in order.
        count: how many these are.
        workers: loader processes; 0 loads in this one. The batches do not depend on it.
        pinned: whether a GPU will take them.
        world: this process among all; each takes its share of every batch.
    """

    def __init__(
        self,
        samples: Dataset[Any],
        draw: Callable[[int], np.ndarray],
        count: int,
        recipe: Recipe,
        *,
        workers: int = 0,
        pinned: bool = False,
        world: World | None = None,
    ) -> None:
        self.draw, self.count, self.batch = draw, count, recipe.batch
        self.world = world or World()
        self.batches = EpochBatches(recipe.batch, recipe.seed, self.world.rank, self.world.size)
        self.loader = batch_loader(samples, self.batches, workers, pinned)

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return -(-self.count // self.batch)

    def sizes(self, step: int) -> tuple[int, int]:
        """Return the images of batch `step` that count in this process, and in all."""
        whole = min(self.batch, self.count - step * self.batch)
        return len(range(self.world.rank, whole, self.world.size)), whole

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from batch `start` on."""
        self.batches.set(self.draw(epoch), epoch, start)
        yield from self.loader


def balanced_draw(labels: np.ndarray, indices: np.ndarray, config: SamplerConfig, seed: int) -> Callable[[int], Any]:
    """Return what draws the images of an epoch, those of rare classes more often if the options say so.

    Args:
        labels: (N, K) 0/1 of all images.
    """
    weights = image_weights(labels[indices], clip=config.clip) if config.balanced else None
    return lambda epoch: indices[draw_epoch(weights, len(indices), seed=seed, epoch=epoch)]


def whole_images(
    data: DataSet, indices: np.ndarray, batch: int, *, workers: int = 0, pinned: bool = False
) -> DataLoader[Batch]:
    """Return a loader of stored images as they are, in the given order."""
    batches = EpochBatches(batch, seed=0)
    batches.set(indices, epoch=0)
    return batch_loader(ImageSamples(data), batches, workers, pinned)


@contextmanager
def loaders_alive() -> Iterator[None]:
    """Name the death of a loader process, which PyTorch raises wherever the main process happens to be.

    Raises:
        UserError: a loader process was killed, or met a damaged image or an augmentation that does not go.
        Terminated: a loader process got SIGTERM, as when a scheduler signals every process of a job.
    """
    try:
        yield
    except UserError as error:
        # PyTorch puts the traceback of the loader process around the message; the line itself comes last.
        kind = type(error)
        raise kind(str(error).splitlines()[-1].removeprefix(f"{kind.__module__}.{kind.__name__}: ")) from error
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        if "signal: Terminated" in f"{error} {error.__cause__}":
            raise Terminated from error
        raise DataError(
            f"a process that loads images was killed (out of memory, or of /dev/shm?): {' '.join(str(error).split())} "
            "Start the same command again to go on from the last checkpoint, with fewer --workers."
        ) from error


class _Loader(DataLoader[Batch]):
    """Batches whose processes start small, although the first validation, or a second fold, comes after much work."""

    started = False
    running: ClassVar[weakref.WeakSet[Any]] = weakref.WeakSet()
    """The epochs of this process that loader processes serve."""

    def __iter__(self) -> Any:
        """Begin an epoch; the first one starts the processes, forks of this one."""
        if self.num_workers and not self.started:
            return_freed_memory()
            self.started = True
        epoch = super().__iter__()
        self.running.add(epoch)
        return epoch


def batch_loader(samples: Dataset[Any], batches: EpochBatches, workers: int, pinned: bool) -> DataLoader[Batch]:
    """Return a loader of the samples that `batches` names.

    Its processes are forks of this one: they share its memory, and end when it is killed. Those of a fork server, which
    newer Pythons take, would keep the server alive and it them.
    """
    forked = workers > 0 and "fork" in multiprocessing.get_all_start_methods()
    return _Loader(
        samples,
        batch_sampler=batches,
        num_workers=workers,
        multiprocessing_context="fork" if forked else None,
        pin_memory=pinned,
        persistent_workers=workers > 0,
        worker_init_fn=_quiet_worker,
        collate_fn=_collate,
    )


def _collate(samples: list[Sample]) -> Batch:
    images, labels, indices, *draws = zip(*samples, strict=True)
    return Batch(torch.stack(images), torch.stack(labels), torch.tensor(indices), together(*draws) if draws else ())


def _quiet_worker(worker: int) -> None:
    """Keep a loader process to one core, leave signals to stop to the main process, and end with it quietly."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.setpgrp()  # a SIGTERM to the main process's group must not come here: it saves first, then ends its loaders
    sys.excepthook = _hang_up
    for epoch in list(_Loader.running):  # copies of the main process's: their loaders are not this one's to end
        epoch._shutdown = True
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _hang_up(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Pass over that the main process has gone while a loader's thread was handing it an image."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)
