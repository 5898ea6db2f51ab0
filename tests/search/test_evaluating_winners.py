"""The test partition is read once per winner, whatever becomes of the study file in between."""

from types import SimpleNamespace

from search import ray_cluster
from search.study import StudyRun
from search.study_folder import StudyFolder
from search.study_sections import Pruning
from search.study_state import StudyState
from tests.search.recorded import Search


def run_of(search, trials, asked, folder):
    """A study that asks for some of the trials, and keeps which of them were measured."""
    run = StudyRun.__new__(StudyRun)
    desk = SimpleNamespace(state=search.state, record=search.record, progress=SimpleNamespace(note=lambda _: None))
    parts = {"desk": desk, "slots": SimpleNamespace(of=lambda _: None), "folder": StudyFolder(folder, "s")}
    for name, value in parts.items():
        object.__setattr__(run, name, value)
    return run, {trial: SimpleNamespace(cell=SimpleNamespace(name="cell")) for trial in trials if trial in asked}


def with_weights(folder, *trials):
    for trial in trials:
        (StudyFolder(folder, "s").trial(trial) / "best").mkdir(parents=True)


def test_a_winner_is_measured_once_though_another_stood_for_its_cell_meanwhile(monkeypatch, tmp_path):
    search = Search({"a": [0.7, 0.8], "b": [0.8, 0.9]})
    search.run()
    with_weights(tmp_path, "a", "b")
    measured = []

    def each(_, orders, __):
        measured.extend(orders)
        return [(index, {"metrics": {}}) for index in range(len(orders))]

    monkeypatch.setattr(ray_cluster, "each", each)
    monkeypatch.setattr(StudyRun, "_evaluation_order", lambda self, trial, winner: winner.trial)
    for asked, winner in (("ab", "b"), ("a", "a"), ("ab", "b"), ("ab", "b"), ("a", "a")):
        run, trials = run_of(search, "ab", asked, tmp_path)
        run.evaluate_winners(trials)
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
    run, trials = run_of(search, "ab", "ab", tmp_path)
    assert not run.reopen_winners_without_weights(trials)
    run, trials = run_of(search, "ab", "a", tmp_path)
    assert run.reopen_winners_without_weights(trials)
    again = Search({"a": [0.7, 0.8]}, events=search.events, pruning=Pruning(pruner="none"))
    assert not again.state.trials["a"].done
    again.run()
    with_weights(tmp_path, "a")
    run, trials = run_of(again, "ab", "a", tmp_path)
    assert not run.reopen_winners_without_weights(trials)
    assert [event["kind"] for event in again.events].count("epoch") == 4  # none is told twice
