"""The most memory and time that a block of a test takes."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

STATUS = Path("/proc/self/status")
REFERENCE_S = 0.09
"""CPU seconds of `_reference` on a quiet core of an AMD EPYC."""


def soon(began: float, seconds: float = 1.0) -> bool:
    """Whether less CPU time has passed since `began`; a machine that is slow just now has that much more.

    How slow it is shows the slowest of three turns of a known piece of work, taken only where the time is up.
    """
    took = time.process_time() - began
    return took < seconds or took < seconds * max(map(_reference, range(3))) / REFERENCE_S


def _reference(_: int) -> float:
    """Return the CPU seconds of a piece of work in Python and in fresh memory."""
    began = time.process_time()
    sorted(str(k * k) for k in range(100_000))
    np.full(1 << 23, 1.0).cumsum()
    return time.process_time() - began


@contextmanager
def at_most(megabytes: float) -> Iterator[None]:
    """Fail if the block makes the resident memory of this process grow by more; checks nothing but on Linux."""
    if not STATUS.exists():
        yield
        return
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest so far
    before = _kilobytes("VmRSS")
    yield
    grown = (_kilobytes("VmHWM") - before) / 1024
    assert grown <= megabytes, f"{grown:.0f} MB more, expected {megabytes} at most"


def _kilobytes(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", STATUS.read_text())
    assert found is not None
    return int(found[1])
