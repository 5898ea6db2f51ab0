#!/usr/bin/env bash
# Installs into .venv, then lint, types, import contracts and tests. Words after it go to pytest:
#   bash scripts/test.sh -m 'not slow'
#   bash scripts/test.sh --cov=search --cov-report=term:skip-covered     # counting lines takes a fifth more
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/install.sh requirements-dev.lock
export PATH="$PWD/.venv/bin:$PATH"
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1

ruff check .
ruff format --check .
mypy
lint-imports
python -m pytest --numprocesses=3 --dist=loadfile --no-loadscope-reorder "$@"
