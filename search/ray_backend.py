"""Ray, all of it: a cluster's slots train what the schedule assigns.

Each assignment is one Ray Tune trial of a function trainable on a warm worker. Tune asks our searcher for the
next one and our scheduler what to do after each epoch; both only pass the question to `schedule.Schedule`.
Tune's own snapshots are not used: the ledger and the trials' checkpoints are what a killed study resumes from.
"""

import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Read by ray.tune when it is imported or at its first trial.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # files per trial that nobody reads
os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", "8")  # one at a time leaves slots idle
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a trial without a GPU must not see one
if (Path.home() / ".ray" / "auth_token").is_file():
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # a head turns it on when it finds this file; we must do as it did

import ray
from ray import tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from search.errors import StudyError
from search.schedule import Assignment, Schedule
from search.worker import WorkOrder, carry_out
from trainers.trial import EpochMetrics, TrialResult

ROOT = Path(__file__).resolve().parents[1]
RETRIES_OF_A_LOST_PROCESS = 3
SECONDS_BETWEEN_COUNTS = 5.0
NOT_CODE = [".git", ".venv", "storage", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis", "docs", "tests"]


Trainable = Callable[[dict[str, str]], None]
"""A function trainable: its config holds a `WorkOrder` as JSON under `order`."""


@dataclass(frozen=True, slots=True)
class Slot:
    """What one trial occupies."""

    cpus: int
    gpus: float

    def as_ray(self) -> dict[str, float]:
        """Write it as Ray's resource dictionary."""
        return {"CPU": float(self.cpus), "GPU": float(self.gpus)} if self.gpus else {"CPU": float(self.cpus)}


@contextmanager
def cluster(address: str | None, *, cpus: int | None = None) -> Iterator[Mapping[str, float]]:
    """Start Ray on this machine, or join a running cluster; yields its total resources.

    Args:
        address: of a running cluster's head, or None for a private one that ends with the block.
        cpus: CPUs of the private cluster; None: all of this machine.

    Raises:
        StudyError: the cluster does not answer.
    """
    environment = {"working_dir": str(ROOT), "excludes": NOT_CODE}
    own: dict[str, Any] = {"num_cpus": cpus, "include_dashboard": False} if address is None else {}
    try:
        host, _, port = (address or "").rpartition(":")
        if host and port.isdigit() and "/" not in host:
            socket.create_connection((host, int(port)), timeout=10).close()  # Ray itself would try for minutes
        # A bare init() may join somebody else's cluster; "local" never does.
        ray.init(
            address=address or "local",
            runtime_env=environment,
            log_to_driver=False,
            logging_level="ERROR",
            **own,
        )
    except (OSError, RuntimeError, ValueError) as problem:
        reason = str(problem).splitlines()[0]
        raise StudyError(
            f"--address {address}: no Ray cluster answers there ({reason}); start one with `ray start --head`, "
            "or give RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH as on its head"
        ) from None
    try:
        yield ray.cluster_resources()
    finally:
        ray.shutdown()


def check_fit(slot: Slot) -> None:
    """Refuse a trial that could never start.

    Raises:
        StudyError: with what a trial asks for and the largest that one node has.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(node.get(name, 0) >= amount for name, amount in slot.as_ray().items()) for node in nodes):
        largest = {name: max((node.get(name, 0) for node in nodes), default=0) for name in ("CPU", "GPU")}
        raise StudyError(
            f"resources: a trial asks for {slot.as_ray()}, but no node of this cluster has that; the largest has "
            f"{largest['CPU']:g} CPU and {largest['GPU']:g} GPU. Lower resources.cpus or resources.gpus"
        )


def stream(function: Callable[..., Iterator[Any]], order: Any, slot: Slot) -> Iterator[Any]:
    """Run a generator function in a worker and yield what it yields."""
    remote = ray.remote(num_returns="streaming", num_cpus=slot.cpus, num_gpus=slot.gpus)(function)
    for reference in remote.remote(order):
        yield _result(reference)


def each(function: Callable[..., Any], orders: list[Any], slot: Slot) -> Iterator[tuple[int, Any]]:
    """Run a function over orders in workers; yield (index, result) as they finish."""
    remote = ray.remote(num_cpus=slot.cpus, num_gpus=slot.gpus)(function)
    waiting = {remote.remote(order): index for index, order in enumerate(orders)}
    while waiting:
        done, _ = ray.wait(list(waiting), num_returns=1)
        yield waiting.pop(done[0]), _result(done[0])


def train_all(
    schedule: Schedule,
    *,
    order: Callable[[Assignment], WorkOrder],
    slot: Slot,
    after_trial: Callable[[str], None],
    trainable: Trainable | None = None,
) -> None:
    """Carry out a schedule until it is finished.

    Args:
        schedule: decides.
        order: turns an assignment into what a worker needs to know.
        slot: what a trial occupies.
        after_trial: called when a trial has left its slot: ended, paused, failed or stopped.
        trainable: what a worker runs; the trainer, unless a test or a benchmark puts its own in.
    """
    desk = _Desk(schedule, order, after_trial, slot)
    with tempfile.TemporaryDirectory(prefix="radsweep-tune-") as scratch:
        tuner = tune.Tuner(
            tune.with_resources(trainable or _train, lambda _: slot.as_ray()),
            tune_config=tune.TuneConfig(
                search_alg=_AssignmentSearcher(desk),
                scheduler=_PruningScheduler(desk),
                num_samples=-1,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=scratch,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=RETRIES_OF_A_LOST_PROCESS),
            ),
        )
        tuner.fit()


def _train(config: dict[str, str]) -> None:
    carry_out(WorkOrder.model_validate_json(config["order"]), tune.report)


def _result(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as failure:
        # The worker's own error says what the user must do; Ray's wrapping does not.
        raise failure.cause if isinstance(failure.cause, Exception) else failure from None


class _Slots:
    """How many trials fit on the cluster now; nodes come and go."""

    def __init__(self, slot: Slot):
        self._slot = slot
        self._counted = 0
        self._at = float("-inf")

    def count(self) -> int:
        if time.monotonic() - self._at > SECONDS_BETWEEN_COUNTS:
            asked = self._slot.as_ray()
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            fits = [min(int(node.get(name, 0) / amount + 1e-9) for name, amount in asked.items()) for node in nodes]
            self._counted, self._at = sum(fits), time.monotonic()
        return self._counted


class _Desk:
    """What Tune's searcher and scheduler share: which Tune trial carries out which assignment."""

    def __init__(
        self,
        schedule: Schedule,
        order: Callable[[Assignment], WorkOrder],
        after_trial: Callable[[str], None],
        slot: Slot,
    ):
        self.schedule = schedule
        self._order = order
        self._after_trial = after_trial
        self._slots = _Slots(slot)
        self._assigned: dict[str, str] = {}
        self._ends: dict[str, dict[str, str]] = {}

    def suggest(self, tune_trial: str) -> Any:
        if self.schedule.finished:
            return Searcher.FINISHED
        if len(self._assigned) >= self._slots.count():
            return None  # Tune would queue it: an assignment made late knows more
        assignment = self.schedule.next()
        if assignment is None:
            return None
        self._assigned[tune_trial] = assignment.trial
        return {"order": self._order(assignment).model_dump_json()}

    def told(self, tune_trial: str, message: dict[str, Any]) -> bool:
        """Take in a message of a worker; return whether it goes on."""
        if "epoch" in message:
            return self.schedule.epoch(self._assigned[tune_trial], EpochMetrics.model_validate_json(message["epoch"]))
        # Tune delivers a function's last report twice; it is acted on once, when the trial has left its slot.
        self._ends[tune_trial] = message
        return True

    def left(self, tune_trial: str) -> None:
        """Take in that a Tune trial is over: finished, paused at a rung, failed or stopped."""
        trial = self._assigned.pop(tune_trial, None)
        if trial is None:
            return
        end = self._ends.pop(tune_trial, {})
        if "result" in end:
            self.schedule.ended(trial, TrialResult.model_validate_json(end["result"]))
        elif "failure" in end:
            self.schedule.failed(trial, end["failure_kind"], end["failure"])
        else:
            self.schedule.released(trial)
        self._after_trial(trial)

    def lost(self, tune_trial: str) -> None:
        """Take in that a trial's process died more often than is put up with."""
        trial = self._assigned.pop(tune_trial, None)
        if trial is not None:
            self.schedule.failed(trial, "lost", f"its process died {RETRIES_OF_A_LOST_PROCESS + 1} times")
            self._after_trial(trial)


class _AssignmentSearcher(Searcher):  # type: ignore[misc]
    """Hands the schedule's assignments to Tune."""

    def __init__(self, desk: _Desk | None = None):
        super().__init__()
        self._desk = desk

    def suggest(self, trial_id: str) -> Any:
        return self._desk.suggest(trial_id) if self._desk else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if self._desk and error:
            self._desk.lost(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Keep nothing: the ledger is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: a new driver builds its schedule from the ledger."""

    def __reduce__(self) -> Any:
        return (_AssignmentSearcher, ())  # Tune pickles it with its snapshot, which is never restored


class _PruningScheduler(TrialScheduler):  # type: ignore[misc]
    """Asks the schedule after each epoch whether a trial goes on."""

    def __init__(self, desk: _Desk | None = None):
        super().__init__()
        self._desk = desk

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Nothing to do: the schedule knows its trials."""

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Nothing to do: Tune tries again, and the searcher hears of the last time."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        goes_on = self._desk is None or self._desk.told(trial.trial_id, result)
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if self._desk:
            self._desk.left(trial.trial_id)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Nothing to do: nobody removes a trial from outside."""

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        return next((trial for trial in tune_controller.get_trials() if trial.status == "PENDING"), None)

    def debug_string(self) -> str:
        return "radsweep"

    def __reduce__(self) -> Any:
        return (_PruningScheduler, ())
