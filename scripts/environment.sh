# Make (once) and enter the project's virtual environment; sourced by the other scripts.
# usage: source scripts/environment.sh EXTRAS
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}
stamp="$VENV/.installed-$(cat pyproject.toml <(echo "$1") | sha256sum | cut -c1-16)"
if [ ! -e "$stamp" ]; then
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "error: $PYTHON is $("$PYTHON" --version 2>&1), expected Python 3.11 or newer: set PYTHON=python3.11 or newer." >&2
        exit 2
    }
    echo "installing into $VENV (a few minutes and about 6 GB the first time) ..."
    "$PYTHON" -m venv "$VENV"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".[$1]"
    touch "$stamp"
fi
# shellcheck source=/dev/null
source "$VENV/bin/activate"
