#!/usr/bin/env bash
# The checks that take minutes rather than seconds, the commands of the docs among them. Arguments go to pytest.
source "$(dirname "$0")/environment.sh" dev,lite0
exec python -m pytest -m slow "$@"
