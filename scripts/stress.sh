#!/usr/bin/env bash
# Kill, starve and fill up every stage for hours: the long checks of docs/reliability.md. Argument: kills of each stage.
# usage: scripts/stress.sh [50]
kills=${1:-50}
source "$(dirname "$0")/environment.sh" dev,lite0
failed=0
python scripts/stress/kills.py --kills "$kills" --workers 0 || failed=1
python scripts/stress/kills.py --kills "$((kills / 5 + 1))" --workers 2 --stages prepare segment train || failed=1
python -m pytest -m slow tests/commands/test_signals.py tests/commands/test_full_disk.py tests/engine || failed=1
exit $failed
