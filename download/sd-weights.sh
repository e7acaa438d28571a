#!/usr/bin/env bash
# Stable Diffusion v1's weights. See --help.
set -euo pipefail
command -v python >/dev/null || { echo "error: there is no python here; activate the environment: conda activate ldm" >&2; exit 2; }
exec python "$(dirname "${BASH_SOURCE[0]}")/fetch.py" sd-weights "$@"
