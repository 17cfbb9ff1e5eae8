"""Optimisers and learning rates."""

import math
from typing import Any

import torch
from torch import nn

from wsss.options.recipe import OptimConfig


def build_optimizer(model: nn.Module, head: set[nn.Parameter], config: OptimConfig) -> torch.optim.Optimizer:
    """Build the optimiser of a recipe; biases and norms get no weight decay, `head` its own learning rate."""
    head_ids = {id(p) for p in head}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for p in model.parameters():
        # Those that are frozen too: they keep their places in the optimiser's state, in which checkpoints number them.
        groups.setdefault((id(p) in head_ids, p.ndim > 1), []).append(p)
    settings = [
        {
            "params": params,
            "lr_factor": config.head_lr_factor if is_head else 1.0,
            "lr": config.lr * (config.head_lr_factor if is_head else 1.0),
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for (is_head, decays), params in sorted(groups.items(), key=lambda item: item[0])
    ]
    # One kernel for many weights; it also leaves out infinite gradients of fp16 without asking the CPU.
    fused = all(p.is_cuda for params in groups.values() for p in params) or None
    if config.name == "sgd":
        return torch.optim.SGD(settings, lr=config.lr, momentum=config.beta1, fused=fused)
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return kind(settings, lr=config.lr, betas=(config.beta1, 0.999), fused=fused)


class LearningRate:
    """The learning rate over a run: a function of progress, and of the validation loss for 'plateau'.

    Args:
        config: the recipe's options.
    """

    def __init__(self, config: OptimConfig) -> None:
        self.config = config
        self.scale = 1.0
        self.best = math.inf
        self.waited = 0

    def at(self, progress: float) -> float:
        """Return the rate when `progress` (0..1) of the training is done."""
        config = self.config
        warmup = config.warmup or (0.3 if config.schedule == "onecycle" else 0.0)
        if progress < warmup:
            return max(config.floor, config.lr * (progress / warmup))
        rest = (progress - warmup) / (1 - warmup) if warmup < 1 else 1.0
        if config.schedule in ("cosine", "onecycle"):
            factor = 0.5 * (1 + math.cos(math.pi * _within(rest, config)))
        elif config.schedule == "cyclic":
            factor = 1 - (1 - config.cycle_low) * abs(2 * _within(rest, config) - 1)
        else:
            factor = self.scale
        return max(config.floor, config.lr * factor)

    def cycle_ended(self, epoch: int, epochs: int) -> int:
        """Return the number (from 1) of the cycle whose last epoch is `epoch` (from 1), else 0.

        Only where there are several; the recipe makes sure that they end with an epoch.
        """
        config = self.config
        if config.schedule not in ("cosine", "cyclic") or config.cycles == 1:
            return 0
        ends = config.cycle_ends(epochs)
        return ends.index(epoch) + 1 if epoch in ends else 0

    def after_epoch(self, loss: float) -> None:
        """Lower the rate of 'plateau' after `patience` epochs without a validation loss below the best."""
        if self.config.schedule != "plateau":
            return
        if loss < self.best * (1 - 1e-4):
            self.best, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited > self.config.patience:
            self.scale, self.waited = self.scale * self.config.factor, 0

    def apply(self, optimizer: torch.optim.Optimizer, progress: float) -> float:
        """Set the rate of every group; return it."""
        rate = self.at(progress)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["lr_factor"]
        return rate

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"scale": self.scale, "best": self.best if math.isfinite(self.best) else None, "waited": self.waited}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over the result of `state`."""
        self.scale, self.waited = state["scale"], state["waited"]
        self.best = math.inf if state["best"] is None else state["best"]


def _within(rest: float, config: OptimConfig) -> float:
    """Return which share of the cycle under way is done, when `rest` (0..1) of all cycles is."""
    cycles = 1 if config.schedule == "onecycle" else config.cycles
    return 1.0 if rest >= 1 else rest * cycles % 1.0
