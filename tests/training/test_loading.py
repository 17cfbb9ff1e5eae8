"""Loader processes: they end with the main process."""

import gc
import subprocess
import sys
from typing import Any

import pytest
import torch

from wsss.training.loading import batch_loader

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
