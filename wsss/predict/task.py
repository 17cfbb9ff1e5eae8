"""What is predicted and how, one image as it is read, and one image's results."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from wsss.core.device import Device
from wsss.core.score_config import CropConfig, ScoreConfig
from wsss.data.catalog import DataSet


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
