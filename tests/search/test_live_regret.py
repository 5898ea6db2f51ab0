import pytest

from search.live_regret import live_regret
from search.study_sections import Pruning
from tests.search.recorded import Search

FLAT = [0.7] * 8
WORSE = [0.5] * 8
LATE = [0.5, 0.5, 0.5, 0.5, 0.6, 0.7, 0.8, 0.9]
"""Would have been stopped, and wins."""


def cells(search):
    return {trial: progress.cell for trial, progress in search.state.trials.items()}


@pytest.mark.parametrize(
    ("other", "won", "regret"),
    [(WORSE, 0, 0.0), (LATE, 1, 0.2)],
)
def test_a_spared_trial_tells_what_stopping_it_would_have_cost(other, won, regret):
    search = Search({"a": FLAT, "b": other}, pruning=Pruning(spare_share=1.0))
    search.run()
    told = live_regret(search.state, cells(search))
    assert (told["pruned"], told["spared"], told["finished"], told["would_have_won"]) == (0, 1, 1, won)
    assert told["mean_regret"] == told["worst_regret"] == pytest.approx(regret)


def test_trials_are_held_against_those_of_their_cell_as_it_is_called_now():
    """The ledger keeps the name under which a trial was begun; a trial that was added later has the new one."""
    search = Search({"a": FLAT, "b": LATE}, pruning=Pruning(spare_share=1.0))
    search.run()
    search.state.trials["b"].cell = "cell/new"
    told = live_regret(search.state, dict.fromkeys(search.state.trials, "cell/new"))
    assert (told["finished"], told["would_have_won"]) == (1, 1)


def test_without_spared_trials_nothing_is_known():
    search = Search({"a": FLAT, "b": WORSE})
    search.run()
    told = live_regret(search.state, cells(search))
    assert told == {
        "pruned": 1,
        "spared": 0,
        "finished": 0,
        "would_have_won": 0,
        "mean_regret": None,
        "worst_regret": None,
    }


@pytest.mark.parametrize("seed", range(12))
def test_a_spared_trial_changes_nothing_for_the_others(seed):
    """Whoever is spared, the others end as they would without it, and the mistake of the pruner is told."""
    curves = {"a": FLAT, "late": LATE, "b": [0.69] * 8, "c": [0.6] * 8}
    without = Search(curves)
    without.run()
    search = Search(curves, pruning=Pruning(spare_share=0.5, spare_seed=seed))
    search.run()
    spared = {trial for trial, progress in search.state.trials.items() if progress.spared_at is not None}
    unspared = {trial: end for trial, end in without.ends().items() if trial not in spared}
    assert {trial: search.ends()[trial] for trial in unspared} == unspared
    assert all(search.ends()[trial] == "COMPLETE" for trial in spared)
    told = live_regret(search.state, cells(search))
    assert told["finished"] == len(spared)
    assert told["would_have_won"] == ("late" in spared)
    assert (told["worst_regret"] or 0.0) == pytest.approx(0.2 if "late" in spared else 0.0)


@pytest.mark.parametrize("killed_after", range(4, 40, 5))
def test_a_search_that_is_rebuilt_keeps_spared_trials_out_of_the_race(killed_after):
    curves = {"a": FLAT, "late": LATE, "b": [0.69] * 8, "c": [0.6] * 8}
    settings = {"pruning": Pruning(spare_share=0.5, spare_seed=3)}
    whole = Search(curves, **settings)
    whole.run()
    killed = Search(curves, **settings)
    killed.run(stop_after=killed_after)
    again = Search(curves, **settings, events=killed.events)
    again.run()
    assert again.ends() == whole.ends()


def test_what_a_spared_trial_came_to_later_decides_nothing_in_a_race_that_is_rebuilt():
    """In its fourth epoch "soon" is at 0.9: had the group risen so far, "b" might still catch up with "a"."""
    falling = [round(0.7 - 0.0075 * epoch, 4) for epoch in range(8)]
    curves = {"a": FLAT, "soon": [0.5] * 3 + [0.9] * 5, "b": falling, "c": [0.3] * 8}
    race = {"rungs": [1 / 8, 1 / 4, 1 / 2, 3 / 4], "exponents": [0.75, 0.5, 0.25, 0.1]}
    settings = {"pruning": Pruning(spare_share=0.5, spare_seed=3, settings=race)}
    whole = Search(curves, **settings)
    whole.run()
    assert whole.state.trials["soon"].spared_at == 2
    assert (whole.ends()["b"], len(whole.state.trials["b"].epochs)) == ("PRUNED", 6)
    for end in whole.ends_of_records[::4]:
        again = Search(curves, **settings, events=whole.events[:end])
        again.run()
        assert again.ends() == whole.ends()


SEEDS = {"a0": 1.0, "a1": 1.0, "b0": 2.0, "b1": 2.0}


@pytest.mark.parametrize(
    ("leader", "late", "regret"),
    [
        ((0.80, 0.90), (0.89, 0.88), 0.035),  # the better mean wins, though not one of its seeds is the best
        ((0.85, 0.90), (0.95, 0.60), 0.0),  # a lucky seed does not make a point win
    ],
)
def test_seeds_are_judged_by_their_mean_as_winners_are(leader, late, regret):
    ends = (*leader, *late)
    curves = {trial: [0.7 if trial[0] == "a" else 0.6] * 7 + [end] for trial, end in zip(SEEDS, ends, strict=True)}
    search = Search(curves, searched=SEEDS, pruning=Pruning(spare_share=1.0))
    search.run()
    told = live_regret(search.state, cells(search))
    assert (told["spared"], told["finished"], told["would_have_won"]) == (1, 1, int(regret > 0))
    assert told["worst_regret"] == pytest.approx(regret)


@pytest.mark.parametrize("seed", range(12))
def test_seeds_are_spared_together(seed):
    curves = {trial: FLAT if trial[0] == "a" else WORSE for trial in SEEDS}
    search = Search(curves, searched=SEEDS, pruning=Pruning(spare_share=0.5, spare_seed=seed))
    search.run()
    assert search.ends()["b0"] == search.ends()["b1"]


def test_of_several_draws_some_spare_and_some_do_not():
    ends = set()
    for seed in range(12):
        curves = {trial: FLAT if trial[0] == "a" else WORSE for trial in SEEDS}
        search = Search(curves, searched=SEEDS, pruning=Pruning(spare_share=0.5, spare_seed=seed))
        search.run()
        ends.add(search.ends()["b0"])
    assert ends == {"COMPLETE", "PRUNED"}


def test_a_point_of_which_a_seed_failed_is_not_held_against_whole_ones():
    curves = {trial: FLAT if trial[0] == "a" else LATE for trial in SEEDS}
    search = Search(curves, searched=SEEDS, pruning=Pruning(spare_share=1.0), fails={"b1": 7})
    search.run()
    told = live_regret(search.state, cells(search))
    assert (told["spared"], told["finished"]) == (1, 0)


def test_a_spared_point_is_held_against_whole_points_of_what_is_asked_for():
    """One seed of "lucky" failed, and "gone" is asked for no more: "spared" would have won by 0.1 over "whole"."""
    ends = {"whole": (0.7, 0.7), "lucky": (0.95, None), "spared": (0.8, 0.8)}
    points = {f"{point}{seed}": float(number) for number, point in enumerate(ends) for seed in range(2)}
    search = Search(dict.fromkeys([*points, "gone", "stopped"], FLAT), searched=points)
    for trial in search.curves:
        value = 0.9 if trial not in points else ends[trial[:-1]][int(trial[-1])]
        state = "PRUNED" if trial not in points else "COMPLETE" if value else "FAILED"
        action = "spare" if trial.startswith("spared") else "prune" if state == "PRUNED" else "keep"
        search.record({"kind": "decision", "trial": trial, "epoch": 2, "action": action, "reason": ""})
        result = {"state": "COMPLETE", "epochs": 8, "best_epoch": 8, "best_value": value}
        told = {"state": state, "reason": "", "time_ms": 0, "result": result if state == "COMPLETE" else None}
        search.record({"kind": "ended", "trial": trial, **told})
    told = live_regret(search.state, dict.fromkeys([*points, "stopped"], "cell"))
    assert (told["pruned"], told["spared"], told["finished"], told["would_have_won"]) == (1, 1, 1, 1)
    assert told["mean_regret"] == told["worst_regret"] == pytest.approx(0.1)
