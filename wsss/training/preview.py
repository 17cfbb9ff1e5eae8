"""The class maps of a few validation images, every few epochs: so that a person sees them grow."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wsss.core.checks import ConfigError, install
from wsss.core.files import write_atomic
from wsss.data.catalog import DataSet
from wsss.models.cam_net import CamNet
from wsss.models.device import Device
from wsss.reports.figures import short_name
from wsss.reports.overlay import Panel, composite, contact_sheet, fit, heat
from wsss.training.fit import Watch
from wsss.training.state import Net

EDGE = 220
"""Of a panel in px."""


class Preview:
    """Writes `preview/epochNNN.png`: a row for each field, its picture and the maps of its labelled classes.

    Args:
        data: the data set.
        held_out: validation images; those with the most different labels are shown, the same ones each time.
        device: where to compute.
        folder: of the run.
        every: epochs between two pictures.
        fields: how many images.
        maps: most classes shown of each.
    """

    def __init__(
        self,
        data: DataSet,
        held_out: np.ndarray,
        device: Device,
        folder: Path,
        *,
        every: int,
        fields: int = 4,
        maps: int = 4,
    ) -> None:
        self.data, self.device, self.folder, self.every = data, device, folder, every
        chosen = choose_fields(data.labels[held_out], held_out, fields)
        self.classes = {i: np.flatnonzero(data.labels[i])[:maps].tolist() for i in chosen}

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
        _write_png(self.folder / "preview" / f"epoch{row['epoch']:03}.png", sheet)

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
            panels.append(Panel(picture, f"{short_name(names[k])} {probs[k]:.2f}"))
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


def _write_png(path: Path, picture: np.ndarray) -> None:
    write_atomic(path, lambda stream: Image.fromarray(picture).save(stream, format="png"))


def open_tensorboard(folder: Path) -> Watch:
    """Return what writes every figure of an epoch into the folder `tensorboard` of a run.

    Raises:
        ConfigError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(f"tensorboard is not installed: {install('tensorboard')}, or drop the flag.") from error
    writer = SummaryWriter(str(folder / "tensorboard"))

    def write(net: Net, row: dict[str, Any]) -> None:
        for name, value in row.items():
            if name != "epoch":
                writer.add_scalar(name.replace("_", "/", 1), value, row["epoch"])
        writer.flush()

    return write
