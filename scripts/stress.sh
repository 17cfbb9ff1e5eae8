#!/usr/bin/env bash
# Kill, starve and fill up every stage for hours: the long checks of docs/reliability.md, by parts.
# usage: scripts/stress.sh [PART ...]     parts: kills long changes outputs, and those of scripts/stress/checks.py; all if none is named
# Figures go to runs/stress/figures.csv (STRESS_OUT: another folder); a part done again replaces its own.
source "$(dirname "$0")/environment.sh" dev,lite0
failed=0
parts=("$@")
[ "$#" -gt 0 ] || parts=(kills long changes outputs rest)
for part in "${parts[@]}"; do
    case $part in
        kills)
            python scripts/stress/kills.py --kills 50 --workers 0 || failed=1
            python scripts/stress/kills.py --kills 10 --workers 2 --stages prepare segment train || failed=1
            ;;
        changes) python scripts/stress/out_of_date.py || failed=1 ;;
        outputs) python scripts/stress/outputs.py || failed=1 ;;
        long) python scripts/stress/long_run.py || failed=1 ;;
        rest) python scripts/stress/checks.py || failed=1 ;;
        *) python scripts/stress/checks.py "$part" || failed=1 ;;
    esac
done
python scripts/stress/record.py || failed=1
exit $failed
