"""The ledger's events as MLflow runs: one for the study, one below it for every trial that started."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from mlflow_server.tracking import Measurement, RunDescription, Tracker
from search import grid, report
from search.delivery import by_trial_and_kind
from search.ledger import Event
from search.report import words
from search.run_names import RunNames
from search.study_folder import StudyFolder
from search.study_state import StudyState, TrialProgress

NOTE_LETTERS, TAG_LETTERS = 5000, 4000
"""MLflow takes tags of up to 8,000."""
STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAILED": "FAILED"}
"""MLflow has no word for a pruned trial; KILLED is stopped from outside, and the tag says why."""


class TrackingReceiver:
    """Translates events to calls of the tracker; every call may be repeated.

    Args:
        tracker: of the study's experiment.
        folder: of the study, for the files of winners and the report.
        told: the events that were told before.
    """

    def __init__(self, tracker: Tracker, folder: StudyFolder, told: Sequence[Event]):
        self._tracker = tracker
        self._folder = folder
        self._state = StudyState.of(told)
        self._study = folder.study
        self._names = RunNames(self._state)
        self._measured = {trial: event["metrics"] for trial, event in self._state.evaluations.items()}
        self._undefined = {event["trial"]: _undefined(event) for event in told if event["kind"] == "epoch"}
        self._named = {trial: self._names.of(known) for trial, known in self._state.trials.items() if known.starts}

    def receive(self, events: list[Event]) -> None:
        """Tell MLflow a run of consecutive events."""
        actions: dict[str, Callable[[str, Sequence[Event]], None]] = {
            "study": self._open_study,
            "trial": self._sort_trial,
            "started": self._open_trial,
            "reopened": self._reopen_trial,
            "epoch": self._log_epochs,
            "decision": self._tag_decision,
            "ended": self._finish_trial,
            "evaluated": self._log_evaluation,
            "chosen": self._tag_winner,
            "closed": self._close_study,
        }
        for kind, trial, same in by_trial_and_kind(events):
            for event in same:
                self._state.apply(event)
            if kind in actions:
                actions[kind](trial, same)
        if any(event["kind"] in {"study", "trial"} for event in events):
            self._rename()

    def _open_study(self, _: str, events: Sequence[Event]) -> None:
        event = events[-1]
        self._names.learn_study(event["study"])
        name = event["study"]["name"]
        tags = {"radsweep.study": name, "radsweep.version": event["version"], "radsweep.level": "study"}
        self._tracker.open(RunDescription(self._study, name, event["time_ms"], tags), parent=None)
        self._tracker.reopen(self._study)

    def _open_trial(self, trial: str, events: Sequence[Event]) -> None:
        progress = self._state.trials[trial]
        self._named[trial] = self._names.of(progress)
        data = self._state.datasets[progress.dataset_key]
        tags = self._place(progress) | {
            "radsweep.study": self._study,
            "radsweep.level": "trial",
            "radsweep.state": "RUNNING",
            "radsweep.data_fingerprint": data["fingerprint"],
            "radsweep.version": ", ".join(progress.versions),
        }
        self._tracker.open(
            RunDescription(
                identity=trial,
                name=self._named[trial],
                start_ms=events[0]["time_ms"],
                tags=tags,
                params=flat(progress.config),
                dataset=data["dataset"],
                fingerprint=data["fingerprint"],
            ),
            parent=self._study,
        )
        if len(progress.starts) > 1:
            self._tracker.tag(trial, {"radsweep.state": "RUNNING"})

    def _rename(self) -> None:
        """Give the runs that a study had before it was changed names that tell them from the new ones, too."""
        for trial, before in self._named.items():
            self._named[trial] = self._names.of(self._state.trials[trial])
            if self._named[trial] != before:
                self._tracker.rename(trial, self._named[trial], instead_of=before)

    def _note(self) -> str:
        """Return what came of the study, as MLflow's description of a run: the whole is in its artifacts."""
        found = report.read(self._folder)
        told = [*words.sentences(found), *(f"- {sentence}" for sentence in words.findings(found))]
        return "\n".join([*told, "", "The whole report, with figures: artifact `report/report.html`."])[:NOTE_LETTERS]

    def _sort_trial(self, trial: str, _: Sequence[Event]) -> None:
        """Tell where a changed study has a trial whose run there is already."""
        progress = self._state.trials[trial]
        self._names.learn_trial(progress)
        if progress.starts:
            self._tracker.tag(trial, self._place(progress))

    def _place(self, progress: TrialProgress) -> dict[str, str]:
        axes = {f"cell.{axis}": grid.readable(value) for axis, value in progress.axes.items()}
        return {**axes, "radsweep.cell": progress.cell}

    def _reopen_trial(self, trial: str, events: Sequence[Event]) -> None:
        if not self._state.trials[trial].starts:
            return  # ended before it ever ran: it has no run yet
        self._tracker.reopen(trial)
        self._tracker.tag(trial, {"radsweep.state": "RUNNING", "radsweep.reason": events[-1]["reason"]})

    def _log_epochs(self, trial: str, events: Sequence[Event]) -> None:
        self._tracker.log(trial, [Measurement(e["epoch"], e["timestamp_ms"], e["metrics"]) for e in events])
        undefined = _undefined(events[-1])
        if undefined != self._undefined.get(trial, ""):
            self._tracker.tag(trial, {"radsweep.undefined_metrics": undefined})
            self._undefined[trial] = undefined

    def _tag_decision(self, trial: str, events: Sequence[Event]) -> None:
        self._tracker.tag(
            trial, {f"radsweep.decision.epoch_{e['epoch']}": f"{e['action']}: {e['reason']}" for e in events}
        )

    def _finish_trial(self, trial: str, events: Sequence[Event]) -> None:
        event = events[-1]
        progress = self._state.trials[trial]
        if not progress.starts:
            return  # decided before it ever ran: it has no run
        tags = {"radsweep.state": event["state"], "radsweep.reason": event["reason"][:TAG_LETTERS]}
        tags["radsweep.version"] = ", ".join(progress.versions)
        result = event["result"] or {}
        if result.get("checkpoint"):
            tags["radsweep.checkpoint"] = str(self._folder.trial(trial) / result["checkpoint"])
            tags["radsweep.checkpoint_sha256"] = result["checkpoint_sha256"]
        record = {name: value for name, value in (result.get("record") or {}).items() if name != "recipe"}
        tags |= {f"radsweep.record.{name}": value for name, value in flat(record).items()}
        self._tracker.tag(trial, tags)
        self._tracker.finish(trial, STATUS[event["state"]], event["time_ms"])

    def _log_evaluation(self, trial: str, events: Sequence[Event]) -> None:
        event = events[-1]
        progress: TrialProgress = self._state.trials[trial]
        epoch = progress.result.best_epoch if progress.result and progress.result.best_epoch else 0
        # A winner that is measured again, with other redraws say, gets rows only for what came out otherwise.
        before = self._measured.get(trial, {})
        changed = {name: value for name, value in event["metrics"].items() if before.get(name) != value}
        self._tracker.log(trial, [Measurement(epoch, event["time_ms"], changed)])
        self._measured[trial] = event["metrics"]
        self._tag_winner(trial, events)
        self._tracker.log_artifacts(trial, self._folder.winner(trial), "evaluation")

    def _tag_winner(self, trial: str, events: Sequence[Event]) -> None:
        """Say which of the trials that were ever measured for a cell stands for it now."""
        cell = events[-1]["cell"]
        for other in self._state.evaluations:
            if other == trial or self._state.trials[other].cell == cell:
                self._tracker.tag(other, {"radsweep.winner": "true" if other == trial else "false"})

    def _close_study(self, _: str, events: Sequence[Event]) -> None:
        event = events[-1]
        for trial, progress in self._state.trials.items():
            if progress.starts and not progress.done:
                self._tracker.tag(trial, {"radsweep.state": "PAUSED"})
                self._tracker.finish(trial, "KILLED", event["time_ms"])  # interrupted; reopened by the next run
        if report.is_whole(self._folder):
            self._tracker.replace_artifacts(self._study, self._folder.report, "report")
            self._tracker.tag(self._study, {"mlflow.note.content": self._note()})
        self._tracker.finish(self._study, event["status"], event["time_ms"])


def _undefined(epoch: Event) -> str:
    return ", ".join(epoch["undefined"])[:TAG_LETTERS]


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a nested configuration; a recipe's settings stand without prefix, as people look for them.

    A mapping of a user's own names, columns of a label file say, stays whole: MLflow does not take every name as a key.
    """
    rows: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and not all(name.isidentifier() for name in value):
            rows[f"{prefix}{key}"] = json.dumps(value, ensure_ascii=False)
        elif isinstance(value, dict):
            rows |= flat(value, "" if key == "recipe" else f"{prefix}{key}.")
        else:
            rows["recipe" if key == "name" and not prefix else f"{prefix}{key}"] = value
    return rows
