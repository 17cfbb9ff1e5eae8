"""Loader processes: they end with the main process."""

import subprocess
import sys

import pytest

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


SECOND = """
import gc
import torch
from wsss.training.loading import batch_loader

class Samples(torch.utils.data.Dataset):
    def __getitem__(self, k):
        gc.collect()  # frees the copy of the first loader that this process was born with
        return torch.zeros(1), torch.zeros(1), k

def begin():
    epoch = iter(batch_loader(Samples(), [[0, 1], [2, 3]], workers=1, pinned=False))
    epoch.itself = epoch
    return len(list(epoch))

gc.disable()
print(begin(), begin())
"""


def test_loaders_of_a_second_fold_leave_those_of_the_first_alone() -> None:
    done = subprocess.run([sys.executable, "-c", SECOND], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "2 2\n", "")
