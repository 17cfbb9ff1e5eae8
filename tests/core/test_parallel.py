"""Worker processes that die: the end comes at once and in one line, whoever they worked for."""

import os
import signal
import time

import pytest

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
