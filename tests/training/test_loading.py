"""Loader processes: they end with the main process, and it with them."""

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wsss.core.checks import DataError, Terminated
from wsss.data.build import Spec, create_dataset
from wsss.data.catalog import DataSet
from wsss.options.recipe import ClassifyRecipe, MapRecipe
from wsss.training.loading import batch_loader, loaders_alive
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


class Deadly(torch.utils.data.Dataset[Any]):
    """Images whose loader process ends by a signal."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __getitem__(self, place: tuple[int, ...]) -> Any:
        raise NotImplementedError

    def __getitems__(self, places: list[Any]) -> list[Any]:
        os.kill(os.getpid(), self.number)
        return []


def test_a_scheduler_that_ends_every_process_of_a_job_interrupts_the_training() -> None:
    loader = torch.utils.data.DataLoader(Deadly(signal.SIGTERM), batch_sampler=[[0], [1]], num_workers=1)
    with pytest.raises(Terminated), loaders_alive():
        list(loader)


def test_a_killed_loader_of_images_ends_the_training_in_one_line() -> None:
    loader = torch.utils.data.DataLoader(Deadly(signal.SIGKILL), batch_sampler=[[0], [1]], num_workers=1)
    began = time.monotonic()
    with pytest.raises(DataError, match="a process that loads images was killed") as caught, loaders_alive():
        list(loader)
    assert time.monotonic() - began < 60
    assert "\n" not in str(caught.value)


KILLED_WITH_LOADERS = """
import multiprocessing, os, time
import numpy as np, torch
from wsss.training.loading import EpochBatches
from wsss.training.loading import batch_loader

class Numbers:
    def __len__(self):
        return 2
    def __getitem__(self, wanted):
        return torch.tensor([os.getpid()]), torch.zeros(1), 0
    def __getitems__(self, wanted):
        return [self[n] for n in wanted]

def main():
    batches = EpochBatches(1, seed=0)
    batches.set(np.arange(2), epoch=0)
    loader = iter(batch_loader(Numbers(), batches, 1, False))
    print(int(next(loader).images[0, 0]), flush=True)
    time.sleep(60)

if __name__ == "__main__":
    multiprocessing.set_start_method("forkserver", force=True)  # as newer Pythons do
    main()
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="looks at /proc")
def test_loaders_end_with_a_killed_training_whatever_python_starts_processes_by(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(KILLED_WITH_LOADERS)  # a file, for servers import it anew
    process = subprocess.Popen([sys.executable, str(tmp_path / "main.py")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    loader = int(process.stdout.readline())
    assert loader != process.pid
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{loader}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{loader}").exists()


MEMORY_OF_A_LOADER = """
import numpy as np, torch
from wsss.models.device import keep_freed_memory
from wsss.training.loading import EpochBatches
from wsss.training.loading import batch_loader

def own():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024

class Memory:
    def __len__(self):
        return 1
    def __getitem__(self, wanted):
        return torch.tensor([own()]), torch.zeros(1), 0

keep_freed_memory()
batches = EpochBatches(1, seed=0)
batches.set(np.zeros(1, np.int64), epoch=0)
before = own()
work = [np.ones(2**20, np.uint8) for _ in range(400)]
del work
kept = own()
loader = batch_loader(Memory(), batches, 1, False)
print(before, kept, next(iter(loader)).images.item())
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is told by Linux only")
def test_a_loader_process_does_not_hold_the_memory_that_this_one_has_freed_and_kept() -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY_OF_A_LOADER], capture_output=True, text=True, check=True)
    before, kept, loader = map(float, done.stdout.split())
    assert kept > before + 350, "freed memory is kept"
    assert loader < before + 100
