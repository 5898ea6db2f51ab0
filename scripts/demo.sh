#!/usr/bin/env bash
# Installs into .venv, runs the demo study, promotes its winner, and says what to look at next.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/install.sh requirements.lock
storage=${RADSWEEP_STORAGE:-storage}
study=search/studies/demo.yaml

.venv/bin/python -m search plan "$study"
.venv/bin/python -m search run "$study" --storage "$storage"
.venv/bin/python -m search promote "$study" --storage "$storage" || [ $? -eq 1 ] # 1: not good enough

cat <<EOF

The report, with figures:      $storage/demo/report/report.html
The MLflow UI:                 .venv/bin/python -m mlflow_server start --storage $storage
Run it again (nothing to do):  .venv/bin/python -m search run $study --storage $storage
EOF
