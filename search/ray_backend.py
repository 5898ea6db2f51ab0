"""Ray Tune: a cluster's slots train what the schedule assigns.

Each assignment is one Ray Tune trial of a function trainable on a warm worker. Tune asks our searcher for the
next one and our scheduler what to do after each epoch; both only pass the question to `dispatcher.Dispatcher`.
Tune's own snapshots are not used: the ledger and the trials' checkpoints are what a killed study resumes from.
"""

import json
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from search import ray_cluster  # before Ray: it sets what Ray reads when it is imported

# Read by ray.tune when it is imported or at its first trial.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # files per trial that nobody reads
os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", "8")  # one at a time leaves slots idle

import ray
from ray import tune
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.result import TRIAL_ID
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from search.dispatcher import Dispatcher, Message, Together
from search.resources import Slot
from search.schedule import Assignment, Schedule
from search.worker import WorkOrder, carry_out

Trainable = Callable[[dict[str, str]], None]
"""A function trainable: its config holds a `WorkOrder` as JSON under `order`."""


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

    Raises:
        StudyError: nothing can go on, e.g. for a full disk.
    """
    dispatcher = Dispatcher(
        schedule, order=order, slot_of=slot_of, after_trial=after_trial, nodes=ray_cluster.nodes, together=together
    )
    with tempfile.TemporaryDirectory(prefix="radsweep-tune-") as scratch, _own_interrupt():
        tuner = tune.Tuner(
            tune.with_resources(trainable or _train, lambda config: json.loads(config["slot"])),
            tune_config=tune.TuneConfig(
                search_alg=_AssignmentSearcher(dispatcher),
                scheduler=_PruningScheduler(dispatcher),
                num_samples=-1,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=scratch,
                verbose=0,
                callbacks=[_Silence()],
            ),
        )
        tuner.fit()
    if dispatcher.problem is not None:
        raise dispatcher.problem


@contextmanager
def _own_interrupt() -> Iterator[None]:
    """Put back what Ctrl-C did before: Tune leaves a handler of its own behind, which swallows the next one."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def _train(config: dict[str, str]) -> None:
    told: dict[str, str] = {}

    def tell(message: dict[str, str]) -> None:
        told.update(message)
        tune.report(message)

    carry_out(WorkOrder.model_validate_json(config["order"]), tell)
    if told.get("failure_kind") == "out_of_memory":
        raise RuntimeError("GPU memory was lost: the next trial gets a clean process")


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


class _Silence(TrialProgressCallback):  # type: ignore[misc]
    """Tune's own words of a trial that ends without a result, which it prints at any verbosity."""

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Say nothing: progress is told by `progress.py`, on the same stream."""


def _withdraw(tune_controller: Any, trial: Any) -> None:
    """End a trial that has not begun; Tune would go on to expect a process for it, and keep none for others."""
    controller = tune_controller._tune_controller
    controller.stop_trial(trial)
    if trial in controller._staged_trials:
        controller._unstage_trial_with_resources(trial)


class _AssignmentSearcher(Searcher):  # type: ignore[misc]
    """Hands the schedule's assignments to Tune."""

    def __init__(self, dispatcher: Dispatcher | None = None):
        super().__init__()
        self._dispatcher = dispatcher

    def suggest(self, trial_id: str) -> Any:
        if self._dispatcher is None or self._dispatcher.over:
            return Searcher.FINISHED
        assigned = self._dispatcher.assign(trial_id)
        if assigned is None:
            return None
        order, slot = assigned
        return {"order": order.model_dump_json(), "slot": json.dumps(slot.as_ray())}

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

    def __init__(self, dispatcher: Dispatcher | None = None):
        super().__init__()
        self._dispatcher = dispatcher

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Nothing to do: the schedule knows its trials."""

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        if self._dispatcher:
            # Tune's own file of the error as text; the pickled one beside it is not opened.
            self._dispatcher.lost(trial.trial_id, Path(trial.error_file).read_text())

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        goes_on = self._dispatcher is None or self._dispatcher.told(
            trial.trial_id, result, lambda: _arrived(tune_controller)
        )
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if self._dispatcher:
            self._dispatcher.left(trial.trial_id)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Take in that a trial which had not begun was withdrawn, see below."""
        if self._dispatcher:
            self._dispatcher.left(trial.trial_id)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        pending = {trial.trial_id: trial for trial in tune_controller.get_trials() if trial.status == "PENDING"}
        stranded = self._dispatcher.stranded(pending) if self._dispatcher else set()
        for tune_trial in stranded:
            _withdraw(tune_controller, pending.pop(tune_trial))
        return next(iter(pending.values()), None)

    def debug_string(self) -> str:
        return "radsweep"

    def __reduce__(self) -> Any:
        return (_PruningScheduler, ())
