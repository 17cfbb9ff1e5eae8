#!/usr/bin/env bash
# Make an environment and pass the checks: ruff, mypy, tests in a process for each core, four at most. Arguments go to pytest.
source "$(dirname "$0")/environment.sh" dev,lite0
ruff check .
ruff format --check .
mypy &  # beside the tests: it takes a minute where it has no cache
types=$! status=0
cores=$(python -c "import os; print(min(4, len(os.sched_getaffinity(0))))")
# the tests of a file share what is made for them, so one process takes them all; tests/conftest.py has the order of files
python -m pytest -m "not slow" -n "$cores" --dist loadfile --no-loadscope-reorder "$@" || status=$?
wait "$types"
exit "$status"
