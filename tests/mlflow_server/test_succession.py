"""A promotion or rollback that is killed at any moment is whole after the next command."""

import multiprocessing
import os
import shutil
import signal
import time

import pytest
from mlflow.tracking import MlflowClient

from mlflow_server import succession
from mlflow_server.errors import PromotionError
from mlflow_server.history import History
from mlflow_server.registry import CHALLENGER, CLAIM, Registry
from mlflow_server.rollback import roll_back
from tests.mlflow_server.packaged import packaged

FORK = multiprocessing.get_context("fork")  # a new interpreter would spend seconds on importing mlflow


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A registry whose model `m` has three versions and the first of them as champion."""
    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder}/mlflow.db"
    client, registry, history = MlflowClient(uri), Registry(uri), History(folder, "m")
    experiment = client.create_experiment("e")
    packaged(folder)  # what every version's source has
    for _ in range(3):
        run = client.create_run(experiment).info.run_id
        registry.register("m", source=str(folder), run_id=run, tags={})
    crown("1", None, registry, history)
    registry.challenge(registry.find("models:/m/2"))
    return folder


@pytest.fixture
def storage(store, tmp_path):
    shutil.copytree(store, tmp_path / "storage")
    return tmp_path / "storage"


def opened(storage):
    return Registry(f"sqlite:///{storage}/mlflow.db"), History(storage, "m")


def crown(number, before, registry, history):
    champion = registry.find(f"models:/m/{before}") if before else None
    evidence = {"champion_before": before, "study": "s", "reasons": []}
    version = registry.find(f"models:/m/{number}")
    return succession.crown(
        version, instead_of=champion, action="promoted", evidence=evidence, registry=registry, history=history
    )


def kill_myself(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def promote_and_die(storage, place, name, after):
    """Make version 2 champion and be killed right before or right after a step."""
    registry, history = opened(storage)
    target = {"registry": registry, "client": registry._client, "history": history}[place]
    step = getattr(target, name)

    def dying(*args, **kwargs):
        if after:
            step(*args, **kwargs)
        kill_myself()

    setattr(target, name, dying)
    crown("2", "1", registry, history)


MOMENTS = [
    # step, killed after it, whether the alias has moved by then
    ("history", "intend", False, False),
    ("history", "intend", True, False),
    ("client", "create_registered_model", True, False),
    ("client", "set_registered_model_alias", True, True),
    ("client", "delete_registered_model_alias", True, True),
    ("client", "delete_registered_model", True, True),
    ("history", "append", True, True),
    ("registry", "remember", True, True),
    ("history", "forget", True, True),
]


@pytest.mark.parametrize(("place", "name", "after", "moved"), MOMENTS)
def test_a_killed_promotion_has_happened_wholly_or_not_at_all(storage, place, name, after, moved):
    process = FORK.Process(target=promote_and_die, args=(storage, place, name, after))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL

    registry, history = opened(storage)
    succession.settle("m", registry=registry, history=history)
    assert history.intended() is None
    assert registry.champion("m").version == ("2" if moved else "1")
    assert [entry["version"] for entry in history.read()] == (["1", "2"] if moved else ["1"])
    mirrored = [entry["version"] for entry in registry.remembered("m")]
    assert mirrored == [entry["version"] for entry in history.read()]
    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    assert (CHALLENGER in client.get_registered_model("m").aliases) is not moved

    # Nothing is left that would stop whoever comes next.
    crown("3", "2" if moved else "1", registry, history)
    assert registry.champion("m").version == "3"
    assert roll_back("m", registry=registry, history=history)["version"] == ("2" if moved else "1")


def test_an_interrupted_change_is_completed_by_the_next_one(storage):
    process = FORK.Process(target=promote_and_die, args=(storage, "client", "set_registered_model_alias", True))
    process.start()
    process.join(60)
    registry, history = opened(storage)
    assert roll_back("m", registry=registry, history=history)["version"] == "1"
    assert [(e["action"], e["version"]) for e in history.read()] == [
        ("promoted", "1"),
        ("promoted", "2"),
        ("rolled_back", "1"),
    ]


def test_a_killed_promotion_that_another_storage_folder_overtook_is_on_record(storage, tmp_path):
    process = FORK.Process(target=promote_and_die, args=(storage, "client", "set_registered_model_alias", True))
    process.start()
    process.join(60)
    registry, history = opened(storage)
    elsewhere = History(tmp_path / "elsewhere", "m")
    registry.unlock("m")  # as the other folder's owner was told to
    crown("3", "2", registry, elsewhere)
    assert succession.settle("m", registry=registry, history=history)["version"] == "2"
    told = [entry["version"] for entry in succession.told("m", registry=registry, history=history)]
    assert told == ["1", "2", "3"]
    assert roll_back("m", registry=registry, history=history)["version"] == "2"
    assert roll_back("m", registry=registry, history=history)["version"] == "1"


def test_a_version_becomes_champion_again_with_an_entry_of_its_own(storage):
    registry, history = opened(storage)
    crown("2", "1", registry, history)
    roll_back("m", registry=registry, history=history)
    crown("2", "1", registry, history)
    told = [(entry["action"], entry["version"]) for entry in history.read()]
    assert told == [("promoted", "1"), ("promoted", "2"), ("rolled_back", "1"), ("promoted", "2")]


def test_whoever_changes_the_champion_completes_the_record_of_the_one_before(storage):
    registry, history = opened(storage)
    history.intend("promoted", {"version": "2", "champion_before": "1"})
    registry.crown(registry.find("models:/m/2"), instead_of=registry.champion("m"))
    crown("3", "2", registry, history)
    assert [entry["version"] for entry in history.read()] == ["1", "2", "3"]


def test_the_very_first_promotion_of_a_storage_folder_that_was_killed_is_completed(storage, tmp_path):
    registry, history = opened(storage)[0], History(tmp_path / "new", "m")
    history.intend("promoted", {"version": "2", "champion_before": "1"})
    registry.crown(registry.find("models:/m/2"), instead_of=registry.champion("m"))
    assert succession.settle("m", registry=registry, history=history)["version"] == "2"
    assert [entry["version"] for entry in history.read()] == ["2"]


def test_what_happened_before_or_to_others_does_not_say_that_a_killed_promotion_came_about(storage):
    """Version 2 was replaced long ago, and another refused since."""
    registry, history = opened(storage)
    crown("2", "1", registry, history)
    crown("3", "2", registry, history)
    time.sleep(0.002)  # entries and intents are told apart by the millisecond
    history.intend("promoted", {"version": "2", "champion_before": "3"})
    registry.remember(registry.find("models:/m/1"), history.append("refused", {"version": "1", "champion_before": "3"}))
    assert succession.settle("m", registry=registry, history=history) is None
    assert [entry["action"] for entry in history.read()] == ["promoted", "promoted", "promoted", "refused"]


def test_a_killed_promotion_of_a_version_that_is_gone_holds_up_nobody(storage):
    registry, history = opened(storage)
    history.intend("promoted", {"version": "2"})
    MlflowClient(f"sqlite:///{storage}/mlflow.db").delete_model_version("m", "2")
    assert succession.settle("m", registry=registry, history=history) is None
    crown("3", "1", registry, history)
    assert registry.champion("m").version == "3"


def test_a_killed_promotion_of_a_version_whose_number_another_bears_has_not_happened(storage):
    """Of a model that was made anew, or in another registry."""
    registry, history = opened(storage)
    history.intend("promoted", {"version": "1", "run_id": "of the first model"})
    assert succession.settle("m", registry=registry, history=history) is None
    assert len(history.read()) == 1


def test_with_a_history_that_cannot_be_read_the_alias_does_not_move(storage):
    registry, history = opened(storage)
    path = storage / "mlpromotions" / "m.jsonl"
    path.write_text(path.read_text().replace('"study": "s"', '"study": "t"'))
    with pytest.raises(PromotionError, match="line 1 was changed"):
        crown("2", "1", registry, history)
    assert registry.champion("m").version == "1"
    assert history.intended() is None


def test_a_champion_is_no_challenger(storage):
    registry, _ = opened(storage)
    registry.challenge(registry.champion("m"))
    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    assert client.get_registered_model("m").aliases[CHALLENGER] == 2


def test_while_one_changes_the_champion_another_is_refused(storage):
    registry, history = opened(storage)
    with history.alone(), pytest.raises(PromotionError, match="another promotion or rollback is being carried out"):
        crown("2", "1", *opened(storage))
    assert registry.champion("m").version == "1"


def test_an_overtaken_promotion_leaves_no_intent(storage):
    registry, history = opened(storage)
    with pytest.raises(PromotionError, match="the champion changed to version 1"):
        crown("3", "2", registry, history)
    assert history.intended() is None
    assert len(history.read()) == 1


def test_the_claim_of_somebody_else_is_not_released(storage):
    registry, history = opened(storage)
    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    client.create_registered_model(f"m{CLAIM}", description="promotion by somebody elsewhere abc")
    history.intend("promoted", {"version": "2"})
    assert succession.settle("m", registry=registry, history=history) is None
    with pytest.raises(PromotionError, match="unlock m"):
        crown("2", "1", registry, history)
