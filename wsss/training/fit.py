"""The training loop. Every random number is a function of (seed, epoch, step): resuming needs no generator states."""

import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from wsss.core.checks import DataError, Terminated, some
from wsss.core.console import progress, say
from wsss.training.learner import Learner, Outcome, foresee
from wsss.training.loading import EpochLoader, loaders_alive
from wsss.training.state import Job, Net, TrainState

Validate = Callable[[Any], dict[str, float]]
Watch = Callable[[Net, dict[str, Any]], None]
"""Called after each epoch with the network that inference would use and the epoch's figures, by one process."""


def fit(
    job: Job,
    state: TrainState,
    loader: EpochLoader,
    validate: Validate | None,
    learner: type[Learner],
    watches: Sequence[Watch] = (),
) -> None:
    """Train until the recipe's last epoch, or until it stops early, from wherever `state` stands.

    Raises:
        DataError: the loss is not finite, with the IDs of the batch, or a loader was killed: nothing of it is saved. Or
            no epoch ended with a finite validation loss.
        KeyboardInterrupt: Ctrl-C or SIGTERM (then it is Terminated) came; the state is saved first.
    """
    where, patience = state.progress, job.recipe.optim.early_stop
    with stop_signals() as stopped, loaders_alive():
        learns = learner(job, state, stopped)
        while where.epoch < job.recipe.epochs and not (patience and where.since_best >= patience):
            began = time.perf_counter()
            seen = _train_epoch(job, state, loader, learns)
            row = _epoch_row(state, job.recipe.epochs, seen / (time.perf_counter() - began))
            if validate is not None:
                job.world.spread(state.inference_net)  # batch norms have seen other images in each process
                figures = validate(state.inference_net)
                row |= {f"val_{name}": value for name, value in figures.items()}
            row["seconds"] = time.perf_counter() - began
            _close_epoch(job, state, row)
            for watch in watches if job.world.leads else ():
                watch(state.inference_net, row)
            if watches:
                job.world.wait()  # drawing may take its time
    if where.best is None:
        raise DataError(
            f"{job.folder.path}: no epoch ended with a finite validation loss, so there are no weights to use: lower "
            "optim.lr or set optim.clip, and pass --resume never."
        )
    if job.world.leads and where.epoch < job.recipe.epochs:
        say(f"stopped early: no better validation loss for {where.since_best} epochs")


def _train_epoch(job: Job, state: TrainState, loader: EpochLoader, learner: Learner) -> int:
    """Do the rest of the epoch under way; return the images seen by all processes."""
    recipe, where = job.recipe, state.progress
    title = f"epoch {where.epoch + 1}/{recipe.epochs}"
    seen, stop, due = 0, False, False
    batches = loader.epoch(where.epoch, where.step)
    quiet = not job.world.leads
    with progress(batches, title, total=loader.steps, initial=where.step, leave=False, disable=quiet) as bar:
        for batch in bar:
            if not learner.foreseen:
                foresee(learner, batch)
                learner.foreseen = True
            counted, whole = loader.sizes(where.step)
            outcome = learner.step(batch, counted / whole, loader.steps)
            if outcome.finite:
                for name, value in outcome.values.items():
                    where.sums[name] = where.sums.get(name, 0.0) + value
            else:
                _bad_batch(job, state, batch[2][:counted], outcome)
            where.step += 1
            seen += whole
            bar.set_postfix({name: f"{value / where.step:.3f}" for name, value in where.sums.items()}, refresh=False)
            stop = stop or outcome.stop
            due = due or bool(job.save_every and where.step % job.save_every == 0)
            if where.step % recipe.optim.accumulate and where.step < loader.steps:
                continue  # gradients that wait for more batches are in no checkpoint
            if stop or due:
                _save(job, state)
                due = False
            if stop:
                job.world.wait()  # the others must not end before process 0 has saved
                raise stop_error(learner.stopped)
    return seen


def _bad_batch(job: Job, state: TrainState, indices: Tensor, outcome: Outcome) -> None:
    """Count a batch whose loss or gradient is not finite, or stop the run."""
    rows = job.world.gather(indices.double().numpy()[:, None])[:, 0]
    state.progress.skipped += 1
    if state.progress.skipped <= job.bad_batches:
        return
    parts = ", ".join(f"{name} {value:g}" for name, value in outcome.values.items())
    what = "the loss" if outcome.gradient else "the gradient of the loss"
    raise DataError(
        f"epoch {state.progress.epoch + 1}, step {state.progress.step + 1}: {what} is not finite ({parts}) on images "
        f"{some([job.names[int(i)] for i in rows], 8)}. The last checkpoint is from before it: lower optim.lr, "
        "set optim.clip, or look at these images."
    )


def _epoch_row(state: TrainState, epochs: int, rate: float) -> dict[str, Any]:
    """Return the figures of the epoch's batches; `rate` is in images per second."""
    where = state.progress
    steps = max(1, where.step)
    done = (where.epoch * steps + steps - 1) / (epochs * steps)  # as it was at the last step
    row: dict[str, Any] = {"epoch": where.epoch + 1, "lr": state.rate.at(done)}
    row |= {f"train_{name}": value / steps for name, value in where.sums.items()}
    return row | {"images_per_s": rate}


def _save(job: Job, state: TrainState) -> None:
    if job.world.leads:
        job.folder.save(state.tensors(), {**job.record.meta(), **state.meta()})


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
    where.since_best = 0 if better else where.since_best + 1
    if not job.world.leads:
        return
    facts = {**job.record.meta(), "progress": vars(where)}
    if better:
        job.folder.save_best(state.inference_tensors(), facts)
    cycle = state.rate.cycle_ended(where.epoch, job.recipe.epochs)
    if cycle:
        job.folder.save_snapshot(cycle, state.inference_tensors(), facts)
    _save(job, state)
    job.folder.write_log(where.history)
    shown = ("train_loss", "val_loss", "val_f1", "val_map", "val_iou", "val_instance_ap", "images_per_s", "seconds")
    figures = "  ".join(f"{name} {row[name]:.4g}" for name in shown if name in row)
    text = f"epoch {where.epoch}/{job.recipe.epochs}  {figures}{'  *' if better else ''}"
    say(text, "epoch", epochs=job.recipe.epochs, best=better, **row)


def stop_error(received: Sequence[int]) -> KeyboardInterrupt:
    """Return what ends a run after these signals; none came where another process got it."""
    return Terminated() if signal.SIGTERM in received else KeyboardInterrupt()


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list, so that a step can end; a second signal stops at once."""
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        received.append(number)
        if len(received) > 1:
            raise stop_error(received)

    old = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
