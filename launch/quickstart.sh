#!/usr/bin/env bash
# Sets up .venv and runs the whole loop on the embedded model. Flags go on to `automem pipeline`,
# e.g. `bash launch/quickstart.sh --workdir=runs/other --config.seeds.heldout=64`.
set -euo pipefail
. "$(dirname "$0")/environment.sh" api
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
exec automem pipeline --config=configs/quickstart.py "$@"
