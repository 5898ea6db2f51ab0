"""Gives a cluster's slots what the schedule assigns, and the schedule what came of it; Tune's part without Tune.

Tune's searcher and scheduler (`ray_backend.py`) know trials of their own, one for each assignment. Here is kept which
carries out which, what each told, and whether the next one fits on the cluster now.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from search import failures
from search.errors import StudyError
from search.resources import ACCELERATOR, Node, Slot, misfit
from search.schedule import Assignment, Schedule
from search.worker import WorkOrder
from trainers.trial import EpochMetrics, TrialResult

LOG = logging.getLogger(__name__)
SECONDS_BETWEEN_COUNTS = 5.0
ROUNDING = 1e-9

Together = Callable[[], AbstractContextManager[None]]
"""Makes what is recorded inside durable at its end, at once (see `desk.Desk.together`)."""

Message = dict[str, Any]
"""What a worker told, with what Tune added to it."""


class Dispatcher:
    """What Tune's searcher and scheduler share.

    Args:
        schedule: decides.
        order: turns an assignment into what a worker needs to know.
        slot_of: what a trial occupies.
        after_trial: called when a trial has left its slot: ended, paused, failed or stopped.
        nodes: returns the resources of every node that is alive.
        together: around the epochs that have arrived at the same time; what it wraps is answered after it.
    """

    def __init__(
        self,
        schedule: Schedule,
        *,
        order: Callable[[Assignment], WorkOrder],
        slot_of: Callable[[str], Slot],
        after_trial: Callable[[str], None],
        nodes: Callable[[], Sequence[Node]],
        together: Together = nullcontext,
    ):
        self._schedule = schedule
        self._order = order
        self._slot_of = slot_of
        self._after_trial = after_trial
        self._together = together
        self._room = _Room(nodes)
        self._assigned: dict[str, str] = {}
        self._ends: dict[str, Message] = {}
        self._answers: dict[str, bool] = {}
        """Of epochs that are on disk but that Tune has not handed over yet."""
        self._told_to_wait = False
        self.problem: StudyError | None = None
        """Why nothing can go on; Tune logs what is raised where a trial ends, and would go on."""

    @property
    def over(self) -> bool:
        """Whether nothing will be assigned any more."""
        stopped = self.problem or self._schedule.out_of_budget
        return self._schedule.finished or bool(stopped and not self._assigned)

    def assign(self, tune_trial: str) -> tuple[WorkOrder, Slot] | None:
        """Return the next piece of work and its slot; None while there is none, or no room for it."""
        heads = [] if self.problem else self._schedule.heads()
        if not heads:
            return None
        wanted = [self._slot_of(trial) for trial in heads]
        place = self._room.first_that_fits(wanted, [self._slot_of(trial) for trial in self._assigned.values()])
        if place is None:
            self._tell_of_waiting(wanted)
            return None  # Tune would queue it: an assignment made late knows more
        self._told_to_wait = False
        assignment = self._schedule.start(heads[place])
        self._assigned[tune_trial] = assignment.trial
        return self._order(assignment), self._slot_of(assignment.trial)

    def _tell_of_waiting(self, wanted: Sequence[Slot]) -> None:
        """Say once that nothing trains, and nothing will on the nodes that are left."""
        if self._told_to_wait or self._assigned:
            return
        problems = [misfit(slot, self._room.nodes) for slot in wanted]
        if None not in problems:
            self._told_to_wait = True
            LOG.warning("warning: nothing trains until a node comes that can hold it: %s", problems[0])

    def told(self, tune_trial: str, message: Message, arrived: Callable[[], Mapping[str, Message]]) -> bool:
        """Take in a message of a worker; return whether it goes on.

        Args:
            tune_trial: whose.
            message: what it told.
            arrived: returns the messages of others that are here, too, by Tune trial. Their epochs are taken in with
                this one, in the order of the schedule's trials, and answered when Tune hands them over.
        """
        if tune_trial not in self._assigned:
            return False  # its trial was given up for lost, and is told from its checkpoint by another one
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
                answers[tune_trial] = self._schedule.epoch(self._assigned[tune_trial], told)
        self._answers |= answers

    def stranded(self, pending: Iterable[str]) -> set[str]:
        """Return those of these Tune trials, none of which has begun, that no node alive could ever hold.

        Their node went away after it was counted: Ray would keep them for ever, and with them whoever waits for what
        they compute.
        """
        slots = {t: self._slot_of(self._assigned[t]) for t in pending if t in self._assigned}
        return {tune_trial for tune_trial, slot in slots.items() if misfit(slot, self._room.nodes) is not None}

    def left(self, tune_trial: str) -> None:
        """Take in that a Tune trial is over: finished, paused at a rung, failed, stopped or withdrawn."""
        self._answers.pop(tune_trial, None)
        trial = self._assigned.pop(tune_trial, None)
        if trial is None:
            return
        end = self._ends.pop(tune_trial, {})
        with self._kept():
            if "result" in end:
                self._schedule.ended(trial, TrialResult.model_validate_json(end["result"]))
            elif "failure" in end:
                self._failed(trial, end)
            else:
                self._schedule.released(trial)
            self._after_trial(trial)

    def _failed(self, trial: str, end: Message) -> None:
        kind, reason = end["failure_kind"], end["failure"]
        policy, log = failures.POLICIES[kind], str(end.get("log", "")).splitlines()
        if policy.retries == 0 or policy.stops_study:
            self._schedule.failed(trial, kind, reason, log)
        else:
            self._schedule.interrupted(trial, kind, reason, log)

    def lost(self, tune_trial: str, said: str) -> None:
        """Take in that a trial's process went away, and what Ray said of it."""
        if tune_trial in self._ends:
            self.left(tune_trial)  # it had told its end before
            return
        self._answers.pop(tune_trial, None)
        trial = self._assigned.pop(tune_trial, None)
        if trial is not None:
            with self._kept():
                self._schedule.interrupted(trial, *failures.class_of_loss(said))
                self._after_trial(trial)

    @contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except StudyError as problem:
            self.problem = self.problem or problem


class _Room:
    """Which trial has room on the cluster now; nodes come and go."""

    def __init__(self, nodes: Callable[[], Sequence[Node]]):
        self._alive = nodes
        self._nodes: Sequence[Node] = ()
        self._at = float("-inf")

    def first_that_fits(self, wanted: Sequence[Slot], taken: Iterable[Slot]) -> int | None:
        """Return the place of the first slot for which there is room beside those that are taken, or None.

        One that must wait keeps the node that is nearest to having room for it, so that smaller ones do not take every
        GPU that comes free there; on the other nodes those behind it go ahead.
        """
        taken = sorted(taken, key=lambda slot: (slot.gpu_type is None, -slot.gpus, -slot.cpus))
        # Whoever asks for no type of GPU is taken to be where nobody asks for the type.
        named = {f"{ACCELERATOR}{slot.gpu_type}" for slot in (*taken, *wanted) if slot.gpu_type}
        nodes = sorted(self.nodes, key=lambda node: not named.isdisjoint(node))
        free = [_Free(node) for node in nodes]
        for slot in taken:
            if (node := _node_for(slot, free)) is not None:
                node.take(slot)
        for place, slot in enumerate(wanted):
            if _node_for(slot, free) is not None:
                return place
            able = [node for node, whole in zip(free, nodes, strict=True) if node.open and _Free(whole).holds(slot)]
            if able:
                max(able, key=lambda node: (sum(node.gpus), node.amounts.get("CPU", 0))).open = False
        return None

    @property
    def nodes(self) -> Sequence[Node]:
        """Those that are alive, counted a moment ago at most."""
        if time.monotonic() - self._at > SECONDS_BETWEEN_COUNTS:
            self._nodes = self._alive()
            self._at = time.monotonic()
        return self._nodes


class _Free:
    """What is free on a node: amounts, and of each GPU how much, since a trial's share is one of a single GPU."""

    def __init__(self, node: Node):
        self.amounts = dict(node)
        self.gpus = [1.0] * int(self.amounts.pop("GPU", 0))
        self.open = True

    def holds(self, slot: Slot) -> bool:
        asked = _without_gpus(slot)
        enough = all(self.amounts.get(name, 0) >= amount - ROUNDING for name, amount in asked.items())
        return self.open and enough and len(self._chosen(slot)) >= math.ceil(slot.gpus)

    def take(self, slot: Slot) -> None:
        for name, amount in _without_gpus(slot).items():
            self.amounts[name] -= amount
        for index in self._chosen(slot)[: math.ceil(slot.gpus)]:
            self.gpus[index] -= min(slot.gpus, 1.0)

    def _chosen(self, slot: Slot) -> list[int]:
        """Return the GPUs with room, the fullest first, as Ray has it: whole ones stay for those that need them."""
        room = [index for index, free in enumerate(self.gpus) if free >= min(slot.gpus, 1.0) - ROUNDING]
        return sorted(room, key=self.gpus.__getitem__)


def _without_gpus(slot: Slot) -> dict[str, float]:
    return {name: amount for name, amount in slot.as_ray().items() if name != "GPU"}


def _node_for(slot: Slot, nodes: Sequence[_Free]) -> _Free | None:
    """Return the first node with room for a slot."""
    return next((node for node in nodes if node.holds(slot)), None)
