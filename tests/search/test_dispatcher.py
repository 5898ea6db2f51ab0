"""Which trial gets the next slot of a cluster whose nodes are not alike."""

import pytest

from search import dispatcher
from search.dispatcher import Dispatcher
from search.resources import Slot
from search.schedule import Entry, Schedule
from search.study_sections import Budget, Pruning
from search.study_state import StudyState
from tests.search.recorded import Clock, opening
from trainers.trial import EpochMetrics, TrialResult

A100 = {"CPU": 8.0, "GPU": 1.0, "accelerator_type:A100": 1.0}
V100 = {"CPU": 32.0, "GPU": 8.0, "accelerator_type:V100": 1.0}
ON_A100, ANY, TWO, QUARTER = Slot(1, 1.0, gpu_type="A100"), Slot(1, 1.0), Slot(1, 2.0), Slot(1, 0.25)


class Cluster:
    """A schedule of trials with slots, given away one by one; the costliest come first."""

    def __init__(self, nodes, slots, budget=None):
        entries = [
            Entry(trial, trial, trial, {"x": 1.0}, 1, cost=1000.0 - rank, slot=slot)
            for rank, (trial, slot) in enumerate(slots.items())
        ]
        self.state = state = StudyState.of(opening(entries))
        self.after = []

        def record(*events):
            for event in events:
                state.apply(event)

        self.clock = Clock()
        schedule = Schedule(
            entries, state=state, pruning=Pruning(pruner="none"), record=record, budget=budget, now=self.clock
        )
        self.dispatcher = Dispatcher(
            schedule,
            order=lambda assignment: assignment.trial,
            slot_of=slots.__getitem__,
            after_trial=self.after.append,
            nodes=lambda: list(nodes),
        )
        self.asked = 0

    def give(self, times):
        given = []
        for _ in range(times):
            self.asked += 1
            assigned = self.dispatcher.assign(str(self.asked))
            given.append(assigned[0] if assigned else None)
        return given


@pytest.mark.parametrize("nodes", [[A100, V100], [V100, A100]])
def test_a_trial_that_waits_for_its_type_of_gpu_holds_up_nobody_elsewhere(nodes):
    slots = {f"big{n}": ON_A100 for n in range(3)} | {f"small{n}": ANY for n in range(10)}
    cluster = Cluster(nodes, slots)
    assert cluster.give(10) == ["big0", *(f"small{n}" for n in range(8)), None]
    cluster.dispatcher.lost("1", "its process died")
    assert cluster.give(2) == ["big0", None]


def test_on_a_node_of_its_own_nobody_goes_ahead_of_one_that_waits():
    """Else quarters would take every half that comes free, and who needs two whole GPUs would never start."""
    slots = {"whole": TWO, "first": QUARTER} | {f"small{n}": QUARTER for n in range(20)}
    node = {"CPU": 32.0, "GPU": 2.0}
    cluster = Cluster([node], slots)
    assert cluster.give(2) == ["whole", None]
    two = Cluster([node, node], {"a": TWO, "b": TWO, "c": TWO, **{f"small{n}": QUARTER for n in range(9)}})
    assert two.give(3) == ["a", "b", None]
    half = Cluster([node, node], {"a": ANY, "b": TWO, "c": TWO, "small": QUARTER})
    assert half.give(3) == ["a", "b", None]  # the node of "a" is nearest to having two GPUs for "c"
    three = Cluster([node, node, {"CPU": 8.0, "GPU": 1.0}], {"a": TWO, "b": TWO, "c": TWO, "small": QUARTER})
    assert three.give(4) == ["a", "b", "small", None]


def test_shares_of_different_gpus_are_no_room_for_a_larger_share_or_a_whole_one():
    share = Slot(1, 0.6)
    cluster = Cluster([{"CPU": 8.0, "GPU": 2.0}], {"a": share, "b": share, "c": share, "quarter": QUARTER})
    assert cluster.give(4) == ["a", "b", None, None]  # the node is kept for c
    mixed = Cluster([{"CPU": 8.0, "GPU": 2.0}], {"a": Slot(1, 0.5), "b": Slot(1, 1 / 3), "whole": Slot(1, 1.0)})
    assert mixed.give(3) == ["a", "b", "whole"]  # both shares lie on one GPU
    full = Cluster([{"CPU": 8.0, "GPU": 2.0}], {"a": share, "b": share, "whole": Slot(1, 1.0)})
    assert full.give(3) == ["a", "b", None]


def test_a_slot_that_no_node_alive_could_hold_holds_up_nobody():
    cluster = Cluster([V100], {"big": ON_A100, "small": ANY})
    assert cluster.give(2) == ["small", None]


RESULT = TrialResult(
    state="COMPLETE", epochs=1, best_epoch=1, best_value=0.5, checkpoint="best", checkpoint_sha256="0" * 64
)


def test_a_process_that_goes_away_after_it_told_its_end_has_ended():
    cluster = Cluster([V100], {"small": ANY})
    cluster.give(1)
    assert cluster.dispatcher.told("1", {"result": RESULT.model_dump_json()}, dict)
    assert not cluster.state.trials["small"].done  # it has its slot until Tune says that it left
    cluster.dispatcher.lost("1", "its process died")
    assert cluster.state.trials["small"].outcome == "COMPLETE"
    assert cluster.state.trials["small"].interruptions == []
    assert cluster.after == ["small"]
    cluster.dispatcher.left("1")
    assert cluster.after == ["small"]


def test_who_was_given_up_for_lost_is_heard_no_more():
    """Its node could not be reached and lives on; the trial goes on elsewhere."""
    cluster = Cluster([V100], {"small": ANY})
    cluster.give(1)
    cluster.dispatcher.lost("1", "its node died")
    told = EpochMetrics(epoch=1, timestamp_ms=1, metrics={"val/score": 0.5})
    assert cluster.dispatcher.told("1", {"epoch": told.model_dump_json()}, dict) is False
    assert cluster.state.trials["small"].epochs == {}
    assert cluster.after == ["small"]
    assert cluster.give(1) == ["small"]
    assert cluster.dispatcher.told("2", {"epoch": told.model_dump_json()}, dict) is True


@pytest.mark.parametrize(
    ("kind", "again"),
    [("host_memory", True), ("process_died", True)]
    + [(kind, False) for kind in ("bug", "data", "non_finite", "out_of_memory", "weights", "configuration")],
)
def test_a_failure_that_a_trial_tells_is_tried_again_as_its_policy_says(kind, again):
    cluster = Cluster([V100], {"small": ANY})
    for attempt in range(1, 5 if again else 2):
        assert cluster.give(1) == ["small"]
        cluster.dispatcher.told(str(attempt), {"failure": "why", "failure_kind": kind, "log": "here\nthere"}, dict)
        cluster.dispatcher.left(str(attempt))
    reason = f"{kind}: 4 times, the last: why" if again else f"{kind}: why"
    assert cluster.state.trials["small"].reason == reason
    assert cluster.state.trials["small"].log == ["here", "there"]
    assert cluster.dispatcher.over


def test_after_a_full_disk_nothing_starts_and_the_first_one_is_told():
    cluster = Cluster([{"CPU": 2.0}], dict.fromkeys("abc", Slot(1)))
    assert cluster.give(3) == ["a", "b", None]
    for tune_trial in ("2", "1"):
        cluster.dispatcher.told(tune_trial, {"failure": "full", "failure_kind": "disk_full"}, dict)
        cluster.dispatcher.left(tune_trial)
    assert str(cluster.dispatcher.problem).startswith("trial b: its disk is full")
    assert cluster.give(1) == [None]
    assert cluster.dispatcher.over


HALF, SHARE = Slot(1, 0.5), Slot(1, 0.7)


@pytest.mark.parametrize(
    ("nodes", "slots", "given"),
    [
        pytest.param(
            [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0, "GPU": 1.0}],
            {"two": TWO, "small": QUARTER, "whole": ANY},
            ["two", "small", None],
            id="the largest lies where it alone has room",
        ),
        pytest.param(
            [{"CPU": 4.0}, {"CPU": 2.0}],
            {"large": Slot(4), "small": Slot(1), "next": Slot(2)},
            ["large", "small", None],
            id="so it does with CPUs",
        ),
        pytest.param(
            [{"CPU": 8.0, "GPU": 2.0}],
            {"a": SHARE, "b": Slot(1, 0.4), "c": Slot(1, 0.4), "d": Slot(1, 0.2), "e": Slot(1, 0.3)},
            ["a", "b", "c", "d", "e"],  # d beside b and c: the largest share stays free beside a
            id="a share goes to the fullest GPU that has room for it",
        ),
        pytest.param(
            [{"CPU": 4.0}, {"CPU": 4.0}],
            {"a": Slot(3), "b": Slot(3), "c": Slot(2), "d": Slot(4), "small": Slot(1)},
            ["a", "b", None],
            id="two that wait keep a node each",
        ),
        pytest.param(
            [{"CPU": 64.0, "GPU": 2.0}, {"CPU": 32.0, "GPU": 2.0}],
            {"a": ANY, "b": TWO, "c": TWO, "small": QUARTER},
            ["a", "b", None],  # c waits for the second node, where one GPU is free; the small one would take of it
            id="GPUs that are free are nearer than CPUs",
        ),
        pytest.param(
            [{"CPU": 8.0}, {"CPU": 8.0}],
            {"a": Slot(5), "b": Slot(4), "c": Slot(6), "small": Slot(4)},
            ["a", "b", None],  # c waits for the second node, which has one CPU more
            id="without GPUs it is the CPUs",
        ),
        pytest.param(
            [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0, "GPU": 1.0}],
            {"two": TWO, "small": Slot(2, 0.25), "whole": ANY},
            ["two", "small", None],
            id="GPUs are scarcer than CPUs",
        ),
        pytest.param(
            [{"CPU": 8.0, "GPU": 2.0, "memory": 9e9}],
            {trial: Slot(1, 0.25, 4.0) for trial in "abc"},
            ["a", "b", None],
            id="main memory is used up like CPUs",
        ),
        pytest.param(
            [{"CPU": 100.0, "GPU": 1.0}],
            {str(n): Slot(1, 0.1) for n in range(10)},
            [str(n) for n in range(10)],  # 1 - 9 × 0.1 is less than 0.1 in binary, if it is taken off one by one
            id="ten tenths are a whole",
        ),
    ],
)
def test_room_is_counted_as_ray_gives_it(nodes, slots, given):
    assert Cluster(nodes, slots).give(len(given)) == given


def test_nodes_come_and_go(monkeypatch):
    nodes, now = [{"CPU": 1.0}], [0.0]
    monkeypatch.setattr(dispatcher.time, "monotonic", lambda: now[0])
    cluster = Cluster(nodes, dict.fromkeys("abc", Slot(1)))
    assert cluster.give(2) == ["a", None]
    nodes.append({"CPU": 1.0})
    now[0] = 2 * dispatcher.SECONDS_BETWEEN_COUNTS
    assert cluster.give(2) == ["b", None]
    del nodes[0]
    cluster.dispatcher.lost("1", "its node died")
    now[0] *= 2
    assert cluster.give(1) == [None]  # b has the node that is left


T4 = {"CPU": 8.0, "GPU": 1.0, "accelerator_type:T4": 1.0}
ON_T4 = Slot(1, 1.0, gpu_type="T4")


@pytest.fixture
def clock(monkeypatch):
    """Seconds, of which every one that is added has the nodes counted anew."""
    now = [0.0]
    monkeypatch.setattr(dispatcher.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(dispatcher, "SECONDS_BETWEEN_COUNTS", 0.5)
    return now


def test_who_was_given_a_node_that_is_gone_is_withdrawn_before_it_begins_and_begins_elsewhere(clock):
    nodes = [A100, T4]
    cluster = Cluster(nodes, {"typed": ON_T4, "any": ANY, "last": ANY})
    assert cluster.give(3) == ["typed", "any", None]
    assert cluster.dispatcher.stranded(["1", "2", "unknown"]) == set()
    nodes.remove(T4)
    assert cluster.dispatcher.stranded(["1", "2"]) == set()  # it was counted a moment ago
    clock[0] += 1
    assert cluster.dispatcher.stranded(["1", "2"]) == {"1"}  # the other one may wait where it could be
    assert cluster.dispatcher.stranded(["2"]) == set()  # of those that have begun Ray tells
    cluster.dispatcher.left("1")
    assert cluster.after == ["typed"]
    assert not cluster.state.trials["typed"].interruptions
    nodes.append(T4)
    clock[0] += 1
    assert cluster.give(2) == ["typed", None]


def test_that_nothing_trains_since_no_node_is_left_for_it_is_told_once(clock, caplog):
    nodes = [A100, T4]
    cluster = Cluster(nodes, {"typed": ON_T4, "again": ON_T4})
    assert cluster.give(2) == ["typed", None]
    nodes.remove(T4)
    clock[0] += 1
    assert cluster.give(1) == [None]
    assert not caplog.messages  # it runs: Ray would tell if it did not
    cluster.dispatcher.lost("1", "its node died")
    assert cluster.give(3) == [None] * 3
    (told,) = caplog.messages
    assert told.startswith("warning: nothing trains until a node comes that can hold it: resources: a trial asks for ")
    nodes.append(T4)
    clock[0] += 1
    assert cluster.give(1) == ["typed"]
    nodes.clear()
    clock[0] += 1
    assert cluster.give(1) == [None]
    assert len(caplog.messages) == 1
    cluster.dispatcher.lost("7", "its node died")
    assert cluster.give(2) == [None] * 2
    assert len(caplog.messages) == 2


def test_a_trial_that_tells_no_end_has_left_its_slot_and_goes_on_later():
    """Tune ends a trial at a rung or for a budget; its process tells nothing more."""
    cluster = Cluster([V100], {"small": ANY})
    assert cluster.give(2) == ["small", None]
    cluster.dispatcher.left("1")
    assert cluster.after == ["small"]
    assert not cluster.state.trials["small"].interruptions
    assert cluster.give(1) == ["small"]


def test_when_the_budget_is_used_up_it_is_over_as_soon_as_nobody_runs():
    """Else Tune would ask for the next piece of work for ever."""
    cluster = Cluster([V100], {"a": QUARTER, "b": ANY}, Budget(wall_clock_hours=1))
    assert cluster.give(1) == ["a"]
    cluster.clock.now += 3_600_000
    assert cluster.give(1) == [None]
    assert not cluster.dispatcher.over
    cluster.dispatcher.left("1")
    assert cluster.dispatcher.over
    assert not cluster.state.trials["a"].done
