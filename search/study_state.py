"""What the ledger says has happened, folded into one picture.

Kinds of event (key `kind`), in the order they come:

| kind | keys |
|---|---|
| study | study (the file's content), origin (of the ledger: tells it from others of its name), version, time_ms |
| data | dataset (name), key, fingerprint, people (`Manifest.people`), images, quarantined, declaration |
| external | key (of data that winners are also measured on), dataset, fingerprint, people, images, quarantined |
| unusable | dataset, reason, time_ms |
| trial | trial, cell, axes, searched, seed, config, dataset_key; again where a changed study sorts it elsewhere |
| started | trial, time_ms, gpus, cpus |
| epoch | trial, epoch, timestamp_ms, metrics, undefined |
| decision | trial, epoch, action (prune, keep, spare), reason, memory (what the pruner wrote down of the trial) |
| ended | trial, state, reason, time_ms, result, log (last lines, of a failure) |
| paused | trial, time_ms |
| interrupted | trial, time_ms, class (see failures.py), reason |
| reopened | trial, reason |
| evaluated | trial, cell, time_ms, asked (see winners.py), metrics, rows, external, subgroups, thresholds |
| chosen | trial, cell, time_ms; a trial that was evaluated before stands for its cell now |
| baseline | key (of the data), data (as in `data_identity`), rows |
| closed | status, time_ms |
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from datasets.dataset_config import DatasetConfig
from search.ledger import Event
from trainers.trial import TaskDeclaration, TrialResult, TrialState

LOSS = "val/loss"
"""What every task reports, by which a recipe with `selection: loss` chooses the best epoch."""
OVER_BUDGET = "budget: "
"""How the reason of a trial begins that a budget had no room for."""


@dataclass(slots=True)
class Use:
    """What a trial has occupied so far, over all its attempts: pruned, retried and cut off ones too."""

    seconds: float = 0.0
    gpu_seconds: float = 0.0
    gpus: float = 0.0
    """Of the present or last attempt."""
    since_ms: int | None = None
    """When the present attempt began; None while it occupies nothing."""
    seen_ms: int = 0
    """When the present attempt was last heard of."""
    timed: int = 0
    """Signs of life after another one in the same attempt: of a trial, epochs without a start ahead of them."""
    timed_seconds: float = 0.0
    """What these took."""

    @property
    def so_far(self) -> tuple[float, float]:
        """Seconds and GPU-seconds, those of an attempt that is not over as far as it was heard of."""
        open_seconds = max(0, self.seen_ms - self.since_ms) / 1000 if self.since_ms is not None else 0.0
        return self.seconds + open_seconds, self.gpu_seconds + open_seconds * self.gpus

    def begin(self, event: Event) -> None:
        """Take in that a slot was given to the trial."""
        self.stop(self.seen_ms)
        self.since_ms = self.seen_ms = event["time_ms"]
        self.gpus = float(event.get("gpus", 0.0))

    def hear(self, time_ms: int) -> None:
        """Take in a sign of life."""
        later = max(self.seen_ms, time_ms)
        if self.since_ms is not None and self.seen_ms > self.since_ms:
            self.timed += 1
            self.timed_seconds += (later - self.seen_ms) / 1000
        self.seen_ms = later

    def stop(self, time_ms: int) -> None:
        """Take in that the slot was given back."""
        if self.since_ms is not None:
            seconds = max(0, time_ms - self.since_ms) / 1000
            self.seconds += seconds
            self.gpu_seconds += seconds * self.gpus
            self.since_ms = None


def point_of(searched: Mapping[str, Any]) -> str:
    """Write searched values in words, all their digits: equal words are equal values."""
    return ", ".join(f"{name}={value}" for name, value in searched.items())


def name_in_cell(searched: Mapping[str, Any], seed: int | None) -> str:
    """Name a trial by what tells it from others of its cell, the same in every cell; None: all have one seed."""
    return ", ".join(filter(None, (point_of(searched), "" if seed is None else f"seed={seed}")))


@dataclass(slots=True)
class TrialProgress:
    """One trial so far."""

    trial: str
    cell: str
    axes: dict[str, Any]
    searched: dict[str, Any]
    seed: int
    config: dict[str, Any]
    dataset_key: str
    epochs: dict[int, float | None] = field(default_factory=dict)
    """The primary metric of every epoch that was told; the other metrics are in the ledger and in MLflow."""
    losses: dict[int, float] = field(default_factory=dict)
    """The validation loss of every epoch, where the recipe chooses the best one by that."""
    starts: list[int] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)
    """Of the code that trained it."""
    decisions: list[Event] = field(default_factory=list)
    state: TrialState | None = None
    reason: str = ""
    ended_ms: int | None = None
    result: TrialResult | None = None
    interruptions: list[Event] = field(default_factory=list)
    """Since it was last reopened."""
    log: list[str] = field(default_factory=list)
    use: Use = field(default_factory=Use)
    open: bool = False
    """Whether its last attempt has not said how it ended: at its last epoch it may have come to its own end."""

    @property
    def done(self) -> bool:
        """Whether nothing is left to do for this trial."""
        return self.state is not None

    @property
    def spared_at(self) -> int | None:
        """The epoch at which the pruner wanted to stop it and it was let go on, outside the race; None: never."""
        return next((event["epoch"] for event in self.decisions if event["action"] == "spare"), None)

    @property
    def dropped(self) -> bool:
        """Whether it ended because a budget had no room for it; a larger one brings it back."""
        return self.state is TrialState.PRUNED and self.reason.startswith(OVER_BUDGET)

    @property
    def outcome(self) -> str:
        """Its state in one word, DROPPED where a budget had no room for it, UNFINISHED while it has none."""
        if self.dropped:
            return "DROPPED"
        return self.state.value if self.state else "UNFINISHED"

    @property
    def point(self) -> str:
        """The searched values in words, in whatever order the file listed them."""
        return point_of(dict(sorted(self.searched.items())))

    @property
    def curve(self) -> dict[int, float]:
        """The primary metric by epoch, where it is defined."""
        return {epoch: value for epoch, value in sorted(self.epochs.items()) if value is not None}

    @property
    def by_loss(self) -> bool:
        """Whether its best epoch is that of the lowest validation loss."""
        return bool(self.config.get("recipe", {}).get("selection") == "loss")

    def judged(self, sign: float) -> float | None:
        """Return the primary metric at its best epoch, of those there are so far; None where it has none.

        Args:
            sign: -1 where a smaller value is better, else 1.
        """
        if self.result is not None:
            return self.result.best_value
        values = self.curve
        if not self.by_loss:
            return max(values.values(), key=lambda value: sign * value, default=None)
        known = [epoch for epoch in values if epoch in self.losses]
        return values[min(known, key=lambda epoch: self.losses[epoch])] if known else None


@dataclass(slots=True)
class StudyState:
    """Everything known of a study; the only constructor of it is its events."""

    study: dict[str, Any] = field(default_factory=dict)
    versions: list[str] = field(default_factory=list)
    """Of the code that ran it, the present one last."""
    libraries: dict[str, list[str]] = field(default_factory=dict)
    """Their versions, by name."""
    datasets: dict[str, Event] = field(default_factory=dict)
    externals: dict[str, Event] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)
    """Why data sets could not be prepared by the last run, by name."""
    trials: dict[str, TrialProgress] = field(default_factory=dict)
    evaluations: dict[str, Event] = field(default_factory=dict)
    """By trial, whether it still stands for its cell or not."""
    evaluated: dict[str, Event] = field(default_factory=dict)
    """By cell, of the trial that stands for it."""
    baselines: dict[str, Event] = field(default_factory=dict)
    """By key of the data."""
    wall: Use = field(default_factory=Use)
    """The time that runs of this study took, whatever they did."""
    _declaration: TaskDeclaration | None = None

    @classmethod
    def of(cls, events: Iterable[Event]) -> "StudyState":
        """Fold events, in their order."""
        state = cls()
        for event in events:
            state.apply(event)
        return state

    @property
    def declaration(self) -> TaskDeclaration:
        """The task's primary metric and direction, as the data's preparation declared them."""
        if self._declaration is None:
            first = next(iter(self.datasets.values()))
            self._declaration = TaskDeclaration.model_validate(first["declaration"])
        return self._declaration

    def data_identity(self, key: str) -> dict[str, str]:
        """Return fingerprint and people of a data set, as far as they are known: what its figures depend on."""
        known = self.datasets.get(key) or self.externals.get(key, {})
        return {name: known[name] for name in ("fingerprint", "people") if name in known}

    def unusable_among(self, datasets: Iterable[DatasetConfig]) -> dict[str, str]:
        """Return why some of these data sets could not be used; others may be asked for no more."""
        names = {dataset.name for dataset in datasets}
        return {name: reason for name, reason in self.unusable.items() if name in names}

    def has_baseline(self, key: str) -> bool:
        """Whether the baseline of a data set was measured, on the data as they are now."""
        if key not in self.baselines:
            return False
        now = self.data_identity(key)
        return bool(now == now | self.baselines[key].get("data", {}))

    def apply(self, event: Event) -> None:
        """Take one event in; an epoch that is told again changes nothing."""
        kind = event["kind"]
        self._tick(event)
        if kind == "study":
            self.study = event["study"]
            _put_last(self.versions, event["version"])
            for name, version in event.get("libraries", {}).items():
                _put_last(self.libraries.setdefault(name, []), version)
        elif kind == "data":
            self.datasets[event["key"]] = event
            self._declaration = None
            self.unusable.pop(event["dataset"], None)
        elif kind == "external":
            self.externals[event["key"]] = event
        elif kind == "unusable":
            self.unusable[event["dataset"]] = event["reason"]
        elif kind == "trial":
            fields = {key: event[key] for key in TrialProgress.__dataclass_fields__ if key in event}
            known = self.trials.setdefault(event["trial"], TrialProgress(**fields))
            known.cell, known.axes, known.searched = event["cell"], event["axes"], event["searched"]
        elif kind == "evaluated":
            self.evaluations[event["trial"]] = self.evaluated[event["cell"]] = event
        elif kind == "chosen":
            self.evaluated[event["cell"]] = self.evaluations[event["trial"]]
        elif kind == "baseline":
            self.baselines[event["key"]] = event
        elif kind != "closed":
            self._apply_to_trial(self.trials[event["trial"]], event)

    def close_what_died(self) -> None:
        """Let nobody occupy anything: attempts and a run that are still open died with their driver."""
        for use in (self.wall, *(progress.use for progress in self.trials.values())):
            use.stop(use.seen_ms)

    def _tick(self, event: Event) -> None:
        if event["kind"] == "study":
            self.close_what_died()
            self.wall.begin(event)
        elif event["kind"] == "closed":
            self.wall.stop(event["time_ms"])
        elif (at := event.get("time_ms", event.get("timestamp_ms"))) is not None:
            self.wall.hear(at)

    def _apply_to_trial(self, progress: TrialProgress, event: Event) -> None:
        kind = event["kind"]
        if kind == "started":
            progress.starts.append(event["time_ms"])
            if self.versions:
                _put_last(progress.versions, self.versions[-1])
            progress.open = True
            progress.use.begin(event)
        elif kind == "epoch":
            metrics = event["metrics"]
            progress.epochs.setdefault(event["epoch"], metrics.get(self.declaration.primary_metric))
            if progress.by_loss and LOSS in metrics:
                progress.losses.setdefault(event["epoch"], metrics[LOSS])
            progress.use.hear(event["timestamp_ms"])
        elif kind == "decision":
            progress.decisions.append(event)
        elif kind == "ended":
            progress.open = False
            progress.state = TrialState(event["state"])
            progress.reason = event["reason"]
            progress.ended_ms = event["time_ms"]
            progress.log = list(event.get("log") or [])
            progress.use.stop(event["time_ms"])
            progress.result = TrialResult.model_validate(event["result"]) if event["result"] else None
        elif kind == "paused":
            progress.open = False
            progress.use.stop(event["time_ms"])
        elif kind == "interrupted":
            progress.interruptions.append(event)
            progress.use.stop(event["time_ms"])
        elif kind == "reopened":
            progress.interruptions = []
            progress.state, progress.reason, progress.ended_ms, progress.result = None, event["reason"], None, None


def _put_last(versions: list[str], version: str) -> None:
    if version in versions:
        versions.remove(version)
    versions.append(version)
