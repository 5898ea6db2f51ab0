"""What a study of the end-to-end tests has come to: in its report and in MLflow."""

import json
from collections import Counter

from mlflow.tracking import MlflowClient


def client(command):
    return MlflowClient(f"sqlite:///{command.storage}/mlflow.db")


def runs(command, level="trial", experiment="tiny"):
    found = client(command)
    experiment = found.get_experiment_by_name(experiment)
    return found.search_runs([experiment.experiment_id], f"tags.`radsweep.level` = '{level}'", max_results=1000)


def rows_per_metric(command):
    found = client(command)
    counts = Counter()
    for run in runs(command):
        for key in run.data.metrics:
            steps = [metric.step for metric in found.get_metric_history(run.info.run_id, key)]
            counts[max(Counter(steps).values())] += 1
    return counts


def report(command):
    found = json.loads(command("report", "--json"))
    # What a machine measures of itself differs from run to run; nothing else may.
    for cell in found["cells"]:
        del cell["record"]
    del found["provenance"]
    return found
