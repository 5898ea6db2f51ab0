#!/usr/bin/env bash
# Installs the locked dependencies into .venv; does nothing when they are there already.
# Usage: bash scripts/install.sh [requirements.lock | requirements-dev.lock]
set -euo pipefail
cd "$(dirname "$0")/.."
lock=${1:-requirements.lock}
python=${PYTHON:-python3}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "radsweep needs Python 3.11 or later; set PYTHON to one" >&2
    exit 2
}
marker=.venv/.installed-$lock
if [ -f "$marker" ] && cmp -s "$lock" "$marker"; then
    exit 0
fi
# Without pip: an installation that was cut off while it made the environment.
.venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv .venv
echo "installing $lock into .venv (a few minutes the first time)"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --requirement "$lock"
cp "$lock" "$marker"
