"""How many examples the tests draw that can draw any number: few by default, many for scripts/stress.sh."""

import pytest
from hypothesis import settings


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--examples", type=int, default=50, help="examples of property and damage tests (default 50)")


def pytest_configure(config: pytest.Config) -> None:
    settings.register_profile("asked", max_examples=config.getoption("--examples"), deadline=None)
    settings.load_profile("asked")


@pytest.fixture(scope="session")
def examples(request: pytest.FixtureRequest) -> int:
    """How many examples to try."""
    return int(request.config.getoption("--examples"))
