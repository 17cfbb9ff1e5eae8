"""The most memory and time that a block of a test takes."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STATUS = Path("/proc/self/status")
SECONDS = 3.0
"""CPU time within which a file is refused. A quiet machine takes less than one, which is not for tests to measure: what
these files would cost unrefused is minutes."""


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
