"""The test partition is read once per winner, whatever becomes of the study file in between."""

from types import SimpleNamespace

from search import ray_cluster
from search.study import StudyRun
from search.study_state import StudyState
from tests.search.recorded import Search


def run_of(search, trials, asked):
    """A study that asks for some of the trials, and keeps which of them were measured."""
    run = StudyRun.__new__(StudyRun)
    desk = SimpleNamespace(state=search.state, record=search.record, progress=SimpleNamespace(note=lambda _: None))
    for name, value in {"desk": desk, "slots": SimpleNamespace(of=lambda _: None)}.items():
        object.__setattr__(run, name, value)
    return run, {trial: SimpleNamespace(cell=SimpleNamespace(name="cell")) for trial in trials if trial in asked}


def test_a_winner_is_measured_once_though_another_stood_for_its_cell_meanwhile(monkeypatch):
    search = Search({"a": [0.7, 0.8], "b": [0.8, 0.9]})
    search.run()
    measured = []

    def each(_, orders, __):
        measured.extend(orders)
        return [(index, {"metrics": {}}) for index in range(len(orders))]

    monkeypatch.setattr(ray_cluster, "each", each)
    monkeypatch.setattr(StudyRun, "_evaluation_order", lambda self, trial, winner: winner.trial)
    for asked, winner in (("ab", "b"), ("a", "a"), ("ab", "b"), ("ab", "b"), ("a", "a")):
        run, trials = run_of(search, "ab", asked)
        run.evaluate_winners(trials)
        assert search.state.evaluated["cell"]["trial"] == winner
        assert StudyState.of(search.events).evaluated == search.state.evaluated
    assert measured == ["b", "a"]
    kinds = [event["kind"] for event in search.events if event["kind"] in {"evaluated", "chosen"}]
    assert kinds == ["evaluated", "evaluated", "chosen", "chosen"]
