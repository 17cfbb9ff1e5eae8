"""One step of learning: forward, loss, agreement of all processes, backward, update."""

import math
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from wsss.core.checks import ConfigError
from wsss.training.loading import Batch
from wsss.training.state import Job, TrainState


class Outcome(NamedTuple):
    """What a step found, the same in every process."""

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


class Learner(ABC):
    """The network as it is trained: compiled if wanted, its gradients shared between processes.

    Args:
        job: recipe, device, processes, first network of a refinement.
        state: what the steps change.
        stopped: filled by a signal handler when the run must stop.
    """

    def __init__(self, job: Job, state: TrainState, stopped: list[int]) -> None:
        self.job, self.state, self.stopped = job, state, stopped
        self.net: nn.Module = self.build()
        if job.compiled:
            self.net = torch.compile(self.net)  # type: ignore[assignment]
        self.model = job.world.wrap(self.net)

    @abstractmethod
    def build(self) -> nn.Module:
        """Return what is trained, made of the state's network; make what the loss needs."""

    @abstractmethod
    def losses(self, model: nn.Module, batch: Batch, done: float) -> dict[str, Tensor]:
        """Return the loss and its parts of one batch.

        Args:
            model: what `build` returned, as it is trained.
            batch: the images.
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
            ConfigError: the GPU's memory is too small, with the batch that would fit.
        """
        recipe, device, where = self.job.recipe, self.job.device, self.state.progress
        self._seed()
        done = (where.epoch * steps + where.step) / (recipe.epochs * steps)
        self.state.rate.apply(self.state.optimizer, done)
        batch = batch.on(device)
        updates = (where.step + 1) % recipe.optim.accumulate == 0 or where.step + 1 == steps
        self.model.train()
        try:
            with self._apart(not updates):
                parts = self.losses(self.model, batch, done)
                outcome = self._agree(parts, share)
                if outcome.finite:
                    weight = share * self.job.world.size / recipe.optim.accumulate
                    self.state.scaler.scale(parts["loss"] * weight).backward()
        except torch.cuda.OutOfMemoryError as error:
            raise ConfigError(self._too_large(batch)) from error
        if updates and outcome.finite:
            outcome = outcome._replace(gradient=self._update())
        elif updates:
            self.state.optimizer.zero_grad(set_to_none=True)  # the batches summed with a bad one go with it
        return outcome

    def _seed(self) -> None:
        """Make what is random in the network a function of seed, epoch, step, and of the process."""
        where, rank = self.state.progress, self.job.world.rank
        key = [self.job.recipe.seed, where.epoch, where.step, *([rank] if rank else [])]
        torch.manual_seed(int(np.random.default_rng(key).integers(2**62)))

    def _agree(self, parts: dict[str, Tensor], share: float) -> Outcome:
        """Return the means over all processes, and whether any of them must stop."""
        found = torch.stack([value.detach().float() for value in parts.values()]).tolist()  # one wait for the GPU
        own = [value * share for value in found]
        *values, stops = self.job.world.total([*own, float(bool(self.stopped))])
        return Outcome(dict(zip(parts, values, strict=True)), stops > 0)

    def _apart(self, apart: bool) -> AbstractContextManager[None]:
        """Keep gradients in this process while more batches are summed into them."""
        shared = isinstance(self.model, DistributedDataParallel)
        return self.model.no_sync() if apart and shared else nullcontext()  # type: ignore[operator]

    def _update(self) -> bool:
        """Let the optimiser use the gradients, and forget them; False, and nothing learnt, if they are not finite."""
        state, clip = self.state, self.job.recipe.optim.clip
        scaled = state.scaler.is_enabled()  # then it looks out for infinite gradients itself
        if clip:
            state.scaler.unscale_(state.optimizer)
        if clip or not scaled:
            norm = nn.utils.clip_grad_norm_(state.net.parameters(), clip or math.inf)
            if not scaled and not norm.isfinite():
                state.optimizer.zero_grad(set_to_none=True)
                return False
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.optimizer.zero_grad(set_to_none=True)
        if state.ema is not None:
            state.ema.update_parameters(state.net)
        return True

    def _too_large(self, batch: Batch) -> str:
        """Find by trying which share of the batch would fit, and say it."""
        tried = fits = len(batch.images)
        moments = 2 if not self.state.optimizer.state else 0  # those of Adam, which come with the first update
        room = [torch.empty_like(p) for p in self.state.net.parameters() for _ in range(moments)]
        while fits > 1:
            fits //= 2
            self.state.optimizer.zero_grad(set_to_none=True)
            if self._would_fit(batch.first(fits)):
                break
        else:
            fits = 0
        del room
        size, recipe = self.job.world.size, self.job.recipe
        said = f"the GPU's memory is too small for {tried} images of {batch.images.shape[-1]} px at a time"
        if not fits:
            return f"{said}, even for one: lower --crop, or choose a smaller --backbone."
        more = recipe.optim.accumulate * -(-tried // fits)
        return f"{said}; {fits} would fit: pass --batch {fits * size} --optim.accumulate {more}, or lower --crop."

    def _would_fit(self, batch: Batch) -> bool:
        if batch.images.is_cuda:
            torch.cuda.empty_cache()
        try:
            self.losses(self.net, batch, 0.0)["loss"].backward()
        except torch.cuda.OutOfMemoryError:
            return False
        return True
