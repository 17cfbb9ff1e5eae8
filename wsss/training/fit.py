"""The training loop. Every random number is a function of (seed, epoch, step): resuming needs no generator states."""

import math
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from wsss.core.checks import ConfigError, DataError, Terminated, some
from wsss.core.console import progress, say
from wsss.models.device import GIB, MemoryFull, attempt, free_bytes, peak_bytes
from wsss.training.loading import Batch, EpochLoader, loaders_alive
from wsss.training.state import Job, Net, TrainState


class Outcome(NamedTuple):
    """The result of a step, the same in every process."""

    values: dict[str, float]
    """The loss and its parts, means over the whole batch."""
    stop: bool
    """Whether any process was asked to stop."""
    gradient: bool = True
    """Whether the gradients were numbers to learn from."""

    @property
    def finite(self) -> bool:
        """Whether the loss and its gradients are numbers to learn from."""
        return math.isfinite(self.values["loss"]) and self.gradient


ONE_VALUE = "more than 1 value per channel"
"""In what PyTorch says of a batch norm that sees one value."""


class Learner(ABC):
    """The network as it is trained: compiled if wanted, its gradients shared between processes.

    Args:
        job: recipe, device, processes, first network of a refinement.
        stopped: filled by a signal handler when the run must stop.
    """

    def __init__(self, job: Job, state: TrainState, stopped: list[int]) -> None:
        self.job, self.state, self.stopped = job, state, stopped
        self.net = self.build()
        self.foreseen = False
        """Whether the memory of a step has been measured."""
        self.model = job.world.wrap(torch.compile(self.net) if job.compiled else self.net)  # type: ignore[arg-type]
        if job.device.is_cuda:
            torch.set_float32_matmul_precision("high")  # TF32 for what autocast leaves in float32, as in convolutions

    @abstractmethod
    def build(self) -> nn.Module:
        """Return what is trained, made of the state's network; make what the loss needs."""

    @abstractmethod
    def losses(self, model: nn.Module, batch: Batch, done: float) -> dict[str, Tensor]:
        """Return the loss and its parts of one batch.

        Args:
            model: what `build` returned, as it is trained.
            done: share of the training that is behind it.
        """

    def step(self, batch: Batch, share: float, steps: int) -> Outcome:
        """Learn from one batch.

        Args:
            batch: this process's images.
            share: of the whole batch that they are; the shares of all processes sum to 1.
            steps: of an epoch.

        Returns:
            the loss and its parts; nothing was learnt if they are not finite.

        Raises:
            ConfigError: the memory is too small, with the batch that would fit; or the batch too small to learn from.
        """
        recipe, where = self.job.recipe, self.state.progress
        self._seed()
        done = (where.epoch * steps + where.step) / (recipe.epochs * steps)
        self.state.rate.apply(self.state.optimizer, done)
        updates = (where.step + 1) % recipe.optim.accumulate == 0 or where.step + 1 == steps
        self.model.train()
        try:
            return attempt(partial(self._learn, batch, share, done, updates))
        except MemoryFull as full:
            raise ConfigError(self._advice(batch, full)) from None
        except ValueError as error:
            if ONE_VALUE not in str(error):
                raise
            raise ConfigError(
                f"a batch of one image of {batch.images.shape[-1]} px ends as one value a channel, from which batch "
                "norms learn nothing: use larger images (--crop), or another --batch, so that no image is left alone."
            ) from None

    def _learn(self, batch: Batch, share: float, done: float, updates: bool) -> Outcome:
        """Do the step. A GPU is waited for once, when all but the update has been handed to it."""
        state, batch = self.state, batch.on(self.job.device)
        buffers = list(state.net.buffers()) if self.job.bad_batches else []
        before = [buffer.clone() for buffer in buffers]
        weight = share * self.job.world.size / self.job.recipe.optim.accumulate
        with self._apart(not updates), self.job.device.searching():
            parts = self.losses(self.model, batch, done)
            state.scaler.scale(parts["loss"] * weight).backward()
        outcome = self._agree(parts, share, self._gradient_norm() if updates else None)
        if outcome.finite and updates:
            self._update()
        elif updates and state.scaler.is_enabled():
            state.scaler.update()  # which forgets that the gradients were unscaled
        if updates or not outcome.finite:
            state.optimizer.zero_grad(set_to_none=True)  # the batches summed with a bad one go with it
        if not outcome.finite:
            for buffer, old in zip(buffers, before, strict=True):  # batch norms have seen it
                buffer.copy_(old)
        return outcome

    def _seed(self) -> None:
        """Make what is random in the network a function of seed, epoch, step, and of the process."""
        where, rank = self.state.progress, self.job.world.rank
        key = [self.job.recipe.seed, where.epoch, where.step, *([rank] if rank else [])]
        torch.manual_seed(int(np.random.default_rng(key).integers(2**62)))

    def _agree(self, parts: dict[str, Tensor], share: float, norm: Tensor | None) -> Outcome:
        """Return the means over all processes, whether any of them must stop, and whether the gradient is a number."""
        values = torch.stack([value.detach().float() for value in parts.values()]) * share
        stop = values.new_full((1,), float(bool(self.stopped)))
        shared = self.job.world.add(torch.cat([values, stop]))
        length = values.new_ones(1) if norm is None else norm.float().view(1)
        *means, stops, size = [float(value) for value in torch.cat([shared, length]).cpu()]  # the one wait for a GPU
        # A scaler looks out for infinite gradients itself: it tries scales until they appear.
        gradient = self.state.scaler.is_enabled() or math.isfinite(size)
        return Outcome(dict(zip(parts, means, strict=True)), stops > 0, gradient)

    def _apart(self, apart: bool) -> AbstractContextManager[None]:
        """Keep gradients in this process while more batches are summed into them."""
        shared = isinstance(self.model, DistributedDataParallel)
        return self.model.no_sync() if apart and shared else nullcontext()  # type: ignore[operator]

    def _gradient_norm(self) -> Tensor:
        """Return the norm of the gradients of all parameters, which are clipped if the recipe says so."""
        if self.state.scaler.is_enabled():
            self.state.scaler.unscale_(self.state.optimizer)
        if self.job.recipe.optim.clip:
            return nn.utils.clip_grad_norm_(self.state.net.parameters(), self.job.recipe.optim.clip)
        grads = [p.grad for p in self.state.net.parameters() if p.grad is not None]
        # PyTorch's get_total_norm does the same from 2.6 on.
        return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))

    def _update(self) -> None:
        """Let the optimiser use the gradients; a scaler leaves out those that it made infinite."""
        self.state.scaler.step(self.state.optimizer)
        self.state.scaler.update()
        self.state.average()

    def _advice(self, batch: Batch, full: MemoryFull) -> str:
        """Find by trying which share of the batch would fit, and say it."""
        tried = len(batch.images)
        images = f"{tried} images of {batch.images.shape[-1]} px"
        said = f"the memory of {self.job.device.place} is too small for {images} at a time ({full})"
        fits = tried // 2
        while fits and not self._fits(batch.first(fits)):
            fits //= 2
        if not fits:
            return f"{said}, even for one: {NONE_FITS}."
        return f"{said}; {fits} would fit: {self.smaller(tried, fits)}."

    def smaller(self, images: int, fits: int) -> str:
        """Say how to learn from `images` at a time in this process by steps of as many as fit."""
        more = self.job.recipe.optim.accumulate * -(-images // fits)
        return f"pass --batch {fits * self.job.world.size} --optim.accumulate {more}, or lower --crop"

    def _fits(self, batch: Batch) -> bool:
        self.state.optimizer.zero_grad(set_to_none=True)
        try:
            attempt(partial(self.rehearse, batch))
        except MemoryFull:
            return False
        return True

    def rehearse(self, batch: Batch) -> None:
        """Do a step of this process alone that takes the memory of a real one, and learns nothing."""
        optimizer, moments = self.state.optimizer, []
        if not optimizer.state:  # its moments come with the first update, and stay
            count = 1 if isinstance(optimizer, torch.optim.SGD) else 2
            moments = [torch.empty_like(p) for p in self.state.net.parameters() for _ in range(count)]
        # Batch norms keep their statistics, and do not wait for other processes.
        with _still_norms(self.net), self.job.device.searching():
            self.losses(self.net, batch.on(self.job.device), 0.0)["loss"].backward()
        del moments
        optimizer.zero_grad(set_to_none=True)


@contextmanager
def _still_norms(net: nn.Module) -> Iterator[None]:
    """Let batch norms use their running statistics, and keep them as they are."""
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm) and module.training]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()


SMALL = 2
"""Images of the larger of the two small steps that measure memory."""
ROOM = 0.9
"""Share of the free memory that a step may take: the system and the loader processes need some too."""
NONE_FITS = "lower --crop, or choose a smaller --backbone"
"""What to do where memory holds not even one image."""


def foresee(learner: Learner, batch: Batch) -> None:
    """Report the memory that a step will take, and the batch that fits where this one does not.

    On a CPU the system kills a process that takes too much, without a message. Two small steps, of one image and of
    two, show how much each image takes and how much the rest. They learn nothing.
    """
    images, world = len(batch.images), learner.job.world
    device, small = learner.job.device, min(SMALL, images)
    free = free_bytes(device) // (1 if device.is_cuda else world.local_size)
    try:
        one = peak_bytes(partial(attempt, partial(learner.rehearse, batch.first(1))), device)
        more = peak_bytes(partial(attempt, partial(learner.rehearse, batch.first(small))), device) if small > 1 else one
    except MemoryFull:
        return  # the step itself will report what fits
    # The second small step finds some of what the first one has taken still there: it cannot need less.
    each = max(0, more - one) / max(1, small - 1)
    need = one + each * (images - 1)
    if not world.leads:
        return
    takes, there = f"{max(need / GIB, 0.1):.1f} GiB", f"{free / GIB:.1f} GiB are free on {device.place}"
    text = f"memory: a step of {images} images takes about {takes}, {there}"
    fits = images if need <= ROOM * free or not each else max(0, int((ROOM * free - one) // each) + 1)
    figures = {"images": images, "need_bytes": int(need), "free_bytes": free, "fits": min(fits, images)}
    if fits >= images:
        say(text, "memory", **figures)
    elif fits:
        say(f"{text}: too much. {fits} would fit: {learner.smaller(images, fits)}", "memory", **figures)
    else:
        say(f"{text}: too much, even for one image: {NONE_FITS}", "memory", **figures)


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
            bar.set_postfix({name: f"{value:.3f}" for name, value in where.means().items()}, refresh=False)
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
    state.progress.skipped, state.progress.bad = state.progress.skipped + 1, state.progress.bad + 1
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
    row = {"epoch": where.epoch + 1, "lr": state.rate.at(done), "train_loss": math.nan}  # if no batch was learnt
    return row | {f"train_{name}": value for name, value in where.means().items()} | {"images_per_s": rate}


def _save(job: Job, state: TrainState) -> None:
    if job.world.leads:
        job.folder.save(state.tensors(), {**job.record.meta(), **state.meta()})


def _close_epoch(job: Job, state: TrainState, row: dict[str, Any]) -> None:
    """Record the epoch, let rate and best react to it, save."""
    where = state.progress
    where.epoch, where.step, where.bad, where.sums = where.epoch + 1, 0, 0, {}
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
    """Collect SIGINT and SIGTERM in a list, so that a step can end; a second signal stops at once.

    One that came after the last step stops at the end of the block.
    """
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        received.append(number)
        if len(received) > 1:
            raise stop_error(received)

    old = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
        if received:
            raise stop_error(received)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
