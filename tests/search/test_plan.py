"""What a plan says of cost, and of what is done already."""

import io
import math
import os
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from search import grid, recorded_speed
from search import plan as planning
from search.candidate import best_winner
from search.errors import StudyError
from search.estimate import GIGA_MACS, MILLION_PARAMETERS, estimate, giga_macs, relative_cost
from search.identity import identified
from search.ledger import Ledger, read
from search.plan import Known, plan
from search.recorded_speed import Speeds
from search.report import summary, words
from search.selection import winners
from search.status import show, status
from search.study_config import StudyConfig
from search.study_folder import StudyFolder, lock
from search.study_state import OVER_BUDGET, StudyState
from tests.search.recorded import DECLARATION
from trainers import backbones
from trainers.trial import TrialResult

AXES = {"dataset": "vindr_pcxr", "initialization": "imagenet", "backbone": "vit_base", "resolution": [224, 512]}
IMAGES = 9125 * 0.8


def study(**more) -> StudyConfig:
    content = {"name": "s", "axes": AXES, "search": {"learning_rate": [1e-4, 1e-5]}, "recipe": {"epochs": 10}}
    return StudyConfig.model_validate({**content, **more})


def test_every_backbone_of_ours_has_a_cost_and_a_guess_is_told():
    ours = {path.stem for path in Path(backbones.__file__).parent.glob("[a-z]*.py")}
    assert ours <= GIGA_MACS.keys() == MILLION_PARAMETERS.keys()
    for name, guessed in (("vit_large", False), ("resnet18", True)):
        basis = estimate(grid.expand(study(axes=AXES | {"backbone": name}))).basis
        assert (f"{name} taken for 5 GMAC" in basis) == guessed


def test_measured_speeds_replace_arithmetic_and_carry_over_to_other_resolutions():
    found = estimate(
        grid.expand(study(axes=AXES | {"resolution": 224})),
        speeds=Speeds({("vit_base", 224, "finetune"): 100.0}, "a test"),
        prunes=False,
    )
    hours = 2 * IMAGES * 10 / 100 / 3600
    assert (found.gpu_hours.low, found.gpu_hours.high) == pytest.approx((hours / 1.3, hours * 1.3), rel=0.01)
    scaled = estimate(
        grid.expand(study(axes=AXES | {"resolution": 512})),
        speeds=Speeds({("vit_base", 224, "finetune"): 100.0}, "a test"),
        prunes=False,
    )
    assert scaled.gpu_hours.high == pytest.approx(hours * 1.3 * 107.5 / 17.9, rel=0.01)
    assert "speeds from a test" in scaled.basis


def test_the_speed_of_another_adaptation_says_nothing():
    wanted = grid.expand(study())
    of_probes = estimate(wanted, speeds=Speeds({("vit_base", 224, "probe"): 1e6}, "a test"))
    assert of_probes.gpu_hours == estimate(wanted).gpu_hours


def test_more_gpus_take_less_time_until_one_trial_is_the_whole():
    wanted = grid.expand(study())
    hours = [estimate(wanted, gpus=gpus, prunes=False).wall_clock_hours.high for gpus in (1, 2, 1000)]
    assert hours[0] == estimate(wanted, prunes=False).gpu_hours.high
    assert hours[1] == pytest.approx(hours[0] / 2, rel=0.2)
    assert hours[2] == pytest.approx(
        estimate(wanted, prunes=False).gpu_hours.high / 2 * 107.5 / (17.9 + 107.5), rel=0.01
    )


def test_a_frozen_encoder_passes_over_the_images_once_for_all_its_heads():
    few, many = (
        study(axes=AXES | {"adaptation": "probe"}),
        study(axes=AXES | {"adaptation": "probe"}, search={"learning_rate": [1e-2, 1e-3, 1e-4]}, seeds=[0, 1, 2]),
    )
    assert estimate(grid.expand(few)).gpu_hours == estimate(grid.expand(many)).gpu_hours
    operations = 2e9 * (17.9 + 107.5) * 9125  # a pass forward over every image, at either resolution
    high = operations / 40e12 / 3600
    assert estimate(grid.expand(few)).gpu_hours.high == pytest.approx(high, rel=0.005)
    features = 2 * 9125 * 768 * 4  # at either resolution, stored once for all heads
    assert estimate(grid.expand(many)).cache_bytes.low == 9125 * (224**2 + 512**2) + features
    unknown = study(axes=AXES | {"adaptation": "probe", "backbone": "resnet18", "resolution": 224})
    assert estimate(grid.expand(unknown)).cache_bytes.low == 9125 * (224**2 + 4 * 768)


def test_checkpoints_and_cache_have_ranges():
    found = estimate(grid.expand(study()))
    assert found.cache_bytes.low == 9125 * (224**2 + 512**2)
    weights = 4e6 * 85.7
    assert (found.checkpoint_bytes.low, found.checkpoint_bytes.high) == (5 * weights, 7 * weights)
    at_once = estimate(grid.expand(study()), gpus=2).checkpoint_bytes  # three times the weights more: and two moments
    assert (at_once.low, at_once.high) == (8 * weights, 10 * weights)


@pytest.mark.parametrize(
    ("backbone", "resolution", "expected"),
    [
        ("vit_base", 224, 17.9),
        ("vit_base", 448, 17.9 * 2 ** (math.log(107.5 / 17.9) / math.log(512 / 224))),  # as from 224 to 512
        ("vit_base", 2048, 660.7 * 2 ** (math.log(660.7 / 107.5) / math.log(2))),  # as from 512 to 1024
        ("tf_efficientnet_lite0", 448, 1.6),  # one size is known: with the pixels
        ("unheard_of", 112, 1.25),
    ],
)
def test_arithmetic_between_measured_sizes_follows_a_power_law(backbone, resolution, expected):
    assert giga_macs(backbone, resolution) == pytest.approx(expected)


@pytest.fixture
def ran(tmp_path) -> Path:
    """A storage where the study's 224 px trials ran: one finished, one begun; and one that is not asked for now."""
    earlier = study(search={"learning_rate": [1e-4, 1e-5, 1e-6]}, axes=AXES | {"resolution": 224})
    wanted = grid.expand(earlier)
    key = recorded_key(earlier)
    data = {"kind": "data", "key": key, "dataset": "d", "fingerprint": "f", "declaration": DECLARATION}
    data |= {"images": {"train": 1000, "val": 0, "test": 0}, "validation": "official", "quarantined": {}}
    state = StudyState.of([data])
    with Ledger(StudyFolder(tmp_path, "s").ledger) as ledger:
        ledger.append(data)
        for number, (identity, trial) in enumerate(identified(wanted, state).items()):
            ledger.append(
                {
                    "kind": "trial",
                    "trial": identity,
                    "cell": trial.cell.name,
                    "axes": dict(trial.cell.axes),
                    "searched": dict(trial.searched),
                    "seed": 0,
                    "config": trial.config.model_dump(mode="json"),
                    "dataset_key": key,
                },
                {"kind": "started", "trial": identity, "time_ms": 0},
            )
            for epoch in range(1, 3):
                ledger.append(
                    {"kind": "epoch", "trial": identity, "epoch": epoch, "timestamp_ms": 5000 * epoch, "metrics": {}}
                )
            if number != 1:
                end = {"state": "COMPLETE", "reason": "", "time_ms": 10_000, "result": None}
                ledger.append({"kind": "ended", "trial": identity, **end})
    return tmp_path


def recorded_key(asked: StudyConfig) -> str:
    from search.identity import key_of

    return key_of(grid.expand(asked).datasets[0])


def test_speeds_are_read_from_what_ran(ran):
    found = recorded_speed.from_ledgers(ran)
    assert found.images_per_second == {("vit_base", 224, "finetune"): 200.0}  # 2 x 1000 images in 10 s
    assert recorded_speed.from_ledgers(ran / "nowhere") is None


def test_of_each_kind_of_trial_the_gentlest_is_probed(monkeypatch):
    """A loss that is no number would end the probe."""
    speed = SimpleNamespace(images_per_second=lambda config, *, steps: config.recipe.learning_rate)
    monkeypatch.setitem(sys.modules, "trainers.speed", speed)
    for rates in ([1e-4, 1e-5], [1e-5, 1e-4]):
        configs = [trial.config for trial in grid.expand(study(search={"learning_rate": rates})).trials]
        found = recorded_speed.probe(configs, steps=20).images_per_second
        assert found == {("vit_base", side, "finetune"): 1e-5 for side in (224, 512)}


def test_what_a_trial_took_that_failed_is_no_speed(ran):
    path = StudyFolder(ran, "s").ledger
    told = [{**e, "state": "FAILED"} if e["kind"] == "ended" else e for e in read(path).events]
    path.unlink()
    with Ledger(path) as ledger:
        ledger.append(*told)
    assert recorded_speed.from_ledgers(ran) is None


def test_a_gpu_that_is_shared_is_as_fast_as_those_who_share_it(ran):
    """Four trials on a quarter each: the seconds of one are a quarter of a GPU's."""
    path = StudyFolder(ran, "s").ledger
    told = [{**e, "gpus": 0.25} if e["kind"] == "started" else e for e in read(path).events]
    path.unlink()
    with Ledger(path) as ledger:
        ledger.append(*told)
    assert recorded_speed.from_ledgers(ran).images_per_second == {("vit_base", 224, "finetune"): 800.0}


def test_what_trials_on_stored_features_took_is_no_speed_of_their_encoder(ran):
    path = StudyFolder(ran, "s").ledger
    told = read(path).events
    for event in told:
        if event["kind"] == "trial":
            event["config"]["adaptation"] = "probe"
    path.unlink()
    with Ledger(path) as ledger:
        ledger.append(*told)
    assert recorded_speed.from_ledgers(ran) is None


def test_a_trial_on_stored_features_costs_next_to_nothing():
    tuned, probed = (grid.expand(study(axes=AXES | {"adaptation": a})).trials[0].config for a in ("finetune", "probe"))
    assert relative_cost(probed, 100) * 10 == pytest.approx(relative_cost(tuned, 100) / 3)


def test_the_plan_says_what_is_left_to_do(ran):
    done = plan(study(), Known(storage=ran))["done"]
    whole = plan(study(), Known(storage=ran))["estimated"]
    hours = {name: done.pop(name) for name in ("gpu_hours", "wall_clock_hours")}
    counts = {"finished": 1, "failed": 0, "begun": 1, "dropped": 0, "new": 2, "epochs_left": 8 + 20}
    assert done == counts | {"no_longer_asked_for": 1}
    small, large = (GIGA_MACS["vit_base"][side] for side in (224, 512))
    for name, left in hours.items():
        assert left["high"] / whole[name]["high"] == pytest.approx(
            (small + 2 * large) / (2 * small + 2 * large), rel=0.01
        )
    assert plan(study(name="other"), Known(storage=ran))["done"] is None


def test_what_is_left_is_told_of_whole_recipes_too(ran):
    """A searched value may be a mapping, which nothing can be looked up by."""
    asked = study(search={"recipe": [{"name": "paper"}, {"name": "modern"}]})
    done = plan(asked, Known(storage=ran))["done"]
    assert (done["finished"], done["new"], done["epochs_left"]) == (1, 3, 30)  # `paper` is what has run


def test_a_trial_that_was_entered_and_not_begun_is_new(ran):
    """A run that its budget ended before has all trials in its ledger."""
    path = StudyFolder(ran, "s").ledger
    told = [event for event in read(path).events if event["kind"] not in {"started", "epoch", "ended", "paused"}]
    path.unlink()
    with Ledger(path) as ledger:
        ledger.append(*told)
    done = plan(study(), Known(storage=ran))["done"]
    assert (done["finished"], done["begun"], done["new"]) == (0, 0, 4)


def test_a_trial_that_failed_is_not_called_finished_and_is_not_left(ran):
    with Ledger(StudyFolder(ran, "s").ledger) as ledger:
        begun = next(row["trial"] for row in status(study(), ran)["trials"] if row["state"] == "PAUSED")
        ended = {"kind": "ended", "trial": begun, "state": "FAILED", "reason": "bug: x", "time_ms": 9, "result": None}
        ledger.append(ended)
    planned = plan(study(), Known(storage=ran))
    done = planned["done"]
    assert (done["finished"], done["failed"], done["begun"], done["new"], done["epochs_left"]) == (1, 1, 0, 2, 20)
    written = io.StringIO()
    planning.show(planned, Console(file=written, width=200))
    told = "1 are finished, 1 failed, 0 begun, 0 dropped for the budget and 2 new; 20 epochs are left, "
    assert told in written.getvalue()


@pytest.mark.parametrize(("gpus", "warned"), [(1, True), (7, True), (8, False)])
def test_trials_that_ask_for_more_gpus_than_there_are_are_told(gpus, warned):
    asked = study(resources={"overrides": [{"when": {"backbone": "vit_base"}, "gpus": 8}]})
    warnings = plan(asked, Known(gpus=gpus))["warnings"]
    assert any("ask for 8 GPUs a trial and can never start on " in warning for warning in warnings) == warned


def test_a_budget_that_binds_whatever_happens_is_warned_of():
    (warning,) = plan(study(budget={"gpu_hours": 1e-9}))["warnings"]
    assert warning.startswith("budget.gpu_hours: 1e-09 is less than the estimated ")
    assert plan(study(budget={"gpu_hours": 1e9, "wall_clock_hours": 1e9}))["warnings"] == []


def test_what_is_left_of_a_budget_is_compared_with_what_is_left_to_do(ran):
    planned = plan(study(), Known(storage=ran))
    whole, low = (planned[part]["wall_clock_hours"]["low"] for part in ("estimated", "done"))
    assert 0 < low < whole
    with Ledger(StudyFolder(ran, "s").ledger) as ledger:
        ledger.append({"kind": "study", "study": {}, "version": "t", "time_ms": 1_000_000})
        ledger.append({"kind": "closed", "status": "FINISHED", "time_ms": 1_000_000 + 7_200_000})
    asked = study(budget={"wall_clock_hours": 2 + (low + whole) / 2})
    assert plan(asked, Known(storage=ran))["warnings"] == []  # less than the whole takes, enough for the rest
    (warning,) = plan(study(budget={"wall_clock_hours": 2}), Known(storage=ran))["warnings"]
    assert warning.startswith(
        f"budget.wall_clock_hours: 2, of which 0 are left, is less than the estimated {low:.3g}; "
    )


@pytest.mark.parametrize("last", [{"kind": "closed", "status": "FINISHED"}, {"kind": "unusable", "dataset": "d"}])
def test_the_status_tells_of_a_budget_that_is_used_up(ran, last):
    """Also where the driver was killed: what was heard of it last is what it took."""
    with Ledger(StudyFolder(ran, "s").ledger) as ledger:
        ledger.append({"kind": "study", "study": {}, "version": "t", "time_ms": 1_000_000})
        ledger.append(last | {"reason": "", "time_ms": 1_000_000 + 7_200_000})
    for hours, used_up in ((2, True), (5, False)):
        found, written = status(study(budget={"wall_clock_hours": hours}), ran), io.StringIO()
        assert (found["budget"] is not None) is used_up
        show(found, Console(file=written, width=200))
        assert ("stopped wall-clock: 2 of 2 h are used; raise the budget to go on" in written.getvalue()) is used_up
        finished, written = found["counts"] | {"PAUSED": 0, "WAITING": 0}, io.StringIO()
        show(found | {"counts": finished}, Console(file=written, width=200))
        assert "stopped" not in written.getvalue()


def test_the_status_tells_what_trials_took_that_are_asked_for_no_more(ran):
    found = status(study(), ran)
    assert found["no_longer_asked_for"] == {"trials": 1, "seconds": 10.0, "gpu_seconds": 0.0}
    written = io.StringIO()
    show(found, Console(file=written, width=200))
    assert "1 earlier trial no longer asked for took 10 s, 0.00 GPU-hours" in written.getvalue()


def test_what_the_budget_dropped_is_called_so_everywhere(ran):
    folder = StudyFolder(ran, "s")
    dropped = {"kind": "ended", "state": "PRUNED", "reason": f"{OVER_BUDGET}no room", "time_ms": 9, "result": None}
    begun = next(row["trial"] for row in status(study(), ran)["trials"] if row["state"] == "PAUSED")
    with Ledger(folder.ledger) as ledger:
        ledger.append(dropped | {"trial": begun})
    assert status(study(), ran)["counts"] | {"WAITING": 0} == {
        "COMPLETE": 1, "PRUNED": 0, "DROPPED": 1, "FAILED": 0, "RUNNING": 0, "PAUSED": 0, "WAITING": 0,
    }  # fmt: skip
    done = plan(study(), Known(storage=ran))["done"]
    assert (done["finished"], done["dropped"]) == (1, 1)
    wanted = grid.expand(study())
    found = summary.summarize(study(), wanted, StudyState.of(read(folder.ledger).events), folder)
    assert found["counts"] == {"cells": 2, "trials": 4, "COMPLETE": 1, "DROPPED": 1, "UNFINISHED": 2}
    told = " ".join(words.sentences(found))
    assert "1 complete, 0 pruned, 0 failed, 1 dropped for the budget, 2 not finished." in told
    assert "learning_rate=" in told.partition("Dropped for the budget: ")[2]


@pytest.mark.parametrize(
    ("driver", "state"),
    [("process {own} on {here}", "RUNNING"), ("process 1 on elsewhere", "RUNNING"),
     ("process 4194305 on {here}", "PAUSED"), (None, "PAUSED")],
)  # fmt: skip
def test_a_trial_runs_while_it_has_a_slot_and_the_driver_lives(ran, driver, state):
    folder = StudyFolder(ran, "s")
    if driver:
        (folder.path / "driver").write_text(driver.format(own=os.getpid(), here=socket.gethostname()))
    counts = status(study(), ran)["counts"]
    assert counts[state] == 1
    assert counts["RUNNING"] + counts["PAUSED"] == 1


def test_a_driver_that_ended_runs_nothing_wherever_it_was(ran, monkeypatch):
    folder = StudyFolder(ran, "s")
    with lock(folder):
        assert status(study(), ran)["counts"]["RUNNING"] == 1
    monkeypatch.setattr(socket, "gethostname", lambda: "the login node")
    assert status(study(), ran)["counts"]["RUNNING"] == 0


def test_a_study_that_has_not_run_to_its_end_is_not_promoted(ran):
    state = StudyState.of(read(StudyFolder(ran, "s").ledger).events)
    with pytest.raises(StudyError, match="no measured winner yet"):
        best_winner(study(), state)
    for trial in state.trials.values():
        trial.result = TrialResult(
            state="COMPLETE", epochs=2, best_value=0.8, best_epoch=1, checkpoint="c", checkpoint_sha256="0" * 64
        )
        state.evaluated.setdefault(trial.cell, {"trial": trial.trial})
    with pytest.raises(StudyError, match=r"not finished: 1 of 4 trials are done, .*; `python -m search run` it"):
        best_winner(study(), state)


def test_winners_on_several_data_sets_are_not_ranked(reported):
    with pytest.raises(StudyError, match="has winners on several data sets; a promotion compares models on one"):
        best_winner(reported.study, reported.state)


@pytest.mark.parametrize(("direction", "best"), [("maximize", max), ("minimize", min)])
def test_the_best_winner_is_chosen_in_the_direction_of_its_metric(reported, direction, best):
    state, study = reported.state, reported.study
    one = study.model_copy(update={"axes": study.axes | {"dataset": study.axes["dataset"][:1]}})
    state._declaration = state.declaration.model_copy(update={"direction": direction})
    asked = identified(grid.expand(one), state)
    found = winners(state, {identity: trial.cell.name for identity, trial in asked.items()})
    state.evaluated = {winner.cell: {"trial": winner.trial} for winner in found}
    assert len(found) > 1
    assert best_winner(one, state).value == best(winner.value for winner in found)
    del state.evaluated[found[0].cell]
    with pytest.raises(StudyError, match=rf"not finished: .*, {len(found) - 1} of {len(found)} winners measured"):
        best_winner(one, state)


@pytest.mark.slow
def test_a_probe_measures_every_kind_of_trial():
    from trainers.speed import images_per_second

    axes = AXES | {"initialization": "random", "backbone": "test_vit3", "resolution": 32}
    for adaptation in ("finetune", "probe"):
        config = grid.expand(study(axes=axes | {"adaptation": adaptation}, recipe={"batch_size": 4})).trials[0].config
        assert images_per_second(config, steps=3) > 1


def test_brackets_in_a_reason_are_no_markup():
    told = "bug: RuntimeError: [enforce fail at alloc.cpp:121] closing [/__w/pair.cc:553] in [batch, channels]"
    row = {
        "trial": "t",
        "cell": "c[1]",
        "searched": {"x": 1.0},
        "seed": 0,
        "state": "FAILED",
        "reason": told,
        "log": [],
        "best": None,
        "seconds": 1.0,
        "gpu_seconds": 0.0,
        "interrupted": [],
    }
    written = io.StringIO()
    found = {"study": "s", "cells": 1, "counts": {"FAILED": 1}, "direction": "maximize", "trials": [row]}
    found |= {"budget": None, "no_longer_asked_for": {"trials": 0}, "to_come": {}, "unusable": {}}
    show(found, Console(file=written, width=200))
    assert told in written.getvalue()
    assert "c[1]" in written.getvalue()


@pytest.mark.parametrize(
    ("more", "prunes"),
    [
        ({}, True),
        ({"search": {"learning_rate": [1e-4]}, "seeds": [0, 1, 2]}, False),  # seeds race as one
        ({"search": {"learning_rate": [1e-4]}, "seeds": [0, 1, 2], "pruning": {"pruner": "hyperband"}}, True),
        ({"search": {"learning_rate": [1e-4]}, "seeds": [0], "pruning": {"pruner": "hyperband"}}, False),
        ({"seeds": [0, 1, 2], "pruning": {"pruner": "median"}}, True),  # 6 trials
        ({"seeds": [0, 1], "pruning": {"pruner": "median"}}, False),  # 4 trials, of 5 that it waits for
        ({"seeds": [0, 1], "pruning": {"pruner": "median", "settings": {"n_startup_trials": 1}}}, True),
        ({"search": {"learning_rate": [1e-4]}, "pruning": {"within": "study"}}, True),  # two cells, one group
        ({"pruning": {"pruner": "none"}}, False),
    ],
)
def test_a_plan_reckons_with_pruning_where_there_will_be_some(more, prunes):
    planned = plan(study(**more))
    cost = planned["estimated"]
    assert ("pruning leaves 64%" in cost["basis"]) == prunes
    # Arithmetic alone lies between 40 and 250 TFLOP/s.
    share = cost["gpu_hours"]["low"] * 250 / (cost["gpu_hours"]["high"] * 40)
    assert share == pytest.approx(0.64 if prunes else 1.0, rel=0.01)
    if any("nothing will be pruned" in warning for warning in planned["warnings"]):
        assert not prunes


def test_the_cache_of_a_plan_holds_what_winners_are_measured_on_too():
    """224 px and 512 px of 9,125 images that are trained on, and of 18,000 and 112,120 others."""
    more = {"vindr_pcxr": ["vindr_cxr", "nih_chest_xray14"]}
    cost = plan(study(evaluation={"external": more}))["estimated"]
    assert cost["cache_bytes"]["low"] == (9125 + 18_000 + 112_120) * (224**2 + 512**2)
    assert cost["images"] == 9125
    assert cost["epochs"] == 40
    unknown = {"mine": {"source": "csv", "table": "t.csv", "image": "i", "patient": "p", "findings": {"edema": "e"}}}
    asked = study(evaluation={"external": {"vindr_pcxr": ["mine"]}}, data=unknown)
    cost = plan(asked)["estimated"]
    assert cost["cache_bytes"]["low"] == 9125 * (224**2 + 512**2)
    assert "without mine, whose size is not known beforehand" in cost["basis"]


@pytest.mark.parametrize(
    ("sampling", "warned"),
    [
        ({"sampler": "cmaes", "trials": 8}, "cmaes draws 8 points of a cell before it learns from what they came to"),
        ({"sampler": "gp", "trials": 5}, "gp draws 8 points of a cell before it learns from what they came to"),
        ({"sampler": "gp", "trials": 5, "per_round": 2}, None),
        ({"sampler": "tpe", "trials": 9}, None),
        ({"sampler": "random", "trials": 2}, None),
    ],
)  # fmt: skip
def test_a_plan_warns_of_a_sampler_that_cannot_learn(sampling, warned):
    told = plan(study(search={"learning_rate": {"low": 1e-5, "high": 1e-3}}, sampling=sampling))["warnings"]
    assert [warning for warning in told if warning.startswith("sampling.trials: ")] == told
    assert len(told) == (warned is not None)
    assert all(warned in warning for warning in told)


def test_a_plan_does_not_warn_where_every_point_that_exists_is_drawn():
    assert plan(study(sampling={"sampler": "tpe", "trials": 8}))["warnings"] == []


@pytest.mark.parametrize(
    ("axes", "search", "told"),
    [
        (
            {"adaptation": ["knn", "probe"], "resolution": 224},
            {"learning_rate": [1e-4, 1e-5], "augmentation": ["paper", "none"]},
            [
                "adaptation knn: augmentation, learning_rate changes nothing there; 3 trials of 4 would repeat others",
                "adaptation probe: augmentation changes nothing there; 2 trials of 4 would repeat others",
            ],
        ),
        ({"adaptation": ["finetune", "knn"], "resolution": 224}, {"learning_rate": [1e-4]}, []),
        ({"adaptation": "probe", "resolution": 224}, {"learning_rate": [1e-4, 1e-5]}, []),
    ],
)
def test_a_plan_tells_of_settings_that_change_nothing(axes, search, told):
    warned = plan(study(axes={**AXES, **axes}, search=search))["warnings"]
    assert [warning for warning in warned if warning.startswith("adaptation")] == told
