#!/usr/bin/env bash
# Everything that only a GPU can show, in one run of at most nine minutes: see scripts/gpu_check.py.
# usage: scripts/gpu_check.sh [--device cuda] [--out DIR] [--minutes M] [--quick]   on the machine with the GPU
#        scripts/gpu_check.sh wheels [pip options, such as: --python-version 3.12]    before, where pip has a network
#
# The machine with the GPU needs torch, timm, numpy, SciPy, scikit-image, scikit-learn, pandas, pyarrow and OpenCV. What
# else wsss needs is collected by the second form in gpu_check_wheels/, at most 60 MiB, and taken along.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-python3}
WHEELS=gpu_check_wheels
MOST_MIB=60
LACKING=(jsonargparse[signatures] typeshed-client albumentations albucore simsimd stringzilla pydantic pydantic-core
    annotated-types typing-inspection imagecodecs tifffile iterative-stratification jinja2 markupsafe psutil
    pycocotools segmentation_models_pytorch docstring-parser matplotlib contourpy cycler fonttools kiwisolver pyparsing
    pytest pluggy iniconfig pygments)
if [ "${1:-}" = wheels ]; then
    shift
    "$PYTHON" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$WHEELS" "$@" \
        "${LACKING[@]}"
    size=$(du -sm "$WHEELS" | cut -f 1)
    echo "$WHEELS: $(ls "$WHEELS" | wc -l) wheels, $size MiB"
    [ "$size" -le "$MOST_MIB" ] || { echo "error: more than $MOST_MIB MiB" >&2; exit 2; }
    exit 0
fi
export PYTHONPATH="$PWD:$PWD/gpu_check_site${PYTHONPATH:+:$PYTHONPATH}"
if [ -d "$WHEELS" ] && ! "$PYTHON" -c 'import albumentations, jsonargparse, segmentation_models_pytorch' 2>/dev/null; then
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --find-links "$WHEELS" \
        --target gpu_check_site "${LACKING[@]}"
fi
exec "$PYTHON" scripts/gpu_check.py "$@"
