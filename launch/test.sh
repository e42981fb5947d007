#!/usr/bin/env bash
# Sets up .venv, checks style and runs the whole test suite. Arguments go on to pytest.
set -euo pipefail
. "$(dirname "$0")/environment.sh" dev
export JAX_PLATFORMS=cpu
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$HOME/.cache/automem_jax/xla}"
ruff check .
ruff format --check .
# Files with costly fixtures stay on one worker, the longest first (tests/conftest.py).
exec pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
