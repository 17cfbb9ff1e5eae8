#!/usr/bin/env bash
# The checks that take minutes rather than seconds, the commands of the docs among them. Arguments go to pytest.
source "$(dirname "$0")/environment.sh" dev,lite0
extra="$VENV/h5ad"  # anndata needs another pandas than the rest
[ -e "$extra/anndata" ] || python -m pip install --quiet --disable-pip-version-check --target "$extra" 'anndata>=0.11'
PYTHONPATH="$extra" python -m pytest tests/stages/test_export_command.py -k h5ad
exec python -m pytest -m slow "$@"
