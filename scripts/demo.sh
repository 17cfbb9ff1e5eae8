#!/usr/bin/env bash
# Make an environment and run the main job on the embedded demo. Arguments go to python -m wsss.demo.
source "$(dirname "$0")/environment.sh" lite0
exec python -m wsss.demo "$@"
