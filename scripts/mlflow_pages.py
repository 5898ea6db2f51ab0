"""The pages of MLflow's UI by address, and a server to open them on: what screenshots and tests share."""

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from scripts.services import Service, free_port, listens

ROOT = Path(__file__).resolve().parents[1]
SETTLED = {
    "mlflow.workflowType_v1": '"machine_learning"',
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
    "mlflow.assistant.panelOpen_v1": "false",
}
"""What the browser remembers once a user has chosen "Model training" and closed the assistant."""


def remember(experiment: str = "", columns: Sequence[str] = ()) -> str:
    """Return the script that makes a browser remember these choices.

    Args:
        experiment: its identity.
        columns: chosen for its table of runs, e.g. `` metrics.`test/auroc/macro` ``.
    """
    chosen = dict(SETTLED)
    if columns:
        place = f'MLflowLocalStorage-1.1-ExperimentPage-["{experiment}"]-ReactComponentState'
        chosen[place] = json.dumps({"selectedColumns": list(columns)})
    return "".join(f"localStorage.setItem({json.dumps(key)}, {json.dumps(v)});" for key, v in chosen.items())


def runs(experiment: str, *, where: str = "", by: str = "val/auroc/macro", charts: bool = False) -> str:
    """Return the address of a flat list of runs.

    Args:
        experiment: its identity.
        where: filter, e.g. `tags.cell.initialization = "imagenet"`.
        by: metric to sort by, best first. Sorted by time, which is MLflow's default, it folds all trials into
            the study's run and shows none of them, filtered or not.
        charts: metrics as charts instead of a table.
    """
    settings = {"searchFilter": where, "orderByKey": f"metrics.`{by}`", "orderByAsc": "false"}
    settings |= {"compareRunsMode": "CHART"} if charts else {}
    return f"experiments/{experiment}/runs?" + "&".join(f"{key}={quote(value)}" for key, value in settings.items())


def comparison(experiment: str, run_ids: Sequence[str]) -> str:
    """Return the address of the page that compares runs."""
    return f"compare-runs?runs={quote(json.dumps(list(run_ids)))}&experiments={quote(json.dumps([experiment]))}"


@contextmanager
def served(storage: Path) -> Iterator[str]:
    """Run `python -m mlflow_server start` on a storage folder; gives its address.

    Raises:
        RuntimeError: it did not answer in time.
    """
    port = free_port()
    words = [sys.executable, "-m", "mlflow_server", "start", "--storage", str(storage), "--port", str(port)]
    with tempfile.TemporaryDirectory(prefix="radsweep-") as folder:
        log = Path(folder) / "log"
        server = Service("MLflow server", words, lambda: listens(port), log, options={"cwd": ROOT})
        try:
            server.start()
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()
