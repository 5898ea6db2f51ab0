"""Which trial stands for its cell, and which one goes on where none would."""

import pytest

from search import selection
from search.study_state import OVER_BUDGET, StudyState
from tests.search.recorded import PRIMARY, Search

DROPPED, FAILED, UNDEFINED, LIVE = "dropped", "failed", "undefined", "live"


def ended(points, *, direction="maximize") -> StudyState:
    """Return where a cell stands whose points have these seeds: a best value, or what became of it instead."""
    seeds = {f"{point}{n}": end for point, ends in points.items() for n, end in enumerate(ends)}
    searched = {trial: float(list(points).index(trial[0])) for trial in seeds}
    search = Search({trial: [0.5] for trial in seeds}, searched=searched, direction=direction)
    for trial, end in seeds.items():
        if end == LIVE:
            continue
        state = {DROPPED: "PRUNED", FAILED: "FAILED"}.get(end, "COMPLETE")
        value = end if isinstance(end, float) else None
        result = {"state": "COMPLETE", "epochs": 1, "best_epoch": value and 1, "best_value": value, "checkpoint": "c"}
        told = {"state": state, "reason": OVER_BUDGET if end == DROPPED else "", "time_ms": 0}
        search.record({"kind": "ended", "trial": trial, **told, "result": result if state == "COMPLETE" else None})
    return search.state


@pytest.mark.parametrize(
    ("points", "larger", "smaller"),
    [
        ({"a": [0.7], "b": [0.9], "c": [0.8]}, "b0", "a0"),
        ({"a": [0.8], "b": [0.8]}, "a0", "a0"),  # the first of equals
        ({"a": [0.7, 0.8], "b": [0.9, 0.5]}, "a1", "b1"),  # the best mean, and its best seed
        ({"a": [0.7, 0.8], "b": [0.9, FAILED], "c": [0.1, FAILED]}, "a1", "a0"),  # of the most seeds
        ({"a": [0.7, 0.8], "b": [0.9, UNDEFINED], "c": [0.1, UNDEFINED]}, "a1", "a0"),
        ({"a": [0.7, 0.8], "b": [0.9, DROPPED], "c": [0.1, DROPPED]}, "b0", "c0"),  # which is not the point's fault
        ({"a": [0.7, LIVE], "b": [0.9, FAILED]}, "b0", "a0"),
        ({"a": [FAILED], "b": [UNDEFINED], "c": [DROPPED], "d": [LIVE]}, None, None),
    ],
)
def test_the_winner_is_the_best_seed_of_the_point_with_the_best_mean(points, larger, smaller):
    for direction, expected in (("maximize", larger), ("minimize", smaller)):
        state = ended(points, direction=direction)
        asked = dict.fromkeys([*state.trials, "not entered yet"], "cell")
        assert [winner.trial for winner in selection.winners(state, asked)] == ([expected] if expected else [])


def test_a_winner_is_told_with_its_value_and_checkpoint_in_the_order_of_the_cells():
    state = ended({"a": [0.7], "b": [0.9]})
    found = selection.winners(state, {"b0": "second", "a0": "first"})
    assert found == [selection.Winner("second", "b0", 0.9, "c"), selection.Winner("first", "a0", 0.7, "c")]


@pytest.mark.parametrize(
    ("trials", "larger", "smaller"),
    [
        ({"a": ("PRUNED", 0.5), "b": ("PRUNED", 0.6), "c": ("FAILED", 0.9)}, "b", "a"),
        ({"a": ("PRUNED", None), "b": ("PRUNED", 0.6)}, "b", "b"),
        ({"a": ("PRUNED", None), "b": ("FAILED", None)}, "a", "a"),
        ({"a": ("PRUNED", 0.5), "b": ("COMPLETE", 0.4)}, None, None),
        ({"a": ("PRUNED", 0.5), "b": (None, 0.4)}, None, None),  # it will finish
        ({"a": ("FAILED", 0.5), "b": ("FAILED", 0.4)}, None, None),
        ({"a": ("PRUNED", 0.5), "not entered yet": None}, None, None),
    ],
)
def test_the_best_of_the_stopped_is_brought_back_where_none_is_left(trials, larger, smaller):
    for direction, expected in (("maximize", larger), ("minimize", smaller)):
        search = Search({trial: [0.5] for trial, told in trials.items() if told}, direction=direction)
        for trial, (state, value) in ((trial, told) for trial, told in trials.items() if told):
            metrics = {} if value is None else {PRIMARY: value}
            search.record({"kind": "epoch", "trial": trial, "epoch": 1, "timestamp_ms": 0, "metrics": metrics})
            if state:
                search.record(
                    {"kind": "ended", "trial": trial, "state": state, "reason": "", "time_ms": 0, "result": None}
                )
        assert selection.to_bring_back(search.state, list(trials)) == expected
