"""The tracking server and all that talks to it: runs, packaged models, promotion, registry."""

import os

# Read by mlflow when it is imported; bars belong to the terminal of whoever asked for one.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
