import pytest

from search.live_regret import live_regret
from search.study_sections import Pruning
from tests.search.recorded import Search

FLAT = [0.7] * 8
WORSE = [0.5] * 8
LATE = [0.5, 0.5, 0.5, 0.5, 0.6, 0.7, 0.8, 0.9]
"""Would have been stopped, and wins."""


@pytest.mark.parametrize(
    ("other", "won", "regret"),
    [(WORSE, 0, 0.0), (LATE, 1, 0.2)],
)
def test_a_spared_trial_tells_what_stopping_it_would_have_cost(other, won, regret):
    search = Search({"a": FLAT, "b": other}, pruning=Pruning(spare_share=1.0))
    search.run()
    told = live_regret(search.state, search.state.trials)
    assert (told["pruned"], told["spared"], told["finished"], told["would_have_won"]) == (0, 1, 1, won)
    assert told["mean_regret"] == told["worst_regret"] == pytest.approx(regret)


def test_without_spared_trials_nothing_is_known():
    search = Search({"a": FLAT, "b": WORSE})
    search.run()
    told = live_regret(search.state, search.state.trials)
    assert told == {
        "pruned": 1,
        "spared": 0,
        "finished": 0,
        "would_have_won": 0,
        "mean_regret": None,
        "worst_regret": None,
    }
