"""Real Ray Tune around a recorded-curve trainer: order, pruning, lost processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from datasets.dataset_config import DatasetConfig
from search import dispatcher, ray_backend, ray_cluster
from search.errors import StudyError
from search.resources import Slot, check_fit
from search.worker import WorkOrder
from tests.search.recorded import Search
from trainers.trial import Operation, TrialConfig

pytestmark = pytest.mark.slow

CURVES = {
    "good": [0.6, 0.7, 0.8, 0.9, 0.9, 0.9, 0.9, 0.95],
    "bad": [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5],
    "dies": [0.6, 0.7, 0.8, 0.85, 0.85, 0.85, 0.85, 0.85],
}


@pytest.fixture(scope="module")
def cluster():
    with ray_cluster.cluster(None, cpus=2) as resources:
        yield resources


def trainable(marks: Path, *, deaths: int):
    """Report a recorded curve; the trial `dies` kills its process at epoch 4, so many times."""

    def train(config):
        from ray import tune

        from trainers.trial import EpochMetrics, TrialResult, TrialState

        order = WorkOrder.model_validate_json(config["order"])
        for epoch in range(order.told_epochs + 1, order.until_epoch + 1):
            if order.trial == "dies" and epoch == 4 and len(list(marks.iterdir())) < deaths:
                (marks / str(len(list(marks.iterdir())))).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            value = CURVES[order.trial][epoch - 1]
            told = EpochMetrics(epoch=epoch, timestamp_ms=epoch, metrics={"val/score": value})
            tune.report({"epoch": told.model_dump_json()})
        done = order.until_epoch == 8
        result = TrialResult(
            state=TrialState.COMPLETE if done else TrialState.PAUSED,
            epochs=order.until_epoch,
            best_epoch=order.until_epoch,
            best_value=CURVES[order.trial][order.until_epoch - 1],
        )
        tune.report({"result": result.model_dump_json()})

    return train


def carry_out(search: Search, tmp_path: Path, *, deaths: int) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    run_through_ray(search, tmp_path, trainable(marks, deaths=deaths))


def run_through_ray(search: Search, tmp_path: Path, trained, *, slot_of=lambda trial: Slot(1, 0)) -> None:
    config = TrialConfig(
        dataset=DatasetConfig(name="d", source="d"),
        initialization="r",
        backbone="b",
        resolution=32,
        recipe={"epochs": 8},
    )
    operation = Operation(data_root=tmp_path, cache=tmp_path, trial_folder=tmp_path)
    ray_backend.train_all(
        search.schedule,
        order=lambda a: WorkOrder(
            trial=a.trial, config=config, operation=operation, until_epoch=a.until_epoch, told_epochs=a.told_epochs
        ),
        slot_of=slot_of,
        after_trial=lambda trial: None,
        trainable=trained,
    )


@pytest.mark.parametrize("deaths", [0, 1])
def test_ray_ends_as_the_schedule_alone_does(cluster, tmp_path, deaths):
    alone = Search(CURVES)
    alone.run()
    through_ray, interrupt = Search(CURVES), signal.getsignal(signal.SIGINT)
    carry_out(through_ray, tmp_path, deaths=deaths)
    assert signal.getsignal(signal.SIGINT) is interrupt  # Tune's own would swallow the next Ctrl-C
    assert through_ray.ends() == alone.ends()
    for trial, progress in through_ray.state.trials.items():
        assert progress.curve == alone.state.trials[trial].curve
    told = [(e["trial"], e["epoch"]) for e in through_ray.events if e["kind"] == "epoch"]
    assert len(told) == len(set(told))


def test_a_trial_that_finds_no_gpu_memory_ends_and_the_next_gets_a_clean_process(cluster, tmp_path):
    """The trial `dies` tells that no image fits; its process must not be used again."""
    seen = tmp_path / "seen"
    seen.mkdir()
    search = Search(CURVES)

    def train(config):
        from search import ray_backend as backend
        from trainers.trial import TrialError

        def carry_out(order, tell):
            (seen / f"{order.trial}-{order.until_epoch}-{os.getpid()}").touch()
            if order.trial == "dies":
                failure = TrialError("out_of_memory", "not even one image fits")
                tell({"failure": str(failure), "failure_kind": failure.kind, "log": "micro_batch.py:1 in run"})
                return
            trainable(seen, deaths=0)({"order": order.model_dump_json()})

        backend.carry_out = carry_out
        backend._train(config)

    run_through_ray(search, tmp_path, train)
    assert search.state.trials["dies"].reason == "out_of_memory: not even one image fits"
    assert search.state.trials["dies"].log == ["micro_batch.py:1 in run"]
    assert search.ends()["good"] == "COMPLETE"
    spoiled = {path.name.rpartition("-")[2] for path in seen.glob("dies-*")}
    later = {path.name.rpartition("-")[2] for path in seen.glob("good-8-*")}
    assert not spoiled & later


def test_a_process_that_always_dies_ends_its_trial_and_not_the_study(cluster, tmp_path):
    search = Search(CURVES)
    carry_out(search, tmp_path, deaths=99)
    assert search.ends()["dies"] == "FAILED"
    assert search.state.trials["dies"].reason == "process_died: 4 times, the last: its process died"
    assert search.ends()["good"] == "COMPLETE"


def test_a_trial_whose_node_went_away_before_it_began_is_withdrawn_and_begins_anew(
    cluster, tmp_path, monkeypatch, capfd
):
    """It was to compute the features that the others read; a process that could serve them is not ended for it."""
    search, processes = Search(CURVES, stores=dict.fromkeys(CURVES, "one")), tmp_path / "processes"
    processes.mkdir()
    here = ray_cluster.nodes()
    withdrawn = lambda: any(event["kind"] == "paused" for event in search.events)  # noqa: E731
    seen = []

    def nodes():
        """Of the node with the GPU is heard once."""
        seen.append(1)
        return [{"CPU": 1.0, "accelerator_type:T4": 1.0}, *here] if len(seen) == 1 else here

    def train(config):
        (processes / str(os.getpid())).touch()
        trainable(processes, deaths=0)(config)

    monkeypatch.setattr(ray_cluster, "nodes", nodes)
    monkeypatch.setattr(dispatcher, "SECONDS_BETWEEN_COUNTS", 0.5)
    slot_of = lambda trial: Slot(1) if withdrawn() else Slot(1, gpu_type="T4")  # noqa: E731
    run_through_ray(search, tmp_path, train, slot_of=slot_of)
    alone = Search(CURVES)
    alone.run()
    assert search.ends() == alone.ends()
    assert all(not progress.interruptions for progress in search.state.trials.values())
    first = next(event for event in search.events if event["kind"] == "started")
    assert len(search.state.trials[first["trial"]].starts) > 1
    assert len(list(processes.iterdir())) <= 2
    assert capfd.readouterr().out == ""  # Tune would print a line between those of progress


def test_a_private_cluster_is_closed_to_strangers(cluster):
    import ray

    address = ray.get_runtime_context().gcs_address
    known = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    code = f"import ray; ray.init('{address}', logging_level='ERROR'); print('inside')"
    tokens = ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64})
    strangers = [
        subprocess.Popen([sys.executable, "-c", code], env={**known, **token}, stdout=subprocess.PIPE, text=True)
        for token in tokens
    ]
    for stranger in strangers:  # each tries for a while
        assert "inside" not in stranger.communicate()[0]
        assert stranger.returncode != 0


def test_what_can_never_fit_is_refused_with_the_numbers(cluster):
    with pytest.raises(StudyError, match=r"asks for 3 CPU, but no node .* the largest has 2 CPU, 0 GPU"):
        check_fit(Slot(3), ray_cluster.nodes())
