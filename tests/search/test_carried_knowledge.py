"""Cells of lower resolution teach those above how their curves end."""

import random

import pytest

from search.grid import Cell
from search.study_sections import Pruning
from search.teachers import teachers
from tests.search.recorded import Search

EARLY = [0.70, 0.72, 0.73, 0.735, 0.74, 0.74, 0.74, 0.74]
MIDDLE = [0.69, 0.70, 0.705, 0.71, 0.71, 0.71, 0.71, 0.71]
LATE = [0.50, 0.51, 0.52, 0.54, 0.60, 0.75, 0.79, 0.80]
"""Nobody who only saw its beginning would keep it."""
LOW = ("a", "b", "c")


def study(**more) -> Search:
    """Three cheap cells in which the late learner wins, trained in full, and an expensive one of the same kind."""
    curves, cells, points = {}, {}, {}
    for cell in (*LOW, "high"):
        for point, curve in enumerate((EARLY, LATE, MIDDLE), 1):
            name = f"{cell}{point}"
            curves[name], cells[name], points[name] = curve, cell, float(point)
    return Search(curves, cells=cells, searched=points, **more)


def learned(**more) -> Search:
    return study(teachers={"high": LOW}, **more)


def as_if_cheap_cells_were_not_pruned(search: Search) -> Search:
    """Spare the cheap cells' trials, so that their late learner is seen to win."""
    race = search.schedule._groups
    for cell in LOW:
        race._groups[cell].race.rungs = ()
    return search


def test_without_teachers_the_late_learner_is_stopped():
    search = as_if_cheap_cells_were_not_pruned(study())
    search.run()
    assert search.ends()["high2"] == "PRUNED"


def test_with_teachers_it_is_kept_and_the_reason_says_why():
    search = as_if_cheap_cells_were_not_pruned(learned())
    search.run()
    assert search.ends()["high2"] == "COMPLETE"
    reasons = [event["reason"] for event in search.state.trials["high2"].decisions]
    assert "place 1 of 3 (3 go on), 0.0000 behind by what other groups taught" in reasons[0]
    assert all("place 1 of 1" in reason for reason in reasons[1:])


@pytest.mark.parametrize("slots", [1, 2, 5])
@pytest.mark.parametrize("seed", range(4))
def test_what_is_decided_does_not_depend_on_the_order_of_work(slots, seed):
    alone, together = learned(), learned()
    alone.run()
    together.run(slots=slots, order=random.Random(seed).choice)
    assert together.ends() == alone.ends()
    assert decisions(together) == decisions(alone)


@pytest.mark.parametrize("killed_after", range(0, 60, 7))
def test_a_killed_search_decides_the_same(killed_after):
    whole, killed = learned(), learned()
    whole.run()
    killed.run(slots=3, stop_after=killed_after)
    again = learned(events=killed.events)
    again.run(slots=2)
    assert decisions(again) == decisions(whole)


def decisions(search: Search) -> dict[str, list[str]]:
    return {trial: [event["reason"] for event in p.decisions] for trial, p in search.state.trials.items()}


def test_teachers_are_cells_of_the_same_kind_at_lower_resolutions():
    cells = {
        cell.name: cell
        for dataset in ("nih", "padchest", "vindr")
        for initialization in ("imagenet", "dinov3")
        for resolution in (224, 512)
        if (cell := Cell((("dataset", dataset), ("initialization", initialization), ("resolution", resolution))))
    }
    found = teachers(cells, Pruning())
    assert set(found) == {name for name in cells if name.endswith("512")}
    assert found["nih/dinov3/512"] == ("nih/dinov3/224", "padchest/dinov3/224", "vindr/dinov3/224")
    assert teachers(cells, Pruning(carry=False)) == {}
    assert teachers(cells, Pruning(within="study")) == {}
    assert teachers(cells, Pruning(pruner="median")) == {}
    assert teachers({n: c for n, c in cells.items() if not n.startswith("nih")}, Pruning()) == {}  # two are too few


def test_a_cell_teaches_what_is_known_of_its_trials():
    """Losses: larger is better in what is taught. Who failed or was never defined teaches nothing."""
    curves = {
        "whole": [0.5, 0.4, 0.3, 0.35],
        "patient": [0.51, 0.40, 0.31, 0.0],  # its own end is the third epoch
        "stopped": [0.9, 0.9, 0.9, 0.9],
        "failed": [0.5, 0.4, 0.3, 0.3],
        "undefined": [None] * 4,
        "pupil": [0.5] * 4,
    }
    cells = dict.fromkeys(curves, "low") | {"pupil": "high"}
    search = Search(
        curves,
        cells=cells,
        teachers={"high": ("low",)},
        own_ends={"patient": 3},
        fails={"failed": 2},
        direction="minimize",
        pruning=Pruning(spare_share=0.0, settings={"rungs": [0.25], "exponents": [0.75]}),  # three of four go on
    )
    taught = []
    search.schedule._groups.of("pupil").race.learn_from = taught.extend
    search.run()
    assert search.ends()["stopped"] == "PRUNED"
    (past,) = taught
    assert past.by_best
    assert sorted(past.curves) == [
        ("x=1.0", {0.25: -0.5, 0.5: -0.4, 0.75: -0.3, 1.0: -0.35}),
        ("x=2.0", {0.25: -0.51, 0.5: -0.4, 0.75: -0.31, 1.0: -0.31}),
        ("x=3.0", {0.25: -0.9}),
    ]
