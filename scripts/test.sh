#!/usr/bin/env bash
# Make an environment and pass the checks: ruff, mypy, tests in a process for each core, four at most. Arguments go to pytest.
source "$(dirname "$0")/environment.sh" dev,lite0
ruff check .
ruff format --check .
mypy
exec python -m pytest -m "not slow" -n "$(python -c "import os; print(min(4, len(os.sched_getaffinity(0))))")" "$@"
