"""What the benchmarks of delivery log, and what MLflow has of it."""

from mlflow.tracking import MlflowClient

METRICS = 22
"""Of an epoch."""

Rows = set[tuple[str, int, float]]
"""Name, step and value."""


def values(epoch: int) -> dict[str, float]:
    """Return the metrics of an epoch."""
    return {f"metric_{index}": epoch + index / 100 for index in range(METRICS)}


def stored(uri: str, run_id: str) -> Rows:
    """Return every row that a run has of them."""
    client = MlflowClient(uri)
    return {(name, m.step, m.value) for name in values(0) for m in client.get_metric_history(run_id, name)}
