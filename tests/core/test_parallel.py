"""Worker processes that die: the end comes at once and in one line, whoever they worked for."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from wsss.core.checks import DataError, Terminated
from wsss.core.runtime import parallel


def die(number: int) -> int:
    """Be killed, as by a system that is out of memory."""
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def fail(number: int) -> int:
    raise ValueError(f"bad {number}")


def test_a_killed_worker_ends_all_in_one_line() -> None:
    began = time.monotonic()
    with pytest.raises(DataError, match=r"a worker process was killed .* start the same command again") as caught:
        list(parallel(die, range(9), 1))
    assert time.monotonic() - began < 60
    assert "\n" not in str(caught.value)


def test_an_error_of_one_item_is_handed_on_and_the_others_go_on() -> None:
    results = dict(parallel(fail, range(3), 0))
    assert sorted(results) == [0, 1, 2]
    assert str(results[1]) == "bad 1"


class Deadly(Dataset[Any]):
    """Images whose loader process ends by a signal."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __getitem__(self, place: tuple[int, ...]) -> Any:
        raise NotImplementedError

    def __getitems__(self, places: list[Any]) -> list[Any]:
        os.kill(os.getpid(), self.number)
        return []


def test_a_scheduler_that_ends_every_process_of_a_job_interrupts_the_training() -> None:
    from wsss.training.loading import loaders_alive

    loader = torch.utils.data.DataLoader(Deadly(signal.SIGTERM), batch_sampler=[[0], [1]], num_workers=1)
    with pytest.raises(Terminated), loaders_alive():
        list(loader)


def test_a_killed_loader_of_images_ends_the_training_in_one_line() -> None:
    from wsss.training.loading import loaders_alive

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
