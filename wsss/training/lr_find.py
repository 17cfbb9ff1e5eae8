"""The learning rate range test: the rate climbs from step to step until the loss breaks away.

Source: Smith, Cyclical learning rates (arXiv 1506.01186), section 3.3.
"""

import math

import numpy as np
import pandas as pd
import torch

from wsss.core.checks import DataError
from wsss.core.console import progress, say
from wsss.core.files import write_csv
from wsss.options.recipe import OptimConfig
from wsss.reports.figures import plot_range_test
from wsss.training.fit import Learner, stop_error, stop_signals
from wsss.training.loading import EpochLoader
from wsss.training.state import Job, LearningRate, TrainState

SMOOTHING = 0.9
"""Weight of the past in the smoothed loss."""
BREAK = 4.0
"""The test ends when the smoothed loss is this many times its lowest value."""


class Sweep(LearningRate):
    """A rate that climbs geometrically from `low` to `high` in `steps` steps, whatever the recipe says."""

    def __init__(self, config: OptimConfig, low: float, high: float, steps: int) -> None:
        super().__init__(config)
        self.rates = np.geomspace(low, high, steps).tolist()
        self.used = 0

    def apply(self, optimizer: torch.optim.Optimizer, progress: float) -> float:
        """Set the next rate of the climb in every group; return it."""
        rate: float = self.rates[self.used]
        self.used += 1
        for group in optimizer.param_groups:
            group["lr"] = rate * group["lr_factor"]
        return rate


def range_test(
    job: Job,
    state: TrainState,
    loader: EpochLoader,
    learner: type[Learner],
    *,
    low: float = 1e-7,
    high: float = 1.0,
    steps: int = 100,
) -> list[dict[str, float]]:
    """Train `state` with a climbing rate; nothing is saved, and the network is spent afterwards.

    Returns:
        a row a step: lr, loss, smoothed (bias-corrected moving average).

    Raises:
        DataError: the loss is not finite at once.
    """
    rows: list[dict[str, float]] = []
    average = 0.0
    where, quiet = state.progress, not job.world.leads
    sweep = state.rate = Sweep(job.recipe.optim, low, high, steps)
    with stop_signals() as stopped, progress(None, "lr_find", total=steps, leave=False, disable=quiet) as bar:
        learns = learner(job, state, stopped)
        while len(rows) < steps:
            for batch in loader.epoch(where.epoch):
                counted, whole = loader.sizes(where.step)
                outcome = learns.step(batch, counted / whole, loader.steps)
                if outcome.stop:
                    raise stop_error(stopped)
                if not outcome.finite:
                    return _checked(rows)
                average = SMOOTHING * average + (1 - SMOOTHING) * outcome.values["loss"]
                smoothed = average / (1 - SMOOTHING ** (len(rows) + 1))
                rate = sweep.rates[sweep.used - 1]
                rows.append({"lr": rate, "loss": outcome.values["loss"], "smoothed": smoothed})
                bar.update()
                where.step += 1
                if len(rows) == steps or smoothed > BREAK * min(row["smoothed"] for row in rows):
                    return _checked(rows)
            where.epoch, where.step = where.epoch + 1, 0
    return _checked(rows)


def _checked(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    if not rows:
        raise DataError("the loss of the very first batch is not finite: look at the images and the loss options.")
    return rows


def suggest(rows: list[dict[str, float]]) -> float:
    """Return the rate at which the smoothed loss falls most steeply on a log scale, before its lowest point.

    Where it never falls, that is the lowest rate tried.
    """
    smoothed = np.array([row["smoothed"] for row in rows])
    lowest = int(smoothed.argmin())
    if lowest == 0:
        return rows[0]["lr"]
    logs = np.array([math.log(row["lr"]) for row in rows[: lowest + 1]])
    return rows[int(np.gradient(smoothed[: lowest + 1], logs).argmin())]["lr"]


def find_rate(job: Job, state: TrainState, loader: EpochLoader, learner: type[Learner]) -> None:
    """Do a range test, write `lr_find.csv` and `lr_find.png` into the run's folder, say what it suggests."""
    rows = range_test(job, state, loader, learner)
    if not job.world.leads:
        return
    path, rate = job.folder.path, suggest(rows)
    write_csv(path / "lr_find.csv", pd.DataFrame(rows))
    plot_range_test(rows, rate, path / "lr_find.png")
    say(f"{path}/lr_find.png: {len(rows)} rates up to {rows[-1]['lr']:.2g}; suggestion --optim.lr {rate:.2g}")
