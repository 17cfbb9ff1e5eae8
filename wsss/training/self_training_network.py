"""Training of a network on crops of single cells with soft labels, in memory."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wsss.cells.confident import class_balance
from wsss.core.checks import DataError
from wsss.core.device import Device
from wsss.core.runtime import progress
from wsss.data.changed_crops import change_crop
from wsss.data.sampler import draw_epoch
from wsss.models.cam_net import CamNet
from wsss.options.feature_classifier import SelfTrainingConfig

WEIGHT_DECAY = 1e-2


@dataclass(frozen=True)
class Lesson:
    """What is learnt from."""

    crops: np.ndarray
    """(N, 4, s, s) uint8, black outside the cell."""
    soft: np.ndarray
    """(N, K) float32, rows sum to 1."""
    negative: int | None
    """Class of cells that lost their protein."""


def train_self_trained(
    start: CamNet, lesson: Lesson, config: SelfTrainingConfig, seed: int, device: Device, title: str
) -> tuple[CamNet, list[float]]:
    """Train a copy of a network to give each cell its soft label: cross-entropy of the softmax of its logits.

    Every class is drawn as often as any other. Every random number is a function of seed, epoch and step.

    Args:
        start: where the weights begin; it stays as it is.
        lesson: the cells.
        config: epochs, batch, rate.
        seed: of draws and changes.
        device: where to compute.
        title: of the progress bar.

    Returns:
        The network in evaluation mode, and the mean loss of each epoch.

    Raises:
        DataError: the loss is not finite.
    """
    net = device.settle(copy.deepcopy(start)).train()
    fused = device.is_cuda or None
    optimizer = torch.optim.AdamW(net.parameters(), config.lr, weight_decay=WEIGHT_DECAY, fused=fused)
    scaler = torch.amp.GradScaler(device.place.type, enabled=device.half is torch.float16)
    steps = config.epochs * -(-len(lesson.crops) // config.batch)
    losses: list[float] = []
    with progress(None, title, total=steps, leave=False) as bar:
        for epoch in range(config.epochs):
            total = 0.0
            for images, soft in _batches(lesson, config, seed, epoch):
                torch.manual_seed(seed * 1_000_003 + bar.n)  # dropout
                for group in optimizer.param_groups:
                    group["lr"] = config.lr * 0.5 * (1 + math.cos(math.pi * bar.n / steps))
                with device.autocast():
                    logits = net(device.put(images)).logits
                loss = -(device.put(soft) * logits.float().log_softmax(dim=1)).sum(dim=1).mean()
                total += _finite(loss, title) * len(images)
                optimizer.zero_grad(set_to_none=True)
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
                bar.update()
            losses.append(total / len(lesson.crops))
    return net.eval(), losses


def _finite(loss: Tensor, title: str) -> float:
    value = loss.item()
    if not math.isfinite(value):
        raise DataError(f"{title}: the loss is not finite ({value}): lower self_training.lr.")
    return value


def _batches(lesson: Lesson, config: SelfTrainingConfig, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield changed crops and their soft labels for one epoch."""
    count, classes = len(lesson.crops), lesson.soft.shape[1]
    order = draw_epoch(class_balance(lesson.soft), count, seed=seed, epoch=epoch)
    for first in range(0, count, config.batch):
        rows = order[first : first + config.batch]
        rng = np.random.default_rng([seed, epoch, first])
        images, soft = np.empty_like(lesson.crops[rows]), lesson.soft[rows].copy()
        for place, row in enumerate(rows):
            images[place], emptied = change_crop(
                lesson.crops[row], rng, config.changed, negatives=lesson.negative is not None
            )
            if emptied:
                soft[place] = np.arange(classes) == lesson.negative
        yield torch.from_numpy(images), torch.from_numpy(soft)
