"""Ray Tune: a cluster's slots train what the schedule assigns.

Each assignment is one Ray Tune trial of a function trainable on a warm worker. Tune asks our searcher for the
next one and our scheduler what to do after each epoch; both only pass the question to `schedule.Schedule`.
Tune's own snapshots are not used: the ledger and the trials' checkpoints are what a killed study resumes from.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from search import ray_cluster  # before Ray: it sets what Ray reads when it is imported

# Read by ray.tune when it is imported or at its first trial.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # files per trial that nobody reads
os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", "8")  # one at a time leaves slots idle

import ray
from ray import tune
from ray.tune.result import TRIAL_ID
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from search.errors import StudyError
from search.resources import Node, Slot
from search.schedule import Assignment, Schedule
from search.worker import WorkOrder, carry_out
from trainers.trial import EpochMetrics, TrialResult

SECONDS_BETWEEN_COUNTS = 5.0


Trainable = Callable[[dict[str, str]], None]
"""A function trainable: its config holds a `WorkOrder` as JSON under `order`."""

Together = Callable[[], AbstractContextManager[None]]
"""Makes what is recorded inside durable at its end, at once (see `desk.Desk.together`)."""

Message = dict[str, Any]
"""What a worker told, with what Tune added to it."""


def train_all(
    schedule: Schedule,
    *,
    order: Callable[[Assignment], WorkOrder],
    slot_of: Callable[[str], Slot],
    after_trial: Callable[[str], None],
    together: Together = nullcontext,
    trainable: Trainable | None = None,
) -> None:
    """Carry out a schedule until it is finished.

    Args:
        schedule: decides.
        order: turns an assignment into what a worker needs to know.
        slot_of: what a trial occupies.
        after_trial: called when a trial has left its slot: ended, paused, failed or stopped.
        together: around the epochs that have arrived at the same time; what it wraps is answered after it.
        trainable: what a worker runs; the trainer, unless a test or a benchmark puts its own in.
    """
    desk = _Desk(schedule, order, after_trial, slot_of, together)
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
    if desk.problem is not None:
        raise desk.problem


def _train(config: dict[str, str]) -> None:
    told: dict[str, str] = {}

    def tell(message: dict[str, str]) -> None:
        told.update(message)
        tune.report(message)

    carry_out(WorkOrder.model_validate_json(config["order"]), tell)
    if told.get("failure_kind") == "out_of_memory":
        raise RuntimeError("GPU memory was lost: the next trial gets a clean process")


class _Room:
    """Whether one more trial fits on the cluster now; nodes come and go."""

    def __init__(self) -> None:
        self._nodes: list[Node] = []
        self._at = float("-inf")

    def holds(self, slots: Iterable[Slot]) -> bool:
        """Say whether all these slots fit at once, the largest placed first, each on the first node with room."""
        if time.monotonic() - self._at > SECONDS_BETWEEN_COUNTS:
            self._nodes = ray_cluster.nodes()
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
        together: Together = nullcontext,
    ):
        self.schedule = schedule
        self._order = order
        self._after_trial = after_trial
        self._slot_of = slot_of
        self._together = together
        self._room = _Room()
        self._assigned: dict[str, str] = {}
        self._ends: dict[str, Message] = {}
        self._answers: dict[str, bool] = {}
        """Of epochs that are on disk but that Tune has not handed over yet."""
        self.problem: StudyError | None = None
        """Why nothing can go on; Tune logs what is raised where a trial ends, and would go on."""

    def suggest(self, tune_trial: str) -> Any:
        over = self.problem or self.schedule.out_of_budget
        if self.schedule.finished or (over and not self._assigned):
            return Searcher.FINISHED
        if self.problem:
            return None
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

    def told(self, tune_trial: str, message: Message, arrived: Callable[[], Mapping[str, Message]]) -> bool:
        """Take in a message of a worker; return whether it goes on.

        Args:
            tune_trial: whose.
            message: what it told.
            arrived: returns the messages of others that are here, too, by Tune trial. Their epochs are taken in with
                this one, in the order of the schedule's trials, and answered when Tune hands them over.
        """
        if "epoch" not in message:
            # Tune delivers a function's last report twice; it is acted on once, when the trial has left its slot.
            self._ends[tune_trial] = message
            return True
        if self.problem:
            return False
        if tune_trial not in self._answers:
            self._take_in({**arrived(), tune_trial: message})
        return self._answers.pop(tune_trial)

    def _take_in(self, messages: Mapping[str, Message]) -> None:
        """Record epochs with one sync, then keep the answers."""
        waiting = [t for t, m in messages.items() if "epoch" in m and t in self._assigned and t not in self._answers]
        answers: dict[str, bool] = {}
        with self._together():
            for tune_trial in sorted(waiting, key=self._assigned.__getitem__):
                told = EpochMetrics.model_validate_json(messages[tune_trial]["epoch"])
                answers[tune_trial] = self.schedule.epoch(self._assigned[tune_trial], told)
        self._answers |= answers

    def left(self, tune_trial: str) -> None:
        """Take in that a Tune trial is over: finished, paused at a rung, failed or stopped."""
        self._answers.pop(tune_trial, None)
        trial = self._assigned.pop(tune_trial, None)
        if trial is None:
            return
        end = self._ends.pop(tune_trial, {})
        with self._kept():
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
        self._answers.pop(tune_trial, None)
        trial = self._assigned.pop(tune_trial, None)
        if trial is not None:
            with self._kept():
                self.schedule.interrupted(trial, *classify(said))
                self._after_trial(trial)

    @contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except StudyError as problem:
            self.problem = self.problem or problem


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


def _arrived(tune_controller: Any) -> dict[str, Message]:
    """Return the messages that lie ready for Tune's controller, which takes one at a time, by Tune trial."""
    events = tune_controller._tune_controller._actor_manager._actor_task_events
    futures = list(events.get_futures())
    if not futures:
        return {}
    ready, _ = ray.wait(futures, num_returns=len(futures), timeout=0)
    return {m[TRIAL_ID]: m for m in map(_message, ready) if m is not None and TRIAL_ID in m}


def _message(future: Any) -> Message | None:
    """Return what a worker told, or None for anything else; Tune itself hears of a process that went away."""
    try:
        found = ray.get(future)
    except ray.exceptions.RayError:
        return None
    return found if isinstance(found, dict) else None


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
        goes_on = self._desk is None or self._desk.told(trial.trial_id, result, lambda: _arrived(tune_controller))
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
