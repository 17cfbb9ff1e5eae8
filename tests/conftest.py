"""One thread a test process; how many examples the tests draw that can draw any number (many for scripts/stress.sh)."""

import gc
import os

# Before PyTorch is imported: threads that share a tiny network wait for each other most of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator

import pytest
from hypothesis import settings
from matplotlib.figure import Figure

from wsss.reports import figures


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--examples", type=int, default=50, help="examples of property and damage tests (default 50)")


def pytest_configure(config: pytest.Config) -> None:
    settings.register_profile("asked", max_examples=config.getoption("--examples"), deadline=None)
    settings.load_profile("asked")


DRAWN = {"reports", "test_compare_command.py", "test_calibrate_command.py", "test_evaluate_command.py"}
"""Tests that draw what they save."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Save the curves of a training as an empty picture, for drawing takes longer than tiny trainings do.

    They are drawn by the tests of tests/reports, and other pictures by those of their commands.
    """
    with pytest.MonkeyPatch.context() as patch:
        if not DRAWN & {*item.path.parts}:
            patch.setattr(figures, "_save", lambda _, path: Figure((0.1, 0.1)).savefig(path))
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """Keep what other tests left behind out of the garbage collection of this one, and out of its time."""
    gc.freeze()
    try:
        return (yield)
    finally:
        gc.unfreeze()


@pytest.fixture(scope="session")
def examples(request: pytest.FixtureRequest) -> int:
    """How many examples to try."""
    return int(request.config.getoption("--examples"))
