"""Reports that arrive at the same time: one sync for all of them, and the same outcome as one by one."""

import errno
import os
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search import ledger
from search.desk import Desk
from search.dispatcher import Dispatcher
from search.errors import StudyError
from search.ledger import Ledger
from search.resources import Slot
from search.schedule import Entry, Schedule
from search.study_config import StudyConfig
from search.study_sections import Pruning
from search.study_state import StudyState
from search.worker import WorkOrder
from tests.search.recorded import PRIMARY, Clock, opening
from trainers.trial import EpochMetrics, Operation, TrialConfig

AXES = {"dataset": "phantom", "initialization": "random", "backbone": "test_vit3", "resolution": 32}
EPOCHS = 6
CURVES = {
    "a": [0.5, 0.6, 0.7, 0.8, 0.8, 0.9],
    "b": [0.5, 0.5, 0.5, 0.5, 0.5, 0.5],
    "c": [0.4, 0.4, 0.4, 0.4, 0.4, 0.4],
    "d": [0.6, 0.7, 0.8, 0.9, 0.9, 0.9],
}
# It stops trials at any epoch by what the others of the cell have shown so far.
HALVING = Pruning.model_validate(
    {
        "pruner": "SuccessiveHalvingPruner",
        "settings": {"min_resource": 1, "reduction_factor": 2},
        "spare_share": 0.0,
    }
)


class Listener:
    """A delivery and a progress that count what they hear."""

    def __init__(self):
        self.heard = 0

    def notify(self):
        self.heard += 1

    def update(self, state):
        pass


class Backend:
    """Ray's part by hand: every trial has a slot, and reports when it is told to."""

    def __init__(self, path):
        self.path = path
        self.listener = Listener()
        self.ledger = Ledger(path)
        study = StudyConfig.model_validate({"name": "together", "axes": AXES})
        self.desk = Desk(study, self.ledger, self.listener, self.listener)
        entries = [
            Entry(trial, "cell", "cell", {"x": float(i)}, len(curve)) for i, (trial, curve) in enumerate(CURVES.items())
        ]
        self.desk.record(*opening(entries))
        schedule = Schedule(entries, state=self.desk.state, pruning=HALVING, record=self.desk.record, now=Clock())
        self.dispatcher = Dispatcher(
            schedule,
            order=self._order,
            slot_of=lambda trial: Slot(1),
            after_trial=lambda trial: None,
            nodes=lambda: [{"CPU": len(CURVES)}],
            together=self.desk.together,
        )
        self.trials = {}
        for number in range(len(CURVES)):
            order, _ = self.dispatcher.assign(f"tune{number}")
            self.trials[order.trial] = f"tune{number}"
        self.told = dict.fromkeys(CURVES, 0)

    def _order(self, assignment):
        config = TrialConfig(
            dataset={"name": "d", "source": "d"},
            initialization="r",
            backbone="b",
            resolution=32,
            recipe={"epochs": EPOCHS},
        )
        operation = Operation(data_root=self.path, cache=self.path, trial_folder=self.path)
        return WorkOrder(trial=assignment.trial, config=config, operation=operation, until_epoch=EPOCHS, told_epochs=0)

    def report(self, names, *, together):
        """Let live trials report their next epoch; return who goes on, and let go who does not."""
        messages = {}
        for name in sorted(set(names) & set(self.trials)):
            self.told[name] += 1
            value = CURVES[name][self.told[name] - 1]
            told = EpochMetrics(epoch=self.told[name], timestamp_ms=self.told[name], metrics={PRIMARY: value})
            messages[self.trials[name]] = {"epoch": told.model_dump_json()}
        arrived = dict(reversed(messages.items())) if together else {}  # in whatever order they came
        answers = {tune: self.dispatcher.told(tune, message, lambda: arrived) for tune, message in messages.items()}
        for name, tune in list(self.trials.items()):
            if not answers.get(tune, True) or self.told[name] == EPOCHS:
                self.dispatcher.left(tune)
                del self.trials[name]
        return answers

    def events(self):
        kept = ledger.read(self.path).events
        return [{k: v for k, v in event.items() if k != "time_ms"} for event in kept if event["kind"] != "study"]


def test_what_arrives_together_costs_one_sync(tmp_path, monkeypatch):
    backend, syncs = Backend(tmp_path / "ledger.jsonl"), []
    monkeypatch.setattr(ledger, "_sync", syncs.append)
    heard = backend.listener.heard
    assert sorted(backend.report(CURVES, together=True).values()) == [False, True, True, True]
    assert len(syncs) == 1  # four epochs, a decision and an end
    assert backend.listener.heard == heard + 1


@settings(max_examples=30)
@given(rounds=st.lists(st.sets(st.sampled_from(sorted(CURVES)), min_size=1), min_size=EPOCHS, max_size=12))
def test_the_outcome_is_the_same_as_one_by_one(rounds, tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    alone, together = Backend(folder / "one.jsonl"), Backend(folder / "many.jsonl")
    for names in rounds:
        assert alone.report(names, together=False) == together.report(names, together=True)
    assert alone.events() == together.events()
    assert StudyState.of(ledger.read(together.path).events).trials == together.desk.state.trials


def test_trials_end_in_the_middle_of_what_arrives_together(tmp_path):
    """So the property above compares decisions, too."""
    backend = Backend(tmp_path / "ledger.jsonl")
    for _ in range(EPOCHS):
        backend.report(CURVES, together=True)
    kinds = [event["kind"] for event in backend.events()]
    assert "ended" in kinds
    assert "epoch" in kinds[kinds.index("ended") :]


def test_a_failing_write_acknowledges_none_of_them(tmp_path, monkeypatch):
    backend = Backend(tmp_path / "ledger.jsonl")
    backend.report(CURVES, together=True)
    before, heard, real = backend.events(), backend.listener.heard, os.write

    def full(file, content):
        real(file, bytes(content[: len(content) // 2]))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ledger.os, "write", full)
    with pytest.raises(StudyError, match="No space left"):
        backend.report(CURVES, together=True)
    assert backend.events() == before
    assert backend.listener.heard == heard
    assert backend.dispatcher._answers == {}
    monkeypatch.undo()
    backend.ledger.close()
    with Ledger(backend.path) as opened:
        state = StudyState.of(opened.events)
    assert {trial: len(progress.epochs) for trial, progress in state.trials.items()} == dict.fromkeys(CURVES, 1)


def test_an_answer_is_forgotten_when_its_trial_is_lost(tmp_path):
    """Its process died after its report had arrived: the epoch counts, the trial goes on elsewhere."""
    backend = Backend(tmp_path / "ledger.jsonl")
    told = EpochMetrics(epoch=1, timestamp_ms=1, metrics={PRIMARY: 0.5}).model_dump_json()
    messages = {tune: {"epoch": told} for tune in backend.trials.values()}
    first, second, *_ = messages
    assert backend.dispatcher.told(first, messages[first], lambda: messages)
    backend.dispatcher.lost(second, "The actor died unexpectedly")
    assert second not in backend.dispatcher._answers
    (trial,) = (name for name, tune in backend.trials.items() if tune == second)
    progress = backend.desk.state.trials[trial]
    assert list(progress.epochs) == [1]
    assert [event["class"] for event in progress.interruptions] == ["process_died"]


def test_a_message_of_somebody_who_was_given_up_is_no_report(tmp_path):
    backend = Backend(tmp_path / "ledger.jsonl")
    told = EpochMetrics(epoch=1, timestamp_ms=1, metrics={PRIMARY: 0.5}).model_dump_json()
    tune = next(iter(backend.trials.values()))
    assert backend.dispatcher.told(tune, {"epoch": told}, lambda: {"given up": {"epoch": told}})
    assert sum(event["kind"] == "epoch" for event in backend.events()) == 1


def test_a_full_disk_ends_all_that_runs_and_starts_nothing_more(tmp_path):
    """Tune logs what is raised where a trial ends, and would go on."""
    backend = Backend(tmp_path / "ledger.jsonl")
    failed, *others = sorted(backend.trials)
    tune = backend.trials.pop(failed)
    failure = {"failure": "No space left on device", "failure_kind": "disk_full", "log": ""}
    assert backend.dispatcher.told(tune, failure, dict)
    backend.dispatcher.left(tune)
    assert "its disk is full; the study stops" in str(backend.dispatcher.problem)
    assert backend.dispatcher.assign("another") is None
    assert not backend.dispatcher.over  # the others have slots
    assert set(backend.report(others, together=True).values()) == {False}
    assert backend.trials == {}
    assert backend.dispatcher.over
    kinds = [event["kind"] for event in backend.events() if event.get("trial") == failed]
    assert kinds[-1] == "interrupted"  # the next run takes it up again


def test_a_ledger_that_could_not_be_opened_with_the_study_is_not_closed_either(tmp_path, monkeypatch):
    """The disk was full and has room again: the next run begins as if this one had never been."""
    listener = Listener()
    study = StudyConfig.model_validate({"name": "full", "axes": AXES})

    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    with Ledger(tmp_path / "ledger.jsonl") as opened:
        desk = Desk(study, opened, listener, listener)
        monkeypatch.setattr(ledger, "_sync", full)
        with pytest.raises(StudyError, match="No space left"), desk.closing():
            try:
                desk.record({"kind": "trial"})
            finally:
                monkeypatch.undo()
    assert ledger.read(tmp_path / "ledger.jsonl").events == ()


@pytest.mark.parametrize(
    ("ends_by", "status"), [(None, "FINISHED"), (KeyboardInterrupt, "KILLED"), (StudyError, "FAILED")]
)
def test_a_run_says_once_what_is_asked_for_and_how_it_ended(tmp_path, ends_by, status):
    listener, path = Listener(), tmp_path / "ledger.jsonl"
    asked = [StudyConfig.model_validate({"name": "s", "axes": AXES, "seeds": seeds}) for seeds in ([0], [1])]
    trial = {"kind": "trial", "cell": "c", "axes": {}, "searched": {}, "seed": 0, "config": {}, "dataset_key": "k"}
    for study in asked:
        with Ledger(path) as opened:
            desk = Desk(study, opened, listener, listener)
            with suppress(*filter(None, [ends_by])), desk.closing():
                desk.record({**trial, "trial": str(study.seeds)})
                desk.record()
                if ends_by:
                    raise ends_by
        with Ledger(path) as opened, (desk := Desk(study, opened, listener, listener)).closing():
            pass  # it finds nothing to do
        assert desk.earlier_study["seeds"] == study.seeds
    events = ledger.read(path).events
    assert [event["kind"] for event in events] == ["study", "trial", "closed"] * 2
    assert [event["status"] for event in events if event["kind"] == "closed"] == [status] * 2
    (first, again) = (event for event in events if event["kind"] == "study")
    assert [first["study"]["seeds"], again["study"]["seeds"]] == [[0], [1]]
    assert len(first["origin"]) == 16
    assert again["origin"] == first["origin"]  # by it its runs are known on a server
