"""Whether a CPU should compute a prediction in bfloat16: tried on its first images, both ways."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from wsss.inference.checkpoints import CamCheckpoint
from wsss.inference.pipeline import read_sample, score_now
from wsss.inference.sources import Sample, Task
from wsss.models.device import Device

TRIED = 4
"""Images that are scored both ways; the first is for warming up, and does not count for the speed."""
WORTH = 64
"""Images for which the trial is worth its time."""
FASTER = 1.3
"""How many times as fast bfloat16 must be."""
APART = 0.02
"""The most that a score of a cell, or a probability of an image, may differ."""


@dataclass(frozen=True)
class Trial:
    """What came of scoring images both ways."""

    images: int
    faster: float
    """How many times as fast bfloat16 was, by CPU time; the median of the images."""
    apart: float
    """The largest difference of a score."""

    @property
    def half(self) -> bool:
        """Whether bfloat16 is to be taken."""
        return self.faster >= FASTER and self.apart <= APART

    def __str__(self) -> str:
        return (
            f"precision: {'bf16' if self.half else 'fp32'}; on the first {self.images} images bf16 was "
            f"{self.faster:.2f} times as fast ({FASTER} is wanted), and scores differed by up to {self.apart:.4f} "
            f"({APART} is allowed)"
        )


def try_half(task: Task, checkpoints: list[CamCheckpoint], indices: Sequence[int], *, parts: bool = False) -> Trial:
    """Score the first TRIED images of `indices`, at least one, in float32 and bfloat16 by turns.

    The device of the task is the CPU in float32. With `parts`, the parts of the scores must not differ either.
    """
    ways = [task, replace(task, device=Device(task.device.place, torch.bfloat16))]
    ratios, apart = [], []
    for index in indices[:TRIED]:
        sample = read_sample(task, index)
        (plain, plain_s), (half, half_s) = (_score(way, checkpoints, sample, parts) for way in ways)
        ratios.append(plain_s / half_s)
        apart.append(np.abs(plain - half).max())
    return Trial(len(ratios), float(np.median(ratios[1:] or ratios)), float(np.max(apart)))


def _score(task: Task, checkpoints: list[CamCheckpoint], sample: Sample, parts: bool) -> tuple[np.ndarray, float]:
    """Return all scores of an image, and the CPU seconds that they took."""
    began = time.process_time()
    (scored,) = score_now(task, checkpoints, [sample])
    seconds = time.process_time() - began
    table = scored.cells
    columns = [name for name in map(str, table) if name.rpartition(":")[2].isdecimal() and (parts or ":" not in name)]
    return np.append(table[columns].to_numpy(), scored.record["probs"]), seconds
