"""The test partition is read once per winner, whatever becomes of the study file in between."""

import hashlib
from types import SimpleNamespace

import pytest

from search import ray_cluster
from search.errors import StudyError
from search.grid import expand, external_datasets
from search.identity import key_of
from search.study_config import StudyConfig
from search.study_folder import StudyFolder
from search.study_sections import Pruning
from search.study_state import StudyState
from search.winners import Winners
from search.worker import DatasetPlace
from tests.search.recorded import Search
from trainers.trial import Operation

AXES = {"dataset": "phantom", "initialization": "random", "backbone": "test_vit3", "resolution": 32}


def winners_of(search, asked, folder, evaluation=None, data=None):
    """The winners of a study that asks for some of the trials."""
    desk = SimpleNamespace(state=search.state, record=search.record, progress=SimpleNamespace(note=lambda _: None))
    config = SimpleNamespace(dataset=SimpleNamespace(name="phantom"))
    trial = SimpleNamespace(cell=SimpleNamespace(name="cell"), config=config)
    content = {"name": "s", "axes": AXES, "evaluation": evaluation or {}, "data": data or {}}
    study = StudyConfig.model_validate(content)
    trials = dict.fromkeys(asked, trial)
    nothing = {"place_of": None, "operation_of": None, "slot_of": lambda _: None}
    return Winners(study, StudyFolder(folder, "s"), desk, trials, **nothing)


def with_weights(folder, *trials):
    for trial in trials:
        (StudyFolder(folder, "s").trial(trial) / "best").mkdir(parents=True)


def measuring(monkeypatch):
    """Measure nothing, and return what is to be measured as it is asked for."""
    told = []

    def each(_, orders, __):
        told.extend(orders)
        return [(index, {"metrics": {}}) for index in range(len(orders))]

    monkeypatch.setattr(ray_cluster, "each", each)
    return told


def test_a_winner_is_measured_once_though_another_stood_for_its_cell_meanwhile(monkeypatch, tmp_path):
    search = Search({"a": [0.7, 0.8], "b": [0.8, 0.9]})
    search.run()
    with_weights(tmp_path, "a", "b")
    measured = measuring(monkeypatch)
    monkeypatch.setattr(Winners, "_order", lambda self, winner: winner.trial)
    for asked, winner in (("ab", "b"), ("a", "a"), ("ab", "b"), ("ab", "b"), ("a", "a")):
        winners_of(search, asked, tmp_path).measure()
        assert search.state.evaluated["cell"]["trial"] == winner
        assert StudyState.of(search.events).evaluated == search.state.evaluated
    assert measured == ["b", "a"]
    kinds = [event["kind"] for event in search.events if event["kind"] in {"evaluated", "chosen"}]
    assert kinds == ["evaluated", "evaluated", "chosen", "chosen"]


def test_a_winner_whose_weights_were_removed_is_trained_again(tmp_path):
    """`budget.checkpoint_gb` kept those of another, which the study file asks for no more."""
    search = Search({"a": [0.7, 0.8], "b": [0.8, 0.9]}, pruning=Pruning(pruner="none"))
    search.run()
    with_weights(tmp_path, "b")
    (StudyFolder(tmp_path, "s").trial("a") / "last-0002-000000").mkdir(parents=True)
    assert not winners_of(search, "ab", tmp_path).reopen_without_weights()
    assert winners_of(search, "a", tmp_path).reopen_without_weights()
    assert not list(StudyFolder(tmp_path, "s").trial("a").glob("*"))  # what is left would go on where it ended
    again = Search({"a": [0.7, 0.8]}, events=search.events, pruning=Pruning(pruner="none"))
    assert not again.state.trials["a"].done
    again.run()
    with_weights(tmp_path, "a")
    assert not winners_of(again, "a", tmp_path).reopen_without_weights()
    assert not winners_of(again, "a", tmp_path).reopen_without_weights(measured=True)
    assert [event["kind"] for event in again.events].count("epoch") == 4  # none is told twice


def test_a_measured_winner_without_weights_is_trained_again_when_asked_and_measured_where_they_differ(
    monkeypatch, tmp_path
):
    search = Search({"a": [0.7, 0.8]})
    search.run()
    measuring(monkeypatch)
    monkeypatch.setattr(Winners, "_order", lambda self, winner: None)
    with_weights(tmp_path, "a")
    winners_of(search, "a", tmp_path).measure()
    (StudyFolder(tmp_path, "s").trial("a") / "best").rmdir()
    assert not winners_of(search, "a", tmp_path).reopen_without_weights()
    assert winners_of(search, "a", tmp_path).reopen_without_weights(measured=True)
    (end,) = (event for event in search.events if event["kind"] == "ended")
    for weights, measured in (("1", 2), ("1", 2), ("2", 3)):
        search.record(end | {"result": end["result"] | {"checkpoint_sha256": weights}})
        with_weights(tmp_path, "a")
        winners_of(search, "a", tmp_path).measure()
        assert sum(event["kind"] == "evaluated" for event in search.events) == measured
        (StudyFolder(tmp_path, "s").trial("a") / "best").rmdir()


def test_what_the_study_asks_otherwise_is_reckoned_from_the_stored_scores(monkeypatch, tmp_path):
    """Other intervals need no image; another data set is scored, and only that one."""
    search = Search({"a": [0.7, 0.8]})
    search.run()
    with_weights(tmp_path, "a")
    told = measuring(monkeypatch)
    monkeypatch.setattr(Winners, "_order", lambda self, winner: self._stored(winner))
    few, other = {"redraws": 200}, {"external": {"phantom": ["chexpert"]}}
    for evaluation in ({}, few, few, other, {**other, "unit": "case"}, {"unit": "case"}):
        winners_of(search, "a", tmp_path, evaluation).measure()
    assert told == [None, [], [], ["chexpert"], []]  # by order: whose scores are there; None: nobody's
    assert search.state.evaluated["cell"]["asked"]["unit"] == "case"
    (StudyFolder(tmp_path, "s").trial("a") / "best").rmdir()
    assert not winners_of(search, "a", tmp_path, {"redraws": 300}).reopen_without_weights()
    assert winners_of(search, "a", tmp_path, {"external": {"phantom": ["padchest"]}}).reopen_without_weights()


def test_scores_that_are_read_must_be_those_that_were_measured_and_others_may_be_scored_again(monkeypatch, tmp_path):
    """Of another data set's scores those are written anew whose settings changed; a kill may leave them unrecorded."""
    search = Search({"a": [0.7, 0.8]})
    search.run()
    with_weights(tmp_path, "a")
    place = StudyFolder(tmp_path, "s").winner("a")
    place.mkdir(parents=True)
    hashes = {}
    for name in ("scores.parquet", "scores_chexpert.parquet"):
        (place / name).write_bytes(b"measured")
        hashes[name] = hashlib.sha256(b"measured").hexdigest()
    monkeypatch.setattr(ray_cluster, "each", lambda *_: [(0, {"metrics": {}, "sha256": hashes})])
    monkeypatch.setattr(Winners, "_order", lambda self, winner: None)
    external = {"external": {"phantom": ["chexpert"]}}
    winners_of(search, "a", tmp_path, external).measure()
    (place / "scores_chexpert.parquet").write_bytes(b"scored anew, and killed")
    with pytest.raises(StudyError, match=r"scores_chexpert.parquet of trial a was changed since it was measured"):
        winners_of(search, "a", tmp_path, external | {"redraws": 200}).measure()
    changed = winners_of(search, "a", tmp_path, external | {"redraws": 300}, {"uncertain": "ones"})
    changed.measure()
    assert search.state.evaluated["cell"]["asked"]["redraws"] == 300
    (place / "scores.parquet").write_bytes(b"changed")
    with pytest.raises(StudyError, match=r"cell: scores.parquet of trial a was changed since it was measured; restore"):
        winners_of(search, "a", tmp_path, {"redraws": 400}).measure()


def test_where_the_data_say_otherwise_whose_images_they_are_all_is_scored_again(monkeypatch, tmp_path):
    search = Search({"a": [0.7, 0.8]})
    search.run()
    with_weights(tmp_path, "a")
    told = measuring(monkeypatch)
    monkeypatch.setattr(Winners, "_order", lambda self, winner: self._stored(winner))
    (data,) = (event for event in search.events if event["kind"] == "data")
    asked = {"external": {"phantom": ["chexpert"]}}
    (key,) = map(key_of, external_datasets(winners_of(search, "a", tmp_path, asked).study).values())
    for people in ("as published", "as published", "corrected", "corrected"):
        search.record(data | {"people": people})
        winners_of(search, "a", tmp_path, asked).measure()
    assert told == [None, None]
    for redraws, fingerprint in ((200, "f"), (200, "f"), (200, "mended"), (200, "mended"), (300, "mended")):
        search.record({"kind": "external", "key": key, "dataset": "chexpert", "fingerprint": fingerprint})
        winners_of(search, "a", tmp_path, {**asked, "redraws": redraws}).measure()
    assert told == [None, None, ["chexpert"], [], ["chexpert"]]
    found = search.state.evaluated["cell"]["asked"]["data"]
    assert (found["phantom people"], found["chexpert fingerprint"]) == ("corrected", "mended")


def test_a_winner_of_an_earlier_version_is_not_measured_again_because_it_did_not_say_whose_images_they_were(
    monkeypatch, tmp_path
):
    search = Search({"a": [0.7, 0.8]})
    search.run()
    with_weights(tmp_path, "a")
    told = measuring(monkeypatch)
    monkeypatch.setattr(Winners, "_order", lambda self, winner: self._stored(winner))
    (data,) = (event for event in search.events if event["kind"] == "data")
    winners_of(search, "a", tmp_path).measure()
    search.record(data | {"people": "as published"})
    winners_of(search, "a", tmp_path).measure()
    winners_of(search, "a", tmp_path, {"redraws": 200}).measure()
    assert told == [None, []]


def test_a_baseline_is_of_the_data_as_they_are_now():
    search = Search({"a": [0.7, 0.8]})
    (data,) = (event for event in search.events if event["kind"] == "data")
    state = search.state
    assert not state.has_baseline("k")
    state.apply({"kind": "baseline", "key": "k", "rows": []})
    assert state.has_baseline("k")  # of an earlier version, which did not say of which
    for change in ({"people": "p"}, {"people": "corrected"}, {"fingerprint": "other labels"}):
        state.apply(data | change)
        state.apply({"kind": "baseline", "key": "k", "data": state.data_identity("k"), "rows": []})
        assert state.has_baseline("k")
        state.apply(data | change | {"images": {}})
        assert state.has_baseline("k")
        state.apply(data | {"people": "others still"})
        assert not state.has_baseline("k")


def test_a_winner_is_measured_on_the_other_data_sets_of_its_own(tmp_path):
    """The order has its best checkpoint, and those of its own data set among all that the study names."""
    search = Search({"a": [0.7, 0.8]})
    search.run()
    asked = {"redraws": 200, "external": {"phantom": ["chexpert"], "padchest": ["mimic_cxr"]}}
    axes = AXES | {"dataset": ["phantom", "padchest"]}
    study = StudyConfig.model_validate({"name": "s", "axes": axes, "evaluation": asked})
    config = next(trial.config for trial in expand(study).trials if trial.config.dataset.name == "phantom")
    trial, desk = SimpleNamespace(cell=SimpleNamespace(name="cell"), config=config), SimpleNamespace(state=search.state)
    folder = StudyFolder(tmp_path, "s")
    operation = Operation(data_root=tmp_path, cache=tmp_path, trial_folder=folder.trial("a"))
    winners = Winners(
        study,
        folder,
        desk,
        {"a": trial},
        place_of=lambda dataset: DatasetPlace(dataset=dataset, data_root=tmp_path / dataset.name),
        operation_of=lambda _, identity: operation if identity == "a" else None,
        slot_of=lambda _: None,
    )
    order = winners._order(winners.all()[0])
    assert [(place.dataset.name, place.data_root) for place in order.external] == [("chexpert", tmp_path / "chexpert")]
    assert (order.trial, order.cell, order.checkpoint, order.stored) == ("a", "cell", "best", None)
    assert (order.config, order.operation, order.settings) == (config, operation, study.evaluation)
    assert order.folder == folder.winner("a")
    search.record({"kind": "evaluated", "trial": "a", "cell": "cell", "asked": winners._asked_of(winners.all()[0])})
    assert winners._order(winners.all()[0]).stored == ["chexpert"]
