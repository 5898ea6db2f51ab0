"""What a run is called: in MLflow's tables a name is all that most people read of it."""

import pytest

from search.study_folder import StudyFolder
from search.tracking_receiver import TrackingReceiver
from tests.search.recorded import DECLARATION


class Kept:
    """A tracker that keeps the names of the runs it is asked to open, their tags and what was measured."""

    def __init__(self):
        self.opened = []
        self.identities = set()
        self.renamed = {}
        self.tags = {}
        self.measured = []
        self.metrics = []
        self.finished = []
        self.versions = []

    def finish(self, identity, status, time_ms):
        self.finished.append((identity, status, time_ms))

    def open(self, run, *, parent=None):
        self.opened.append(run.name)
        self.identities.add(run.identity)
        if parent is not None:
            self.versions.append(run.tags["radsweep.version"])

    def reopen(self, identity):
        if identity not in self.identities:
            raise KeyError(identity)

    def rename(self, identity, name, *, instead_of):
        self.renamed[identity] = (instead_of, name)

    def log(self, identity, measurements):
        self.measured.append(identity)
        self.metrics += [(each.step, each.metrics) for each in measurements]

    def tag(self, identity, tags):
        self.tags.setdefault(identity, {}).update(tags)

    def log_artifacts(self, identity, folder, artifact_path):
        pass


def events(axes, seeds):
    cell = {"dataset": "phantom", "initialization": "imagenet", "resolution": 224}
    return [
        {"kind": "study", "study": {"name": "s", "axes": axes, "seeds": seeds}, "version": "v", "time_ms": 1},
        {"kind": "data", "key": "k", "dataset": "phantom", "fingerprint": "f"},
        {
            "kind": "trial",
            "trial": "t",
            "cell": "/".join(map(str, cell.values())),
            "axes": cell,
            "searched": {"learning_rate": 1e-4},
            "seed": 1,
            "config": {},
            "dataset_key": "k",
        },
        {"kind": "started", "trial": "t", "time_ms": 2},
    ]


@pytest.mark.parametrize(
    ("axes", "seeds", "name"),
    [
        ({"dataset": ["phantom"], "initialization": ["imagenet"], "resolution": [224, 512]}, [0, 1],
         "224 learning_rate=0.0001 seed=1"),
        ({"dataset": ["phantom"], "initialization": ["random", "imagenet"], "resolution": [224, 512]}, [1],
         "imagenet 224 learning_rate=0.0001"),
        ({"dataset": ["phantom"], "initialization": ["imagenet"], "resolution": [224]}, [1],
         "phantom/imagenet/224 learning_rate=0.0001"),
    ],
)  # fmt: skip
def test_a_run_is_named_by_what_tells_it_from_the_others(tmp_path, axes, seeds, name):
    tracker = Kept()
    TrackingReceiver(tracker, StudyFolder(tmp_path, "s"), []).receive(events(axes, seeds))
    assert tracker.opened == ["s", name]


def test_a_trial_says_which_code_trained_it(tmp_path):
    told, tracker = events({"resolution": [224]}, [1]), Kept()
    receiver = TrackingReceiver(tracker, StudyFolder(tmp_path, "s"), [])
    receiver.receive(told)
    assert tracker.versions == ["v"]
    ended = {"kind": "ended", "trial": "t", "state": "FAILED", "reason": "", "time_ms": 5, "result": None}
    receiver.receive([{**told[0], "version": "w"}, {**told[-1], "time_ms": 4}, ended])
    assert tracker.tags["t"]["radsweep.version"] == "v, w"
    receiver.receive([told[0], {**told[-1], "time_ms": 6}, {**ended, "time_ms": 7}])  # and the first one again
    assert tracker.tags["t"]["radsweep.version"] == "w, v"


def test_a_trial_that_a_run_leaves_unfinished_is_paused_until_the_next(tmp_path):
    told, tracker = events({"resolution": [224]}, [1]), Kept()
    receiver = TrackingReceiver(tracker, StudyFolder(tmp_path, "s"), [])
    receiver.receive([*told, {"kind": "closed", "status": "KILLED", "time_ms": 3}])
    assert tracker.tags["t"]["radsweep.state"] == "PAUSED"
    receiver.receive([told[0], {**told[-1], "time_ms": 4}])
    assert tracker.tags["t"]["radsweep.state"] == "RUNNING"


@pytest.mark.parametrize(("state", "status"), [("COMPLETE", "FINISHED"), ("PRUNED", "KILLED"), ("FAILED", "FAILED")])
def test_how_a_trial_ended_is_told_in_the_words_of_mlflow(tmp_path, state, status):
    told, tracker = events({"resolution": [224]}, [1]), Kept()
    never = {**told[2], "trial": "never begun"}
    ended = {"kind": "ended", "state": state, "reason": "why", "time_ms": 5, "result": None}
    both = [{**ended, "trial": "t"}, {**ended, "trial": "never begun"}]
    closed = {"kind": "closed", "status": "FINISHED", "time_ms": 9}
    receiver = TrackingReceiver(tracker, StudyFolder(tmp_path, "s"), [])
    receiver.receive([*told, never, {**never, "trial": "waits"}, *both, closed])
    assert tracker.finished == [("t", status, 5), ("s", "FINISHED", 9)]
    assert tracker.tags["t"]["radsweep.state"] == state
    assert tracker.tags["t"]["radsweep.reason"] == "why"
    assert set(tracker.tags) == {"t"}


def test_a_metric_that_becomes_defined_is_no_longer_called_undefined(tmp_path):
    told, tracker, seen = events({"resolution": [224]}, [1]), Kept(), []
    told[1] |= {"declaration": DECLARATION}
    epoch = {"kind": "epoch", "trial": "t", "timestamp_ms": 1, "metrics": {"val/a": 0.5}}
    epochs = [
        {**epoch, "epoch": number, "undefined": undefined}
        for number, undefined in enumerate((["val/b", "val/c"], ["val/b"], []), 1)
    ]
    receiver = TrackingReceiver(tracker, StudyFolder(tmp_path, "s"), [])
    receiver.receive(told)
    for number, each in enumerate(epochs):
        if number == 2:  # as after a failure
            receiver = TrackingReceiver(tracker, StudyFolder(tmp_path, "s"), [*told, *epochs[:number]])
        receiver.receive([each])
        seen.append(tracker.tags["t"]["radsweep.undefined_metrics"])
    assert seen == ["val/b, val/c", "val/b", ""]


def test_a_winner_that_is_measured_again_gets_rows_for_what_came_out_otherwise(tmp_path):
    told, tracker = events({"dataset": ["phantom"]}, [1]), Kept()
    result = {"state": "COMPLETE", "epochs": 3, "best_epoch": 2, "best_value": 0.8}
    told.append({"kind": "ended", "trial": "t", "state": "COMPLETE", "reason": "", "time_ms": 3, "result": result})
    measured = {"kind": "evaluated", "trial": "t", "cell": told[2]["cell"], "time_ms": 4}
    first, again, last = (measured | {"metrics": {"test/a": 0.7, "test/b": b}} for b in (0.6, 0.5, 0.4))
    receiver = TrackingReceiver(tracker, StudyFolder(tmp_path, "s"), [])
    receiver.receive([*told, first])
    receiver.receive([again])
    TrackingReceiver(tracker, StudyFolder(tmp_path, "s"), [*told, first, again]).receive([last])
    assert tracker.metrics == [(2, {"test/a": 0.7, "test/b": 0.6}), (2, {"test/b": 0.5}), (2, {"test/b": 0.4})]


def test_a_study_that_grows_renames_the_runs_it_had_and_one_that_shrinks_none(tmp_path):
    """A second initialization, then a second seed, then neither: every run stays told from every other."""
    one, both = {"initialization": ["imagenet"], "resolution": [224, 512]}, {"initialization": ["random", "imagenet"]}
    study, data, trial, started = events(one, [1])
    random = {**trial["axes"], "initialization": "random"}

    def grown(axes, seeds):
        return {**study, "study": {**study["study"], "axes": one | axes, "seeds": seeds}}

    tracker = Kept()
    receiver = TrackingReceiver(tracker, StudyFolder(tmp_path, "s"), [])
    first = [study, data, trial, started]
    receiver.receive(first)
    second = [grown(both, [1]), {**trial, "trial": "r", "axes": random}, {**started, "trial": "r"}]
    receiver.receive(second)
    assert tracker.opened[1:] == ["224 learning_rate=0.0001", "s", "random 224 learning_rate=0.0001"]
    assert tracker.renamed == {"t": ("224 learning_rate=0.0001", "imagenet 224 learning_rate=0.0001")}

    tracker.renamed.clear()
    again = TrackingReceiver(tracker, StudyFolder(tmp_path, "s"), [*first, *second])
    again.receive([grown(both, [1, 2]), {**trial, "trial": "t2", "seed": 2}, {**started, "trial": "t2"}])
    assert tracker.opened[-1] == "imagenet 224 learning_rate=0.0001 seed=2"
    assert {trial: name for trial, (_, name) in tracker.renamed.items()} == {
        "t": "imagenet 224 learning_rate=0.0001 seed=1",
        "r": "random 224 learning_rate=0.0001 seed=1",
    }

    tracker.renamed.clear()
    again.receive([study])
    assert tracker.renamed == {}


def test_of_the_trials_of_a_cell_that_were_ever_measured_one_is_its_winner(tmp_path):
    """A changed study has another winner, and the first one again when changed back; neither is measured twice."""
    study, data, trial, started = events({"dataset": ["phantom"]}, [1])
    both = [{**event, "trial": name} for name in "ab" for event in (trial, started)]
    elsewhere = [{**trial, "trial": "other", "cell": "of another cell"}, {**started, "trial": "other"}]

    def measured(name, time_ms):
        return {"kind": "evaluated", "trial": name, "cell": trial["cell"], "time_ms": time_ms, "metrics": {}}

    tracker = Kept()
    receiver = TrackingReceiver(tracker, StudyFolder(tmp_path, "s"), [])
    receiver.receive([study, data, *both, *elsewhere, {**measured("other", 2), "cell": "of another cell"}])
    receiver.receive([measured("a", 3)])
    assert [tracker.tags.get(name, {}).get("radsweep.winner") for name in "ab"] == ["true", None]
    receiver.receive([measured("b", 4)])
    assert [tracker.tags[name]["radsweep.winner"] for name in "ab"] == ["false", "true"]
    receiver.receive([{"kind": "chosen", "trial": "a", "cell": trial["cell"], "time_ms": 5}])
    assert [tracker.tags[name]["radsweep.winner"] for name in "ab"] == ["true", "false"]
    assert tracker.measured == ["other", "a", "b"]
    assert tracker.tags["other"]["radsweep.winner"] == "true"


def test_a_trial_that_never_began_has_no_run_to_be_reopened(tmp_path):
    """A budget dropped it before its start, and a larger one brings it back."""
    study, data, trial, started = events({"dataset": ["phantom"]}, [1])
    dropped = {"kind": "ended", "trial": "t", "state": "PRUNED", "reason": "budget: none left", "time_ms": 2}
    tracker = Kept()
    receiver = TrackingReceiver(tracker, StudyFolder(tmp_path, "s"), [])
    receiver.receive([study, data, trial, {**dropped, "result": None}])
    receiver.receive([study, {"kind": "reopened", "trial": "t", "reason": "the budget was raised"}])
    assert tracker.opened == ["s", "s"]
    receiver.receive([started])
    assert len(tracker.opened) == 3
