"""Worker processes that die: the end comes at once and in one line, whoever they worked for."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from wsss.core.checks import DataError
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
    """Images whose loader process is killed at the third."""

    def __getitem__(self, place: tuple[int, ...]) -> Any:
        raise NotImplementedError

    def __getitems__(self, places: list[Any]) -> list[Any]:
        die(2)
        return []


def test_a_killed_loader_of_images_ends_the_training_in_one_line(tmp_path: Path) -> None:
    from wsss.engine.loading import loaders_alive

    loader = torch.utils.data.DataLoader(Deadly(), batch_sampler=[[0], [1]], num_workers=1)
    began = time.monotonic()
    with pytest.raises(DataError, match="a process that loads images was killed") as caught, loaders_alive():
        list(loader)
    assert time.monotonic() - began < 60
    assert "\n" not in str(caught.value)
