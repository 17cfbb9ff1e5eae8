#!/usr/bin/env bash
# The checks that take minutes rather than seconds, the commands of the docs among them. Arguments go to pytest.
source "$(dirname "$0")/environment.sh" dev,lite0
# Not among the extras: where no Ray can be had, such as for a new Python, the other tests must run all the same.
python -c 'import ray' 2>/dev/null || python -m pip install --quiet --disable-pip-version-check --editable ".[ray]" ||
    echo "note: Ray can't be installed here: the tests on a cluster are left out" >&2
extra="$VENV/h5ad"  # anndata needs another pandas than the rest
[ -e "$extra/anndata" ] || python -m pip install --quiet --disable-pip-version-check --target "$extra" 'anndata>=0.11'
PYTHONPATH="$extra" python -m pytest tests/stages/test_{channels,export_command,prepare_forms,table_forms}.py tests/data \
    -m "not slow"
exec python -m pytest -m slow "$@"
