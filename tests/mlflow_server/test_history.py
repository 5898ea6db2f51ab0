import hashlib
import json
import os
import shutil
import sys

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, RESOURCE_DOES_NOT_EXIST
from mlflow.tracking import MlflowClient
from typer.testing import CliRunner

from mlflow_server import __main__ as commands
from mlflow_server import reload, succession
from mlflow_server.errors import PromotionError
from mlflow_server.history import History
from mlflow_server.registry import SCORES_HASH, Registry
from mlflow_server.rollback import before, roll_back
from tests.mlflow_server.packaged import packaged


def raising(problem):
    def broken(*_, **__):
        raise problem

    return broken


@pytest.fixture
def promoted(tmp_path, store_uri):
    """A storage whose model `m` had versions 1, 2 and 3 as champions, in this order."""
    client, registry, history = MlflowClient(store_uri), Registry(store_uri), History(tmp_path, "m")
    experiment = client.create_experiment("e", artifact_location=(tmp_path / "artifacts").as_uri())
    champion = None
    for number in ("1", "2", "3"):
        run = client.create_run(experiment).info.run_id
        version = registry.register("m", source=str(packaged(tmp_path / number)), run_id=run, tags={})
        registry.crown(version, instead_of=champion)
        told = {"version": number, "run_id": run, "study": "s"}
        told |= {"champion_before": champion.version if champion else None}
        registry.remember(version, history.append("promoted", {**told, "reasons": [], "differences": [1]}))
        champion = version
    return tmp_path, registry, history


def test_rolling_back_goes_from_champion_to_champion_and_is_recorded(promoted):
    _, registry, history = promoted
    for expected in ("2", "1"):
        entry = roll_back("m", registry=registry, history=history)
        assert registry.champion("m").version == entry["version"] == expected
    with pytest.raises(PromotionError, match="no champion before version 1 is on record and still there; promote"):
        roll_back("m", registry=registry, history=history)
    actions = [(entry["action"], entry["version"]) for entry in history.read()]
    assert actions[3:] == [("rolled_back", "2"), ("rolled_back", "1")]


def test_rolling_back_ends_though_a_version_was_champion_twice(promoted):
    """A promotion adds a champion, a roll-back takes one away: 1, 2, 3, 1 again."""
    _, registry, history = promoted
    registry.crown(registry.find("models:/m/1"), instead_of=registry.champion("m"))
    history.append("promoted", {"version": "1", "champion_before": "3", "study": "s", "reasons": []})
    for expected in ("3", "2", "1"):
        assert roll_back("m", registry=registry, history=history)["version"] == expected
    with pytest.raises(PromotionError, match="no champion before version 1 is on record"):
        roll_back("m", registry=registry, history=history)


def test_what_another_storage_folder_promoted_is_rolled_back_and_told_too(promoted, tmp_path):
    _, registry, history = promoted
    elsewhere = History(tmp_path / "elsewhere", "m")
    assert roll_back("m", registry=registry, history=elsewhere)["version"] == "2"
    for one in (history, elsewhere):
        told = succession.told("m", registry=registry, history=one)
        assert [(e["action"], e["version"]) for e in told] == [
            *(("promoted", number) for number in ("1", "2", "3")),
            ("rolled_back", "2"),
        ]
    assert roll_back("m", registry=registry, history=history)["version"] == "1"


def test_rolling_back_passes_over_a_version_that_was_deleted(promoted):
    storage, registry, history = promoted
    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    client.delete_model_version("m", "2")
    assert roll_back("m", registry=registry, history=history)["version"] == "1"


@pytest.mark.parametrize(
    "gone",
    ["", "MLmodel", "artifacts/weights.safetensors", "artifacts/program.pt2", "artifacts/contract.json"],
)
def test_rolling_back_passes_over_a_version_whose_files_are_gone(promoted, gone):
    storage, registry, history = promoted
    if gone:
        (storage / "2" / gone).unlink()
    else:
        shutil.rmtree(storage / "2")
    assert roll_back("m", registry=registry, history=history)["version"] == "1"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("program.pt2", "another"),
        ("weights.safetensors", "another"),
        ("contract.json", "{"),
        ("contract.json", "[]"),
        ("contract.json", '{"sha256": {"program": "1"}}'),
    ],
)
def test_no_version_becomes_champion_again_whose_files_were_changed(promoted, file, content):
    storage, registry, history = promoted
    (storage / "2" / "artifacts" / file).write_text(content)
    told = rf"models:/m/2: {file}: not as packaged, .* bring the files back from a backup, or delete version 2 of m"
    with pytest.raises(PromotionError, match=told):
        roll_back("m", registry=registry, history=history)
    assert registry.champion("m").version == "3"
    MlflowClient(f"sqlite:///{storage}/mlflow.db").delete_model_version("m", "2")
    assert roll_back("m", registry=registry, history=history)["version"] == "1"


def test_a_store_that_is_away_does_not_hold_up_a_roll_back(promoted, monkeypatch):
    _, registry, history = promoted
    monkeypatch.setattr(
        "mlflow_server.packaged_files.get_artifact_repository", raising(ConnectionError("the store is away"))
    )
    assert roll_back("m", registry=registry, history=history)["version"] == "2"


@pytest.mark.parametrize(
    ("problem", "there"),
    [
        (MlflowException("no such model", RESOURCE_DOES_NOT_EXIST), False),
        (MlflowException("the store is away", INTERNAL_ERROR), True),
        (ConnectionError("the store is away"), True),
    ],
)
def test_files_are_gone_only_where_the_store_says_so(promoted, monkeypatch, problem, there):
    _, registry, _ = promoted
    monkeypatch.setattr("mlflow_server.packaged_files.get_artifact_repository", raising(problem))
    assert registry.is_packaged("m", "2") is there


def test_a_version_that_cannot_be_loaded_is_told_with_what_to_do(promoted):
    storage, _, _ = promoted
    (reason,) = reload.checks("models:/m/2", None, uri=f"sqlite:///{storage}/mlflow.db", tolerance=0)
    assert not reason.holds
    assert reason.evidence.endswith("; if that stays so, delete version 2 of m and promote again")


def test_rolling_back_what_is_not_there_leaves_nothing(promoted, tmp_path):
    storage, registry, _ = promoted
    before = sorted(storage.rglob("*"))
    for folder in (tmp_path / "typo", storage):
        with pytest.raises(PromotionError, match="there is no champion to roll back"):
            roll_back("typo", registry=registry, history=History(folder, "typo"))
    assert not (tmp_path / "typo").exists()
    assert sorted(storage.rglob("*")) == before


def test_a_champion_made_by_hand_is_rolled_back_to_the_one_before(promoted):
    storage, registry, history = promoted
    run = MlflowClient(f"sqlite:///{storage}/mlflow.db").create_run("1").info.run_id
    by_hand = registry.register("m", source=str(storage), run_id=run, tags={})
    registry.crown(by_hand, instead_of=registry.champion("m"))
    assert roll_back("m", registry=registry, history=history)["version"] == "3"


@pytest.mark.parametrize("given", ["1", "2"])
def test_an_alias_that_was_given_to_an_earlier_version_by_hand_goes_to_the_last_on_record(promoted, given):
    """As `promote` and `history` say."""
    storage, registry, history = promoted
    MlflowClient(f"sqlite:///{storage}/mlflow.db").set_registered_model_alias("m", "champion", given)
    told = succession.by_hand(registry.champion("m"), registry=registry, history=history)
    assert "the last one on record is version 3" in told
    assert roll_back("m", registry=registry, history=history)["version"] == "3"
    assert roll_back("m", registry=registry, history=history)["version"] == "2"


def test_an_alias_that_was_lost_is_given_back(promoted):
    """MLflow drops the alias with the version that bore it, and with nobody's word in the UI."""
    storage, registry, history = promoted
    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    client.delete_model_version("m", "3")
    assert registry.champion("m") is None
    assert before("m", None, registry=registry, history=history) == (["1", "2"], ["3"])
    assert roll_back("m", registry=registry, history=history)["version"] == "2"
    assert roll_back("m", registry=registry, history=history)["version"] == "1"


def test_numbers_that_a_model_made_anew_gives_again_are_not_those_on_record(tmp_path, store_uri):
    """The first model's version 2 was champion; that of the second was refused."""
    client, registry, history = MlflowClient(store_uri), Registry(store_uri), History(tmp_path, "m")
    experiment = client.create_experiment("e")

    def registered():
        run = client.create_run(experiment).info.run_id
        return registry.register("m", source=str(tmp_path), run_id=run, tags={})

    def promote(version, before):
        registry.crown(version, instead_of=before)
        told = {"version": version.version, "run_id": version.run_id, "study": "s", "reasons": []}
        history.append("promoted", {**told, "champion_before": before.version if before else None})
        return version

    promote(registered(), promote(registered(), None))
    client.delete_registered_model("m")
    promote(registered(), None)
    registered()
    with pytest.raises(PromotionError, match="no champion before version 1 is on record and still there"):
        roll_back("m", registry=registry, history=history)
    assert registry.champion("m").version == "1"


def test_the_champion_of_a_model_that_was_made_anew_is_not_the_one_on_record(promoted):
    """It bears the number of the last one on record, which was another run's."""
    storage, registry, history = promoted
    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    for number in ("2", "3"):
        roll = registry.find(f"models:/m/{number}")
        history.append("promoted", {"version": number, "run_id": roll.run_id, "reasons": []})
    rolled = roll_back("m", registry=registry, history=history)
    assert rolled["run_id"] == registry.find(f"models:/m/{rolled['version']}").run_id
    experiment = client.get_experiment_by_name("e").experiment_id
    client.delete_registered_model("m")
    for _ in range(3):
        run = client.create_run(experiment).info.run_id
        registry.register("m", source=str(storage / "1"), run_id=run, tags={})
    client.set_registered_model_alias("m", "champion", rolled["version"])
    told = succession.by_hand(registry.champion("m"), registry=registry, history=history)
    assert told.startswith(f"version {rolled['version']} was made champion by hand")


def test_where_all_earlier_versions_are_deleted_that_is_told(promoted):
    storage, registry, history = promoted
    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    for version in ("1", "2"):
        client.delete_model_version("m", version)
    with pytest.raises(
        PromotionError, match=r"still there \(deleted since, they or their files: 1, 2\); promote another"
    ):
        roll_back("m", registry=registry, history=history)
    assert registry.champion("m").version == "3"


@pytest.mark.parametrize(
    "value",
    ["garbage", "[]", "null", '{"time_ms": "1", "action": "promoted", "version": "3", "who": "x"}',
     '{"time_ms": 1, "action": "promoted", "version": "77", "champion_before": "76", "who": "x"}',
     '{"time_ms": 1, "action": "promoted", "version": "3"}',
     '{"time_ms": 1, "action": 5, "version": "3", "who": "x"}',
     '{"time_ms": 1, "action": "promoted", "version": "3", "who": "x", "reasons": [{}]}',
     '{"time_ms": 1, "action": "promoted", "version": "3", "who": "x", "reasons": "ab"}',
     '{"time_ms": 1000000000000000000, "action": "promoted", "version": "3", "who": "x"}'],
)  # fmt: skip
def test_a_tag_that_is_no_entry_of_its_version_is_passed_over(promoted, value):
    storage, registry, history = promoted
    before = succession.told("m", registry=registry, history=history)
    MlflowClient(f"sqlite:///{storage}/mlflow.db").set_model_version_tag("m", "3", "radsweep.promotion.x", value)
    assert succession.told("m", registry=registry, history=history) == before


def test_a_model_of_somebody_is_no_claim(promoted):
    storage, registry, _ = promoted
    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    client.create_registered_model("m.promotion", description="a network")
    with pytest.raises(PromotionError, match=r"m\.promotion is a registered model and no claim; it stays"):
        registry.unlock("m")
    assert client.get_registered_model("m.promotion").description == "a network"


def test_a_version_that_was_made_from_no_run_has_no_scores(promoted):
    storage, registry, _ = promoted
    MlflowClient(f"sqlite:///{storage}/mlflow.db").create_model_version("m", source=str(storage))
    with pytest.raises(PromotionError, match="m version 4 was made from no run: it has no scores"):
        registry.scores(registry.find("models:/m/4"))


def test_scores_that_were_changed_since_are_no_evidence(promoted, monkeypatch):
    _, registry, _ = promoted
    stored = {"content": b"as measured"}
    monkeypatch.setattr(Registry, "artifact", lambda *_: stored["content"])
    champion = registry.champion("m")
    sha256 = hashlib.sha256(b"as measured").hexdigest()
    assert registry.scores(champion) == b"as measured"  # of a version that no hash was kept of
    registry.tag(champion, {SCORES_HASH: sha256})
    champion = registry.champion("m")
    assert registry.scores(champion) == b"as measured"
    stored["content"] = b"better"
    for known in (None, sha256):
        with pytest.raises(PromotionError, match=r"m version 3: evaluation/scores.parquet of run .* was changed since"):
            registry.scores(champion, sha256=known)
    registry.tag(champion, {SCORES_HASH: hashlib.sha256(b"better").hexdigest()})  # as whoever may write there could
    with pytest.raises(PromotionError, match="was changed since"):
        registry.scores(registry.champion("m"), sha256=sha256)


def test_scores_on_another_data_set_that_were_changed_since_are_no_evidence(promoted, tmp_path):
    _, registry, _ = promoted
    champion, client = registry.champion("m"), MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    assert registry.external_scores(champion, "other") is None
    for content in (b"as measured", b"better"):
        (tmp_path / "scores_other.parquet").write_bytes(content)
        client.log_artifact(champion.run_id, str(tmp_path / "scores_other.parquet"), "evaluation")
        assert registry.external_scores(registry.champion("m"), "other") == content
    registry.tag(champion, {SCORES_HASH: hashlib.sha256(b"its own").hexdigest()})
    assert registry.external_scores(registry.champion("m"), "other") is None  # measured since it was registered
    registry.tag(champion, {f"{SCORES_HASH}.other": hashlib.sha256(b"as measured").hexdigest()})
    with pytest.raises(PromotionError, match=r"evaluation/scores_other.parquet of run .* was changed since"):
        registry.external_scores(registry.champion("m"), "other")
    sha256 = hashlib.sha256(b"better").hexdigest()  # as the history has it, which counts more than a tag
    assert registry.external_scores(registry.champion("m"), "other", sha256=sha256) == b"better"
    registry.tag(champion, {f"{SCORES_HASH}.lost": hashlib.sha256(b"as measured").hexdigest()})
    with pytest.raises(PromotionError, match=r"no artifact evaluation/scores_lost.parquet"):
        registry.external_scores(registry.champion("m"), "lost")


def test_the_history_is_mirrored_in_the_versions_tags(promoted):
    _, registry, history = promoted
    mirrored = registry.remembered("m")
    own = [{key: value for key, value in entry.items() if key != "differences"} for entry in history.read()]
    assert sorted(mirrored, key=lambda e: e["version"]) == own
    assert all(entry["who"] and entry["time_ms"] for entry in mirrored)
    assert {entry["origin"] for entry in mirrored} == {history.origin()} != {None}


def test_an_entry_says_who_acted(tmp_path, monkeypatch):
    """The user of the tracking server; else of this machine, who need not have a name there."""
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    monkeypatch.setattr("getpass.getuser", lambda: "local")
    monkeypatch.setattr("socket.gethostname", lambda: "node")
    history = History(tmp_path, "m")
    assert history.append("refused", {"version": "1"})["who"] == "local@node"
    for problem in (KeyError("uid"), OSError("no user")):
        monkeypatch.setattr("getpass.getuser", raising(problem))
        assert history.append("refused", {"version": "1"})["who"] == f"uid {os.getuid()}@node"
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "anna")
    assert history.append("refused", {"version": "1"})["who"] == "anna@node"


@pytest.mark.parametrize("change", ["edited", "taken out", "torn"])
def test_a_changed_history_is_noticed(promoted, change):
    storage, _, history = promoted
    path = storage / "mlpromotions" / "m.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    if change == "edited":
        lines[1] = json.dumps(json.loads(lines[1]) | {"who": "nobody"}) + "\n"
    elif change == "taken out":
        del lines[1]
    else:
        lines[1] = lines[1][:20] + "\n"
    path.write_text("".join(lines))
    with pytest.raises(PromotionError, match="line 2 was changed, or one before it is missing"):
        history.read()


def test_a_difference_without_a_value_is_null_in_the_history(tmp_path):
    undefined = [{"pathology": "hernia", "difference": float("nan"), "low": float("-inf")}]
    entry = History(tmp_path, "m").append("refused", {"version": "1", "differences": undefined})
    assert entry["differences"] == [{"pathology": "hernia", "difference": None, "low": None}]
    json.dumps(entry, allow_nan=False)
    assert History(tmp_path, "m").read() == [entry]


@pytest.mark.parametrize("command", ["history", "rollback", "unlock"])
def test_a_server_that_is_away_is_told_at_once_and_without_its_password(tmp_path, capsys, monkeypatch, command):
    away = "http://admin:s3cret@127.0.0.1:9"
    monkeypatch.setattr(sys, "argv", ["mlflow_server", command, "m", "--storage", str(tmp_path), "--tracking", away])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert "error: MLflow at http://127.0.0.1:9 cannot be reached: " in told
    assert "s3cret" not in told


@pytest.mark.parametrize(
    ("name", "message"),
    [
        *((name, "only letters, digits") for name in ("../m", "", ".hidden", "a/b")),
        ("m.promotion", "stand for promotions"),
    ],
)
def test_a_name_cannot_lead_out_of_the_storage_or_be_a_claim(tmp_path, name, message):
    with pytest.raises(PromotionError, match=message):
        History(tmp_path, name)


@pytest.mark.parametrize(
    ("command", "message"),
    [("history", "mlflow.db is missing: no study ran there"), ("rollback", "no study ran"), ("unlock", "no study ran")],
)
def test_a_storage_that_is_none_is_told_and_not_made(tmp_path, capsys, monkeypatch, command, message):
    monkeypatch.setattr(sys, "argv", ["mlflow_server", command, "m", "--storage", str(tmp_path / "typo")])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "typo").exists()


def test_the_commands_show_the_history_and_roll_back(promoted, capsys, monkeypatch):
    storage, registry, _ = promoted

    def told(*words):
        monkeypatch.setattr(sys, "argv", ["mlflow_server", *words, "m", "--storage", str(storage)])
        with pytest.raises(SystemExit) as ended:
            commands.main()
        assert ended.value.code == 0
        return capsys.readouterr().out

    assert "rolled_back  version 2 instead of 3, by " in told("rollback")
    assert registry.champion("m").version == "2"
    lines = told("history").splitlines()
    assert len(lines) == 4
    assert "promoted  version 2 instead of 1, by " in lines[1]
    assert lines[1].endswith("from study s")
    (storage / "mlpromotions" / "m.jsonl").unlink()
    assert len(told("history").splitlines()) == 4
    assert "nothing holds it" in told("unlock")


def test_a_champion_that_was_made_by_hand_is_told(promoted, capsys, monkeypatch):
    storage, registry, history = promoted
    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    history.append("refused", {"version": "2", "study": "s", "reasons": []})
    assert succession.by_hand(registry.champion("m"), registry=registry, history=history) is None
    roll_back("m", registry=registry, history=history)
    assert succession.by_hand(registry.champion("m"), registry=registry, history=history) is None
    client.set_registered_model_alias("m", "champion", "1")
    monkeypatch.setattr(sys, "argv", ["mlflow_server", "history", "m", "--storage", str(storage)])
    with pytest.raises(SystemExit):
        commands.main()
    assert (
        "warning: version 1 was made champion by hand; the last one on record is version 2, " in capsys.readouterr().err
    )
    client.create_registered_model("other")
    version = client.create_model_version("other", source=str(storage)).version
    client.set_registered_model_alias("other", "champion", version)
    told = succession.by_hand(registry.champion("other"), registry=registry, history=History(storage, "other"))
    assert (
        told == f"version {version} was made champion by hand, and none is on record; take the alias away, and promote"
    )


def test_a_history_cut_at_any_byte_of_its_last_entry_is_read_and_goes_on(tmp_path):
    history = History(tmp_path, "m")
    entries = [history.append("promoted", {"version": str(number), "reasons": ["a" * 40]}) for number in (1, 2)]
    path = tmp_path / "mlpromotions" / "m.jsonl"
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for end in range(first, len(whole)):  # the line's own end is its acknowledgement
        path.write_bytes(whole[:end])
        assert history.read() == entries[:1]
        added = history.append("refused", {"version": "3"})
        assert history.read() == [entries[0], added]
        assert path.read_bytes().startswith(whole[:first] + b"{")


@pytest.mark.parametrize("content", ['{"a', "{}", "[1]"])
def test_an_intent_that_is_damaged_is_told(promoted, content):
    storage, registry, history = promoted
    (storage / "mlpromotions" / "m.intent").write_text(content)
    with pytest.raises(PromotionError, match=r"m.intent is damaged; move it away if no promotion of m is under way"):
        roll_back("m", registry=registry, history=history)
    assert registry.champion("m").version == "3"


def test_an_origin_that_is_damaged_is_told(promoted):
    storage, _, history = promoted
    (storage / "mlpromotions" / "m.origin").write_bytes(b"\xff")
    with pytest.raises(PromotionError, match=r"m.origin is damaged"):
        history.origin()


@pytest.mark.parametrize("command", ["history m", "rollback m", "unlock m", "start"])
def test_a_storage_whose_database_would_lie_elsewhere_is_refused(tmp_path, command):
    """`%20` in a database's address is a blank."""
    done = CliRunner().invoke(commands.app, [*command.split(), "--storage", str(tmp_path / "a%20b")])
    assert done.exit_code == 2
    assert "cannot be in the path of a database" in " ".join(done.output.replace("│", " ").split())


@pytest.mark.parametrize("left", [0, 1, 2])
def test_entries_that_are_missing_at_the_end_are_told(promoted, left, monkeypatch):
    storage, registry, history = promoted
    path = storage / "mlpromotions" / "m.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    assert succession.lost("m", registry=registry, history=history) == []
    path.write_bytes(b"".join(lines[:left]))
    found = succession.lost("m", registry=registry, history=history)
    assert [entry["version"] for entry in found] == ["1", "2", "3"][left:]
    told = CliRunner().invoke(commands.app, ["history", "m", "--storage", str(storage)])
    assert told.exit_code == 0
    assert f"warning: {3 - left} of these entries" in told.output


def test_what_follows_an_entry_of_the_ledger_was_in_it_also_where_nothing_says_its_origin(promoted):
    storage, registry, history = promoted
    path = storage / "mlpromotions" / "m.jsonl"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    path.with_suffix(".origin").unlink()
    found = succession.lost("m", registry=registry, history=history)
    assert [entry["version"] for entry in found] == ["2", "3"]


def test_what_another_storage_folder_promoted_is_not_missing(promoted, tmp_path):
    """Entries of earlier versions say no origin, as a folder without any entry has none."""
    _, registry, _ = promoted
    told = {"action": "promoted", "who": "x", "version": "3", "time_ms": 1, "hash": "1"}
    registry.remember(registry.champion("m"), told)
    assert succession.lost("m", registry=registry, history=History(tmp_path / "elsewhere", "m")) == []
