#!/usr/bin/env bash
# The two networks that a comparison of checkpoints is scored with, DINO and CLIP. See --help.
set -euo pipefail
command -v python >/dev/null || { echo "error: there is no python here; activate the environment: conda activate ldm" >&2; exit 2; }
script=$(python -c 'import os, sys; print(os.path.realpath(sys.argv[1]))' "${BASH_SOURCE[0]}")  # it may be called by a link
exec python "$(dirname "$script")/fetch.py" eval-weights "$@"
