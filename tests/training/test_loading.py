"""Loader processes: they end with the main process."""

import gc
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wsss.data.build import Spec, create_dataset
from wsss.data.catalog import DataSet
from wsss.options.recipe import ClassifyRecipe, MapRecipe
from wsss.training.loading import batch_loader
from wsss.training.tasks import Split
from wsss.training.tasks.classify import train_loader
from wsss.training.tasks.maps import MapTask

CODE = """
import torch
from wsss.training.loading import batch_loader

class Samples(torch.utils.data.Dataset):
    def __getitem__(self, k):
        return torch.zeros(1), torch.zeros(1), k

loader = batch_loader(Samples(), [[0, 1], [2, 3]], workers=1, pinned=False)
left = iter(loader)  # as in a traceback or a reference cycle that nobody has collected yet
left.itself = left
del loader
print(len(list(left)))
"""


@pytest.mark.slow
def test_a_loader_that_is_left_does_not_hold_up_the_end() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "2\n", "")


class Samples(torch.utils.data.Dataset[Any]):
    def __getitem__(self, k: int) -> Any:
        gc.collect()  # frees the copy of the first loader that this process was born with
        return torch.zeros(1), torch.zeros(1), k


def begin() -> int:
    epoch: Any = iter(batch_loader(Samples(), [[0, 1], [2, 3]], workers=1, pinned=False))
    epoch.itself = epoch
    return len(list(epoch))


def test_loaders_of_a_second_fold_leave_those_of_the_first_alone(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)  # that of pytest would say nothing there
    gc.disable()
    try:
        assert (begin(), begin()) == (2, 2)
    finally:
        gc.enable()
    assert capfd.readouterr().err == ""


def test_classifiers_and_u_nets_of_class_maps_dim_the_same_protein(tmp_path: Path) -> None:
    image = np.full((3, 32, 32), 200, np.uint8)
    spec = Spec(size=32, folds=2, channels=("DAPI", "GFP", "ER"), roles=("nucleus", "signal", "cell"))
    data = DataSet.open(create_dataset(tmp_path / "set", {"a": image, "b": image}, {"a": [0], "b": [1]}, spec))
    steps = tmp_path / "steps.yaml"
    crop = "{op: RandomCrop, height: crop, width: crop}"
    steps.write_text(f"- {crop}\n- {{op: ProteinGain, gain_range: [0.5, 0.5]}}\n")
    task = object.__new__(MapTask)
    task.recipe, task.data, task.channels = MapRecipe(crop=32, augment=str(steps)), data, 3
    task.loading, task._masks = lambda workers: {}, lambda fold: None  # type: ignore[method-assign, assignment, return-value]
    of_maps = task.batches(Split(None, np.arange(2), np.arange(0), frozenset()), 0)
    of_classes = train_loader(data, np.arange(2), ClassifyRecipe(crop=64, augment=str(steps)))
    for batches in (of_maps, of_classes):
        augment: Any = batches.loader.dataset.augment  # type: ignore[attr-defined]
        out = augment(np.full((3, augment.crop, augment.crop), 200, np.uint8), 0)
        assert out.max(axis=(1, 2)).tolist() == [200, 100, 200]
