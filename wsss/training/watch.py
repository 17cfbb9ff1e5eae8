"""What shows a person how a training goes: the learning rate range test, pictures of class maps, TensorBoard.

In the range test the rate climbs from step to step until the loss breaks away. Source: Smith, Cyclical learning rates
(arXiv 1506.01186), section 3.3.
"""

import math
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from wsss.core.checks import ConfigError, DataError, install
from wsss.core.console import progress, say
from wsss.core.csv_text import write_csv
from wsss.core.files import write_atomic
from wsss.data.catalog import DataSet
from wsss.models.cam_net import CamNet
from wsss.models.device import Device
from wsss.reports.figures import plot_range_test, short_names
from wsss.reports.overlay import Panel, composite, contact_sheet, fit, heat
from wsss.training.fit import Learner, Watch, stop_error, stop_signals
from wsss.training.loading import EpochLoader, loaders_alive
from wsss.training.state import Job, LearningRate, Net, TrainState

SMOOTHING = 0.9
"""Weight of the past in the smoothed loss."""
RATES: list[float] = np.geomspace(1e-7, 1, 100).tolist()
"""Those that the range test tries."""
BREAK = 4.0
"""The test ends when the smoothed loss is this many times its lowest value."""


class Sweep(LearningRate):
    """A rate that climbs from step to step through RATES, whatever the recipe says."""

    used = 0

    def at(self, progress: float) -> float:
        """Return the next rate of the climb, whatever the progress."""
        self.used += 1
        return RATES[self.used - 1]


def range_test(job: Job, state: TrainState, loader: EpochLoader, learner: type[Learner]) -> list[dict[str, float]]:
    """Train `state` with a climbing rate; nothing is saved, and the network is spent afterwards.

    Returns:
        a row a step: lr, loss, smoothed (bias-corrected moving average).

    Raises:
        DataError: the loss is not finite at once.
    """
    rows: list[dict[str, float]] = []
    average = 0.0
    where, quiet = state.progress, not job.world.leads
    state.rate = Sweep(job.recipe.optim)
    bar = progress(None, "lr_find", total=len(RATES), leave=False, disable=quiet)
    with stop_signals() as stopped, loaders_alive(), bar:
        learns = learner(job, state, stopped)
        while True:
            for batch in loader.epoch(where.epoch):
                counted, whole = loader.sizes(where.step)
                outcome = learns.step(batch, counted / whole, loader.steps)
                if outcome.stop:
                    raise stop_error(stopped)
                if not outcome.finite:
                    return _checked(rows)
                average = SMOOTHING * average + (1 - SMOOTHING) * outcome.values["loss"]
                smoothed = average / (1 - SMOOTHING ** (len(rows) + 1))
                rows.append({"lr": RATES[len(rows)], "loss": outcome.values["loss"], "smoothed": smoothed})
                bar.update()
                where.step += 1
                if len(rows) == len(RATES) or smoothed > BREAK * min(row["smoothed"] for row in rows):
                    return _checked(rows)
            where.epoch, where.step = where.epoch + 1, 0


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


EDGE = 220
"""Of a panel in px."""
FIELDS, MAPS = 4, 4
"""Rows of a picture, and maps of a row, at most."""


class Preview:
    """Writes `preview/epochNNN.png`: a row for each field, its picture and the maps of its labelled classes.

    Args:
        held_out: validation images; those with the most different labels are shown, the same ones each time.
        every: epochs between two pictures.
    """

    def __init__(self, data: DataSet, held_out: np.ndarray, device: Device, folder: Path, *, every: int) -> None:
        self.data, self.device, self.folder, self.every = data, device, folder, every
        chosen = choose_fields(data.labels[held_out], held_out, FIELDS)
        self.classes = {i: np.flatnonzero(data.labels[i])[:MAPS].tolist() for i in chosen}

    @torch.no_grad()
    def __call__(self, net: CamNet, row: dict[str, Any]) -> None:
        """Draw the maps after the epoch of `row`, if its turn has come."""
        if row["epoch"] % self.every:
            return
        net.eval()
        panels: list[Panel] = []
        for index, classes in self.classes.items():
            image = np.array(self.data.image(index))
            with self.device.autocast():
                output = net(self.device.put(torch.from_numpy(image)[None]))
            probs = output.logits[0].sigmoid().cpu().numpy()
            panels += self._row(index, image, _spread(output.cam[0]), probs, classes)
        shown = sorted({k for classes in self.classes.values() for k in classes})
        sheet = contact_sheet(panels, shown, self.data.classes.names, columns=self._columns)
        path = self.folder / "preview" / f"epoch{row['epoch']:03}.png"
        write_atomic(path, lambda stream: Image.fromarray(sheet).save(stream, format="png"))

    @property
    def _columns(self) -> int:
        return 1 + max(len(classes) for classes in self.classes.values())

    def _row(
        self, index: int, image: np.ndarray, cam01: np.ndarray, probs: np.ndarray, classes: list[int]
    ) -> list[Panel]:
        names = self.data.classes.names
        green = self.data.roles.index("signal") if "signal" in self.data.roles else 0
        panels = [Panel(fit(composite(image, self.data.tints), EDGE), self.data.ids[index])]
        for k in classes:
            picture = fit(heat(image, cam01[k], green=green), EDGE)
            panels.append(Panel(picture, f"{short_names(names)[k]} {probs[k]:.2f}"))
        empty = np.zeros_like(panels[0].picture)
        return panels + [Panel(empty, "")] * (self._columns - len(panels))


def choose_fields(labels: np.ndarray, indices: np.ndarray, count: int) -> list[int]:
    """Choose images one by one, each adding as many classes not yet shown as possible; ties go to the first."""
    chosen: list[int] = []
    covered = np.zeros(labels.shape[1], bool)
    left = np.ones(len(indices), bool)
    for _ in range(min(count, len(indices))):
        gain = np.where(left, ((labels > 0) & ~covered).sum(axis=1), -1)
        best = int(gain.argmax())
        chosen.append(int(indices[best]))
        covered |= labels[best] > 0
        left[best] = False
    return chosen


def _spread(cam: Tensor) -> np.ndarray:
    """Stretch each of the raw maps (K, h, w) from its lowest to its highest value over [0, 1].

    Rectified maps, which cells are scored by, would be empty until a class passes one half.
    """
    cam = cam.float()
    low, high = cam.amin(dim=(1, 2), keepdim=True), cam.amax(dim=(1, 2), keepdim=True)
    return ((cam - low) / (high - low + 1e-5)).cpu().numpy()


def open_tensorboard(folder: Path) -> Watch:
    """Return what writes every figure of an epoch into the folder `tensorboard` of a run.

    Raises:
        ConfigError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(f"tensorboard is not installed: {install('tensorboard')}, or drop the flag.") from error
    writer = cache(partial(SummaryWriter, str(folder / "tensorboard")))  # of several processes, only one writes

    def write(net: Net, row: dict[str, Any]) -> None:
        for name, value in row.items():
            if name != "epoch":
                writer().add_scalar(name.replace("_", "/", 1), value, row["epoch"])
        writer().flush()

    return write
