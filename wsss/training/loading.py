"""Batches of training and validation images, in an order that depends on seed and epoch alone."""

import multiprocessing
import os
import signal
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, ClassVar, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from wsss.core.checks import DataError, Terminated
from wsss.data.catalog import DataSet
from wsss.data.samples import EpochBatches, ImageSamples, draw_epoch, image_weights
from wsss.models.device import Device, return_freed_memory
from wsss.options.recipe import Recipe, SamplerConfig
from wsss.training.distributed import World


class Batch(NamedTuple):
    """Images of a step."""

    images: Tensor
    """(B, C, h, w) uint8."""
    labels: Tensor
    """(B, K) float32; of masks the packed targets."""
    indices: Tensor
    """(B,) numbers in the data set."""

    def on(self, device: Device) -> "Batch":
        """Return the batch with what the network sees moved to a device."""
        return Batch(device.put(self.images), device.put(self.labels), self.indices)

    def first(self, count: int) -> "Batch":
        """Return the first images alone."""
        return Batch(*(part[:count] for part in self))


class EpochLoader:
    """Batches of the training images.

    Args:
        samples: the images with their labels.
        draw: returns the numbers of the images of an epoch, in order.
        count: how many these are.
        recipe: batch, seed.
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
        indices: those to draw from.
        config: whether, and how far.
        seed: of the drawing.
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
        DataError: a loader process was killed, or met a damaged image.
        Terminated: a loader process got SIGTERM, as when a scheduler signals every process of a job.
    """
    try:
        yield
    except DataError as error:
        # PyTorch puts the traceback of the loader process around the message; the line itself comes last.
        raise DataError(str(error).splitlines()[-1].removeprefix("wsss.core.checks.DataError: ")) from error
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


def _collate(samples: list[tuple[Tensor, Tensor, int]]) -> Batch:
    images, labels, indices = zip(*samples, strict=True)
    return Batch(torch.stack(images), torch.stack(labels), torch.tensor(indices))


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
