"""Ray, all of it: a cluster's slots train what the schedule assigns.

Each assignment is one Ray Tune trial of a function trainable on a warm worker. Tune asks our searcher for the
next one and our scheduler what to do after each epoch; both only pass the question to `schedule.Schedule`.
Tune's own snapshots are not used: the ledger and the trials' checkpoints are what a killed study resumes from.
"""

import json
import os
import secrets
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search.errors import StudyError
from search.provenance import code_digest
from search.resources import Node, Slot
from search.schedule import Assignment, Schedule
from search.worker import WorkOrder, carry_out
from trainers.trial import EpochMetrics, TrialResult

ROOT = Path(__file__).resolve().parents[1]
SECONDS_BETWEEN_COUNTS = 5.0
SECONDS_FOR_A_NODE = 60.0


Trainable = Callable[[dict[str, str]], None]
"""A function trainable: its config holds a `WorkOrder` as JSON under `order`."""


@contextmanager
def cluster(address: str | None, *, cpus: int | None = None) -> Iterator[Mapping[str, float]]:
    """Start Ray on this machine, or join a running cluster; yields its total resources.

    Args:
        address: of a running cluster's head, or None for a private one that ends with the block.
        cpus: CPUs of the private cluster; None: all of this machine.

    Raises:
        StudyError: the cluster does not answer, or a node has other code than this driver.
    """
    # Not Ray's `working_dir`: it unpacks the code on each node, and a node or driver killed at that moment leaves half
    # of it behind for those that come after. The code lies where the storage does: on a path that all nodes share.
    environment = {"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}}
    own = _closed(cpus) if address is None else {}
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
    if threading.current_thread() is threading.main_thread():
        # Schedulers of clusters ask a job to leave with SIGTERM: stop as if Ctrl-C had been pressed. Ray set its own.
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        if address is not None:
            _check_code()
        yield ray.cluster_resources()
    finally:
        ray.shutdown()


def _closed(cpus: int | None) -> dict[str, Any]:
    """Return the options of a private cluster: no dashboard, closed by a token of its own."""
    if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # workers inherit it; Ray reads it once per process
    os.environ["RAY_AUTH_MODE"] = "token"
    return {"num_cpus": cpus, "include_dashboard": False}


def _check_code() -> None:
    """Refuse nodes that would run other code than this driver, or none."""
    digest = ray.remote(num_cpus=0, max_retries=0)(code_digest)
    asked = {
        digest.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(): node
        for node in ray.nodes()
        if node["Alive"]
    }
    own = code_digest()
    ray.wait(list(asked), num_returns=len(asked), timeout=SECONDS_FOR_A_NODE)
    for reference, node in asked.items():
        try:
            found = ray.get(reference, timeout=0)
        except (ray.exceptions.RayError, ImportError) as problem:
            found = str(problem).splitlines()[0] or type(problem).__name__
        if found != own:
            raise StudyError(
                f"node {node['NodeManagerAddress']} does not have this driver's code at {ROOT} ({found[:200]}); put "
                "the clone and its .venv on a path that all nodes share, or the same version into all images"
            )


def nodes() -> list[Node]:
    """Return the resources of every node that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def stream(function: Callable[..., Iterator[Any]], order: Any, slot: Slot) -> Iterator[Any]:
    """Run a generator function in a worker and yield what it yields."""
    remote = ray.remote(num_returns="streaming", **_options(slot))(function)
    for reference in remote.remote(order):
        yield _result(reference)


def each(function: Callable[..., Any], orders: Sequence[Any], slots: Sequence[Slot]) -> Iterator[tuple[int, Any]]:
    """Run a function over orders in workers, each in its slot; yield (index, result) as they finish."""
    waiting = {
        ray.remote(**_options(slot))(function).remote(order): index
        for index, (order, slot) in enumerate(zip(orders, slots, strict=True))
    }
    while waiting:
        done, _ = ray.wait(list(waiting), num_returns=1)
        yield waiting.pop(done[0]), _result(done[0])


def train_all(
    schedule: Schedule,
    *,
    order: Callable[[Assignment], WorkOrder],
    slot_of: Callable[[str], Slot],
    after_trial: Callable[[str], None],
    trainable: Trainable | None = None,
) -> None:
    """Carry out a schedule until it is finished.

    Args:
        schedule: decides.
        order: turns an assignment into what a worker needs to know.
        slot_of: what a trial occupies.
        after_trial: called when a trial has left its slot: ended, paused, failed or stopped.
        trainable: what a worker runs; the trainer, unless a test or a benchmark puts its own in.
    """
    desk = _Desk(schedule, order, after_trial, slot_of)
    with tempfile.TemporaryDirectory(prefix="radsweep-tune-") as scratch:
        tuner = tune.Tuner(
            tune.with_resources(trainable or _train, lambda config: json.loads(config["slot"])),
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
            ),
        )
        tuner.fit()


def _train(config: dict[str, str]) -> None:
    told: dict[str, str] = {}

    def tell(message: dict[str, str]) -> None:
        told.update(message)
        tune.report(message)

    carry_out(WorkOrder.model_validate_json(config["order"]), tell)
    if told.get("failure_kind") == "out_of_memory":
        raise RuntimeError("GPU memory was lost: the next trial gets a clean process")


def _options(slot: Slot) -> dict[str, Any]:
    asked = slot.as_ray()
    memory = {"memory": asked["memory"]} if "memory" in asked else {}
    others = {name: amount for name, amount in asked.items() if name not in {"CPU", "GPU", "memory"}}
    return {"num_cpus": slot.cpus, "num_gpus": slot.gpus, "resources": others, **memory}


def _result(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as failure:
        # The worker's own error says what the user must do; Ray's wrapping does not.
        raise failure.cause if isinstance(failure.cause, Exception) else failure from None


class _Room:
    """Whether one more trial fits on the cluster now; nodes come and go."""

    def __init__(self) -> None:
        self._nodes: list[Node] = []
        self._at = float("-inf")

    def holds(self, slots: Iterable[Slot]) -> bool:
        """Say whether all these slots fit at once, the largest placed first, each on the first node with room."""
        if time.monotonic() - self._at > SECONDS_BETWEEN_COUNTS:
            self._nodes = nodes()
            self._at = time.monotonic()
        free = [dict(node) for node in self._nodes]
        for slot in sorted(slots, key=lambda slot: (-slot.gpus, -slot.cpus)):
            asked = slot.as_ray()
            node = next((n for n in free if all(n.get(k, 0) >= v - 1e-9 for k, v in asked.items())), None)
            if node is None:
                return False
            for name, amount in asked.items():
                node[name] -= amount
        return True


class _Desk:
    """What Tune's searcher and scheduler share: which Tune trial carries out which assignment."""

    def __init__(
        self,
        schedule: Schedule,
        order: Callable[[Assignment], WorkOrder],
        after_trial: Callable[[str], None],
        slot_of: Callable[[str], Slot],
    ):
        self.schedule = schedule
        self._order = order
        self._after_trial = after_trial
        self._slot_of = slot_of
        self._room = _Room()
        self._assigned: dict[str, str] = {}
        self._ends: dict[str, dict[str, str]] = {}

    def suggest(self, tune_trial: str) -> Any:
        if self.schedule.finished or (self.schedule.out_of_budget and not self._assigned):
            return Searcher.FINISHED
        taken = [self._slot_of(trial) for trial in self._assigned.values()]
        wanted = self.schedule.peek()
        if wanted is None or not self._room.holds([*taken, self._slot_of(wanted)]):
            return None  # Tune would queue it: an assignment made late knows more
        assignment = self.schedule.next()
        if assignment is None:
            return None
        self._assigned[tune_trial] = assignment.trial
        slot = json.dumps(self._slot_of(assignment.trial).as_ray())
        return {"order": self._order(assignment).model_dump_json(), "slot": slot}

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
            log = str(end.get("log", "")).splitlines()
            self.schedule.failed(trial, end["failure_kind"], end["failure"], log)
        else:
            self.schedule.released(trial)
        self._after_trial(trial)

    def lost(self, tune_trial: str, said: str) -> None:
        """Take in that a trial's process went away, and what Ray said of it."""
        if tune_trial in self._ends:
            self.left(tune_trial)  # it had told its end before
            return
        trial = self._assigned.pop(tune_trial, None)
        if trial is not None:
            self.schedule.interrupted(trial, *classify(said))
            self._after_trial(trial)


def classify(said: str) -> tuple[str, str]:
    """Return the class of a lost process (a key of `failures.POLICIES`) and what happened in one line.

    Args:
        said: Ray's message; its errors of lost actors differ by their text alone.
    """
    lowered = said.lower()
    if "outofmemoryerror" in lowered or "running low on memory" in lowered:
        return "host_memory", "Ray ended its process, since the host was running out of memory"
    if any(word in lowered for word in ("node died", "node has died", "node is dead", "preempted", "node failure")):
        return "node_lost", "its node went away"
    return "process_died", "its process died"


class _AssignmentSearcher(Searcher):  # type: ignore[misc]
    """Hands the schedule's assignments to Tune."""

    def __init__(self, desk: _Desk | None = None):
        super().__init__()
        self._desk = desk

    def suggest(self, trial_id: str) -> Any:
        return self._desk.suggest(trial_id) if self._desk else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing to do: the scheduler below hears the same, and more."""

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
        if self._desk:
            # Tune's own file of the error as text; the pickled one beside it is not opened.
            self._desk.lost(trial.trial_id, Path(trial.error_file).read_text())

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
