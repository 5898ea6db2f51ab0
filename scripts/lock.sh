#!/usr/bin/env bash
# Writes requirements.lock and requirements-dev.lock anew from pyproject.toml.
# torch's own CUDA libraries are left out: each torch build pins the ones it needs, and a CPU build needs none.
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

lock() { # lock FILE EXTRAS
    "${PYTHON:-python3}" -m venv "$scratch/$1"
    "$scratch/$1/bin/python" -m pip install --quiet --disable-pip-version-check ".$2"
    {
        echo "# Written by scripts/lock.sh; install with: pip install -r $1"
        "$scratch/$1/bin/python" -m pip freeze --exclude radsweep |
            grep -vE '^(nvidia|cuda|triton)' | sed -E 's/^(torch(vision)?==[0-9.]+)\+.*/\1/; s/^(torch(vision)?) @ .*torch-([0-9.]+).*/\1==\3/'
    } >"$1"
}
lock requirements.lock ""
lock requirements-dev.lock "[dev]"
