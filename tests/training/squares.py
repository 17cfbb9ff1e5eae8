"""A tiny learnable data set, and the words of a short training on it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from wsss.data.build import Spec, create_dataset
from wsss.models.device import Device
from wsss.options.recipe import Recipe
from wsss.runs.record import RunRecord
from wsss.runs.run_folder import RunFolder, load_checkpoint
from wsss.training.state import Job

SIZE = 64


def make_squares(folder: Path, prefix: str = "im", folds: int = 4, count: int = 12) -> Path:
    """Write images in which a bright green square means class 1, and a bright red one class 0."""
    rng = np.random.default_rng(0)
    images, labels = {}, {}
    for n in range(count):
        image = rng.integers(0, 40, (4, SIZE, SIZE)).astype(np.uint8)
        y, x = rng.integers(0, SIZE - 24, 2)
        image[n % 2, y : y + 24, x : x + 24] = 230
        images[f"{prefix}{n:02}"], labels[f"{prefix}{n:02}"] = image, [n % 2]
    return create_dataset(folder, images, labels, Spec(size=SIZE, folds=folds))


def words(data: Path, run: Path, *more: str) -> list[str]:
    plain = ["--data", str(data), "--run", str(run), "--backbone", "test_resnet", "--weights", "none", "--crop", "64"]
    return [*plain, "--batch", "3", "--epochs", "2", "--workers", "0", "--device", "cpu", *more]


def make_job(recipe: Recipe, device: Device, **more: Any) -> Job:
    """Return what a learner works with, without a folder."""
    return Job(recipe, device, RunFolder(Path()), RunRecord(recipe, 0, "", (), ()), [], **more)


def final(run: Path, name: str = "last") -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    tensors, meta = load_checkpoint(run / "fold0" / f"{name}.safetensors")
    for row in meta["progress"]["history"]:  # the clock is no part of the result
        row["seconds"] = row["images_per_s"] = 0
    return tensors, meta


def equal(a: Path, b: Path) -> bool:
    """Whether two runs ended in the same state, bit by bit."""
    (first, meta_a), (second, meta_b) = final(a), final(b)
    return set(first) == set(second) and all(torch.equal(first[n], second[n]) for n in first) and meta_a == meta_b
