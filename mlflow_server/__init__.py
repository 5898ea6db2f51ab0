"""The tracking server and all that talks to it: runs, packaged models, promotion, registry."""

import os

# Read by mlflow when it is imported; bars and notes belong to the terminal of whoever asked for them.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
