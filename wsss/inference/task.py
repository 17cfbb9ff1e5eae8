"""What is predicted and how, one image as it is read, and one image's results."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wsss.core.device import Device
from wsss.data.catalog import DataSet
from wsss.inference.calibration import Calibration
from wsss.inference.following import Following
from wsss.options.scoring import CropConfig, ScoreConfig, TtaConfig


@dataclass(frozen=True)
class Task:
    """What to do with every image."""

    data: DataSet
    score: ScoreConfig
    crops: CropConfig
    device: Device
    batch: int = 8
    """Images the network sees at once. Batches are cut from the plan, never from what is left of it, so that a run
    that was interrupted gives the very numbers of one that was not."""
    tta: TtaConfig = field(default_factory=TtaConfig)
    """Views that the network's answers are averaged over."""
    calibration: Calibration | None = None
    """Curves that the final scores go through; None to leave them as they are."""
    following: Following | None = None
    """The segmentation that runs beside and is waited for, image by image; None where the cells are there."""


@dataclass(frozen=True)
class Sample:
    """One image, read."""

    index: int
    image: np.ndarray
    """(C, S, S) uint8."""
    label_map: np.ndarray | None
    """As kept on disk, native or stored size; None if there is none."""
    nuclei: np.ndarray | None
    """(S, S) nuclei at stored size, where the cell masks come with them."""
    problem: str = ""
    """Why there is no label map."""


@dataclass(frozen=True)
class Scored:
    """One image's results."""

    index: int
    record: dict[str, Any]
    """n_cells, status, fold and probs: the image's row."""
    payload: bytes
    """Its cells: the blended table and, as columns 'stage:class', the parts; Arrow IPC."""
