#!/usr/bin/env bash
# Make an environment and pass the checks: ruff, mypy, tests. Arguments go to pytest.
source "$(dirname "$0")/environment.sh" dev,lite0
ruff check .
ruff format --check .
mypy
exec python -m pytest -m "not slow" "$@"
