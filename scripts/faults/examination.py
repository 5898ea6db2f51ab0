"""What must be true of a study that was killed many times: it looks as if nothing had happened."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search import ledger
from search.ledger import Event

ROOT = Path(__file__).resolve().parents[2]
STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAILED": "FAILED"}


@dataclass(frozen=True, slots=True)
class Study:
    """One study in one storage folder.

    Attributes:
        file: its YAML.
        storage: folder of the storage.
        name: of the study, and of its MLflow experiment.
        environment: in which it runs, with the tracker's credentials.
    """

    file: Path
    storage: Path
    name: str
    environment: Mapping[str, str]

    def command(self, *words: str) -> list[str]:
        """Return a command of `python -m search` on it."""
        return [sys.executable, "-m", "search", words[0], str(self.file), "--storage", str(self.storage), *words[1:]]

    def events(self) -> list[Event]:
        """Return what its ledger holds."""
        return list(ledger.read(self.storage / "faults" / "ledger.jsonl").events)

    @property
    def trials(self) -> Path:
        """Folder of its trials' checkpoints."""
        return self.storage / "faults" / "trials"

    def report(self) -> str:
        """Return its final table without what a machine measures of itself, as text."""
        words = self.command("report", "--json")
        done = subprocess.run(words, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)
        for cell in found["cells"]:
            cell.pop("record", None)
        return json.dumps({key: value for key, value in found.items() if key in STABLE}, indent=1, sort_keys=True)


STABLE = ("study", "counts", "cells", "data", "baselines", "differences")
"""Parts of the report that say what was found, not on what machine or at what time."""


@dataclass(slots=True)
class Findings:
    """What an examination found; all of `wrong` is a fault of radsweep."""

    checks: list[str]
    wrong: list[str]

    def expect(self, holds: bool, told: str) -> None:
        """Note one check."""
        (self.checks if holds else self.wrong).append(told)


def examine(
    study: Study,
    undisturbed: str,
    acknowledged: Mapping[tuple[str, int], Event],
    saved: Mapping[tuple[str, str], Collection[int]],
) -> Findings:
    """Hold a finished study against an undisturbed one and against itself.

    Args:
        study: that was disturbed.
        undisturbed: report of the other.
        acknowledged: epochs that its ledger held before some kill, by (trial, epoch).
        saved: when the checkpoint after an epoch was written, by (trial, epoch), as often as that was seen.
    """
    found = Findings([], [])
    events = study.events()
    epochs = [(event["trial"], event["epoch"]) for event in events if event["kind"] == "epoch"]
    told = {(event["trial"], event["epoch"]): event for event in events if event["kind"] == "epoch"}
    lost = [key for key, event in acknowledged.items() if told.get(key) != event]
    found.expect(not lost, f"{len(acknowledged) - len(lost)} of {len(acknowledged)} acknowledged epochs are there")
    found.expect(len(epochs) == len(set(epochs)), f"{len(epochs)} epochs, none told twice")
    again = Counter(trial for (trial, _), times in saved.items() for _ in range(len(times) - 1))
    starts = Counter(event["trial"] for event in events if event["kind"] == "started")
    too_many = {trial for trial, count in again.items() if count > starts[trial] - 1}
    found.expect(
        not too_many, f"{again.total()} of {len(saved)} epochs trained twice, at most one each time a trial began"
    )
    ends = {event["trial"]: event["state"] for event in events if event["kind"] == "ended"}
    failed = {event["reason"] for event in events if event["kind"] == "ended" and event["state"] == "FAILED"}
    found.expect(not failed, f"failed trials: {'; '.join(sorted(failed)) or 'none'}")
    _examine_mlflow(study, ends, found)
    _examine_optuna(study, ends, found)
    found.expect(study.report() == undisturbed, "the final table equals that of the undisturbed run byte for byte")
    return found


def _examine_mlflow(study: Study, ends: Mapping[str, str], found: Findings) -> None:
    from mlflow.tracking import MlflowClient

    os.environ.update({name: value for name, value in study.environment.items() if name.startswith("MLFLOW_")})
    client = MlflowClient(study.environment["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name(study.name)
    runs: list[Any] = client.search_runs([experiment.experiment_id], max_results=1000)
    trials = [run for run in runs if run.data.tags.get("radsweep.level") == "trial"]
    identities = Counter(run.data.tags["radsweep.identity"] for run in trials)
    found.expect(identities == Counter(ends.keys()), f"MLflow: {len(trials)} runs for {len(ends)} trials")
    running = sum(run.info.status == "RUNNING" for run in runs)
    found.expect(running == 0, f"MLflow: {running} runs RUNNING")
    wrong = [r for r in trials if r.info.status != STATUS[ends[r.data.tags["radsweep.identity"]]]]
    found.expect(not wrong, f"MLflow: {len(wrong)} runs with another status than the ledger's")
    most = 0
    for run in trials:
        for key in run.data.metrics:
            steps = Counter(metric.step for metric in client.get_metric_history(run.info.run_id, key))
            most = max(most, *steps.values())
    found.expect(most == 1, f"MLflow: at most {most} row per metric and step")


def _examine_optuna(study: Study, ends: Mapping[str, str], found: Findings) -> None:
    import optuna

    storage = f"sqlite:///{study.storage}/faults/optuna.db"
    states: Counter[str] = Counter()
    for summary in optuna.get_all_study_summaries(storage):
        trials = optuna.load_study(study_name=summary.study_name, storage=storage).trials
        states.update(trial.state.name.replace("FAIL", "FAILED") for trial in trials)
    found.expect(states == Counter(ends.values()), f"Optuna: {dict(sorted(states.items()))}, as in the ledger")
