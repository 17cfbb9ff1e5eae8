"""The training loop. Every random number is a function of (seed, epoch, step): resuming needs no generator states."""

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wsss.core.checks import DataError, some
from wsss.core.device import Device
from wsss.core.recipe import Recipe
from wsss.core.run_folder import RunFolder
from wsss.core.runtime import progress
from wsss.engine.loading import Batch, TrainLoader
from wsss.engine.state import TrainState
from wsss.losses.total import ComboLoss
from wsss.models.cam_net import CamNet
from wsss.models.puzzle import PuzzleCam

Validate = Callable[[CamNet], dict[str, float]]


@dataclass(frozen=True)
class Job:
    """What a fit works with, beside the state that it changes."""

    recipe: Recipe
    device: Device
    folder: RunFolder
    facts: dict[str, Any]
    """What the checkpoints say of the run."""
    names: list[str]
    """ID of every image of the data set, for naming those of a bad batch."""
    save_every: int = 0
    """Steps between saves within an epoch; 0 for none."""
    bad_batches: int = 0
    """Batches with a loss that is not finite that are skipped before the run stops."""


def fit(job: Job, state: TrainState, loader: TrainLoader, validate: Validate | None) -> None:
    """Train until the recipe's last epoch, from wherever `state` stands.

    Raises:
        DataError: the loss is not finite, with the IDs of the batch; nothing of it is saved.
        KeyboardInterrupt: Ctrl-C or SIGTERM came; the state is saved first.
    """
    with _stop_signals() as stopped:
        while state.progress.epoch < job.recipe.epochs:
            began = time.perf_counter()
            seen = _train_epoch(job, state, loader, stopped)
            row = _epoch_row(state, loader, seen / (time.perf_counter() - began))
            if validate is not None:
                figures = validate(state.inference_net)
                row |= {f"val_{name}": value for name, value in figures.items()}
            row["seconds"] = time.perf_counter() - began
            _close_epoch(job, state, row)


def _train_epoch(job: Job, state: TrainState, loader: TrainLoader, stopped: list[int]) -> int:
    """Do the rest of the epoch under way; return the images seen."""
    recipe, where = job.recipe, state.progress
    model = PuzzleCam(state.net, recipe.puzzle.side).train()
    loss = ComboLoss(recipe.loss, recipe.puzzle)
    title = f"epoch {where.epoch + 1}/{recipe.epochs}"
    seen = 0
    batches = loader.epoch(where.epoch, where.step)
    with progress(batches, title, total=loader.steps, initial=where.step, leave=False) as bar:
        for batch in bar:
            parts = _step(job, state, model, loss, batch, loader.steps)
            where.step += 1
            seen += len(batch[0])
            for name, value in parts.items():
                where.sums[name] = where.sums.get(name, 0.0) + value
            bar.set_postfix({name: f"{value / where.step:.3f}" for name, value in where.sums.items()}, refresh=False)
            if stopped or (job.save_every and where.step % job.save_every == 0):
                job.folder.save(state.tensors(), {**job.facts, **state.meta()})
            if stopped:
                raise KeyboardInterrupt
    return seen


def _step(job: Job, state: TrainState, model: nn.Module, loss: ComboLoss, batch: Batch, steps: int) -> dict[str, float]:
    """Learn from one batch; return the loss and its parts."""
    recipe, device, where = job.recipe, job.device, state.progress
    torch.manual_seed(int(np.random.default_rng([recipe.seed, where.epoch, where.step]).integers(2**62)))
    done = (where.epoch * steps + where.step) / (recipe.epochs * steps)
    state.rate.apply(state.optimizer, done)
    images, labels = device.put(batch[0]), device.put(batch[1])
    with device.autocast():
        output = model(images)
    full, tiles = output.views(recipe.puzzle.on)
    parts = loss(full, tiles, labels, done)
    values = {name: value.item() for name, value in parts.items()}
    last = where.step + 1 == steps
    if not math.isfinite(values["loss"]):
        _bad_batch(job, state, batch[2], values)
        return {}
    state.scaler.scale(parts["loss"] / recipe.optim.accumulate).backward()
    if (where.step + 1) % recipe.optim.accumulate == 0 or last:
        _update(state, recipe.optim.clip)
    return values


def _update(state: TrainState, clip: float) -> None:
    """Let the optimiser use the gradients, and forget them."""
    if clip:
        state.scaler.unscale_(state.optimizer)
        nn.utils.clip_grad_norm_(state.net.parameters(), clip)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    if state.ema is not None:
        state.ema.update_parameters(state.net)


def _bad_batch(job: Job, state: TrainState, indices: Tensor, values: dict[str, float]) -> None:
    """Count a batch whose loss is not finite, or stop the run."""
    state.progress.skipped += 1
    if state.progress.skipped <= job.bad_batches:
        return
    parts = ", ".join(f"{name} {value:g}" for name, value in values.items())
    raise DataError(
        f"epoch {state.progress.epoch + 1}, step {state.progress.step + 1}: the loss is not finite ({parts}) on images "
        f"{some([job.names[i] for i in indices.tolist()], 8)}. The last checkpoint is from before it: lower optim.lr, "
        "set optim.clip, or look at these images."
    )


def _epoch_row(state: TrainState, loader: TrainLoader, rate: float) -> dict[str, Any]:
    where = state.progress
    steps = max(1, where.step)
    row: dict[str, Any] = {"epoch": where.epoch + 1, "lr": state.optimizer.param_groups[0]["lr"]}
    row |= {f"train_{name}": value / steps for name, value in where.sums.items()}
    return row | {"images_per_s": rate}


def _close_epoch(job: Job, state: TrainState, row: dict[str, Any]) -> None:
    """Record the epoch, let rate and best react to it, save."""
    where = state.progress
    where.epoch, where.step, where.sums = where.epoch + 1, 0, {}
    where.history.append(row)
    score = row.get("val_loss", row["train_loss"])
    state.rate.after_epoch(score)
    # Without validation the latest weights are the best there are.
    better = math.isfinite(score) and (where.best is None or score < where.best or "val_loss" not in row)
    if better:
        where.best = score
        job.folder.save_best(state.inference_tensors(), {**job.facts, "progress": vars(where)})
    job.folder.save(state.tensors(), {**job.facts, **state.meta()})
    job.folder.write_log(where.history)
    shown = ("train_loss", "val_loss", "val_f1", "val_map", "images_per_s", "seconds")
    figures = "  ".join(f"{name} {row[name]:.4g}" for name in shown if name in row)
    print(f"epoch {where.epoch}/{job.recipe.epochs}  {figures}{'  *' if better else ''}", flush=True)


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list, so that a step can end; a second signal stops at once."""
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    old = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
