"""One thread a test process; how many examples the tests draw that can draw any number (many for scripts/stress.sh)."""

import gc
import os
import sys

# Before PyTorch is imported: threads that share a tiny network wait for each other most of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import settings


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--examples", type=int, default=25, help="examples of property and damage tests (default 25)")


def pytest_configure(config: pytest.Config) -> None:
    settings.register_profile("asked", max_examples=config.getoption("--examples"), deadline=None)
    settings.load_profile("asked")


LONG = ("test_offline.py", "test_walk.py", "test_in_openvino.py", "test_api_page.py", "test_experiments_page.py")
"""Files of few tests that take long: begun first, or one process would be at them when the others have nothing left."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    counts = Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path.name not in LONG, -counts[item.path]))  # tests of one file stay together


DRAWN = {
    "reports",
    "test_compare_command.py",
    "test_copied_labels_and_image_scores_stand_next_to_the_cells",
    "test_scores_go_through_the_curves_and_keep_their_order",
    "test_the_page_is_no_wider_than_the_screen",
    "test_the_page_tells_run_figures_fields_cells_and_failures",
    "test_the_page_tells_what_was_found_how_good_it_is_and_what_is_wrong",
    "test_the_page_works_in_a_browser_and_asks_for_nothing",
}
"""Tests, by folder, file or name, that draw what they save or show."""
MEASURED = {"test_foresight.py", "test_memory.py"}
"""Tests, by file, of the memory that a training takes."""
NOTHING = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Leave figures empty, for drawing takes longer than tiny trainings do, and trust the disk, for none loses power.

    Figures are drawn by the tests of tests/reports, and by a test of each command that shows some. Memory is measured
    before the first step of a training by MEASURED alone.
    """
    with pytest.MonkeyPatch.context() as patch:
        # what no test has imported is not imported for this, least of all by the process that hands out the tests
        figures, fit = (sys.modules.get(f"wsss.{name}") for name in ("reports.figures", "training.fit"))
        if figures and not DRAWN & {*item.path.parts, getattr(item, "originalname", item.name)}:
            patch.setattr(figures, "_save", lambda _, path: figures.Figure((0.1, 0.1)).savefig(path))
            patch.setattr(figures, "_svg", lambda _: figures.data_uri(NOTHING, "image/svg+xml"))
        patch.setattr(os, "fsync", lambda _: None)
        if fit and item.path.name not in MEASURED:
            patch.setattr(fit, "foresee", lambda learner, batch: None)
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
