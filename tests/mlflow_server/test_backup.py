import json
import os
import shutil
import sqlite3
import threading
import time
from contextlib import closing
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import pytest
import sqlalchemy
from mlflow.tracking import MlflowClient

from mlflow_server import backup, backup_database
from mlflow_server.backup import back_up, restore
from mlflow_server.backup_database import rows_by_table
from mlflow_server.check import check
from mlflow_server.credentials import obtain
from mlflow_server.errors import PromotionError, TrackingError
from mlflow_server.garbage import collect
from mlflow_server.history import History
from mlflow_server.server import ServerSettings, start, start_configured, upgrade
from mlflow_server.server_config import ServerConfig


def filled(config):
    """Write a run with metrics and a file the way a server does."""
    client = MlflowClient(config.backend)
    experiment = client.create_experiment("e", artifact_location=f"{config.destination}/e")
    run = client.create_run(experiment).info.run_id
    for step in range(5):
        client.log_metric(run, "loss", 1.0 / (step + 1), step=step)
    client.log_dict(run, {"a": 1}, "evidence/a.json")
    obtain(config.folder / "credentials")
    return run


@pytest.fixture
def server(tmp_path, empty_store):
    """A server on SQLite that holds a run."""
    config = ServerConfig(folder=tmp_path / "server")
    config.folder.mkdir()
    shutil.copy(empty_store, config.folder)
    filled(config)
    return config


def metrics(config, run):
    return [(m.step, m.value) for m in MlflowClient(config.backend).get_metric_history(run, "loss")]


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def backed_up(request, tmp_path_factory):
    """A server's file, one for an empty place, the backup, and a run in it."""
    folder = tmp_path_factory.mktemp("backup")
    databases = [None, None]
    if request.param == "postgresql":
        uri = request.getfixturevalue("postgresql")
        engine = sqlalchemy.create_engine(
            uri.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT"
        )
        with engine.connect() as connection:
            for name in ("before", "after"):
                connection.execute(sqlalchemy.text(f"CREATE DATABASE backup_{name}"))
        engine.dispose()
        databases = [uri.replace("/postgres", f"/backup_{name}") for name in ("before", "after")]
    before, after = (
        ServerConfig(folder=folder / name, database=database)
        for name, database in zip(("before", "after"), databases, strict=True)
    )
    before.folder.mkdir()
    run = filled(before)
    counts = back_up(before, folder / "copy")
    assert counts["metrics"] == 5
    return before, after, folder / "copy", run


def test_what_is_restored_is_what_was_backed_up(backed_up):
    before, after, copy, run = backed_up
    assert restore(after, copy) == rows_by_table(before)
    assert metrics(after, run) == metrics(before, run) == [(s, 1.0 / (s + 1)) for s in range(5)]
    (file,) = (after.folder / "mlartifacts").rglob("a.json")
    assert json.loads(file.read_text()) == {"a": 1}
    client = MlflowClient(after.backend)
    assert client.get_run(run).info.artifact_uri.startswith(f"{after.destination}/e/")
    assert client.get_experiment_by_name("e").artifact_location == f"{after.destination}/e"
    assert MlflowClient(before.backend).get_run(run).info.artifact_uri.startswith(f"{before.destination}/e/")
    with pytest.raises(TrackingError, match="a backup is restored into an empty place"):
        restore(after, copy)


def test_a_backup_is_never_written_over_another(backed_up):
    before, _, copy, _ = backed_up
    with pytest.raises(TrackingError, match="exists; give a new folder"):
        back_up(before, copy)


@pytest.mark.parametrize("target", [Path(), Path("/")])
def test_a_backup_needs_a_name(backed_up, target):
    with pytest.raises(TrackingError, match="name a new folder"):
        back_up(backed_up[0], target)


@pytest.mark.parametrize("folder", ["mlartifacts", "credentials", "mlpromotions"])
def test_a_backup_is_not_written_into_what_it_copies(backed_up, folder):
    before, _, _, _ = backed_up
    inside = before.folder / folder / "copy"
    with pytest.raises(TrackingError, match=rf"lies in .*{folder}, which is to be copied"):
        back_up(before, inside)
    assert not list(inside.parent.glob("*copy*"))


def test_a_backup_is_not_written_into_what_it_copies_by_way_of_a_link(backed_up, tmp_path):
    before, _, _, _ = backed_up
    (tmp_path / "link").symlink_to(before.artifact_folder)
    with pytest.raises(TrackingError, match=r"lies in .*mlartifacts, which is to be copied"):
        back_up(before, tmp_path / "link" / "copy")


def test_the_database_is_copied_before_the_artifacts(server, tmp_path, monkeypatch):
    """A file that its rows name is there by then: a server goes on meanwhile."""
    real = backup._copy_artifacts

    def later(config, target):
        filled(ServerConfig(folder=config.folder))
        real(config, target)

    def filled(config):
        client = MlflowClient(config.backend)
        run = client.create_run(client.get_experiment_by_name("e").experiment_id).info.run_id
        client.log_dict(run, {}, "later.json")

    monkeypatch.setattr(backup, "_copy_artifacts", later)
    counts = back_up(server, tmp_path / "copy")
    assert counts["runs"] == rows_by_table(server)["runs"] - 1
    assert len(list((tmp_path / "copy" / "artifacts").rglob("later.json"))) == 1


def test_a_link_stays_a_link_and_brings_in_nothing_from_elsewhere(server, tmp_path):
    (tmp_path / "private").write_text("s3cret")
    for name, place in (("dangling", tmp_path / "nowhere"), ("outside", tmp_path / "private")):
        (server.folder / "mlartifacts" / name).symlink_to(place)
    back_up(server, tmp_path / "copy")
    restore(ServerConfig(folder=tmp_path / "after"), tmp_path / "copy")
    for name, place in (("dangling", "nowhere"), ("outside", "private")):
        assert (tmp_path / "after" / "mlartifacts" / name).readlink() == tmp_path / place


def test_what_cannot_be_copied_leaves_nothing_behind(server, tmp_path, monkeypatch):

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mlflow_server.backup.shutil.copytree", full)
    with pytest.raises(OSError, match="No space left"):
        back_up(server, tmp_path / "copy")
    assert [path.name for path in tmp_path.iterdir()] == ["server"]


@pytest.mark.parametrize(
    "damage",
    ["a flipped byte", "a missing file", "a new file", "a link elsewhere", "no manifest", "a manifest of nothing"],
)
def test_a_damaged_backup_is_refused_before_anything_is_written(server, tmp_path, damage):
    (server.folder / "mlartifacts" / "link").symlink_to(tmp_path / "nowhere")
    back_up(server, tmp_path / "copy")
    if damage == "a flipped byte":
        content = bytearray((tmp_path / "copy" / "database").read_bytes())
        content[-1] ^= 1
        (tmp_path / "copy" / "database").write_bytes(content)
    elif damage == "a missing file":
        next((tmp_path / "copy" / "artifacts").rglob("a.json")).unlink()
    elif damage == "a new file":
        (tmp_path / "copy" / "artifacts" / "b.json").touch()
    elif damage == "a link elsewhere":
        (tmp_path / "copy" / "artifacts" / "link").unlink()
        (tmp_path / "copy" / "artifacts" / "link").symlink_to(tmp_path / "elsewhere")
    elif damage == "a manifest of nothing":
        (tmp_path / "copy" / "manifest.json").write_text("[]")
    else:
        (tmp_path / "copy" / "manifest.json").unlink()
    empty = ServerConfig(folder=tmp_path / "empty")
    with pytest.raises(TrackingError, match=r"since the backup|no whole backup"):
        restore(empty, tmp_path / "copy")
    assert not empty.folder.exists()


def test_who_could_log_in_can_log_in_where_it_is_restored(backed_up):
    """Without its secrets a restored server would make a new password that its users' file does not know."""
    before, after, copy, _ = backed_up
    secrets = [obtain(config.folder / "credentials") for config in (before, after)]
    assert secrets[0] == secrets[1]
    assert copy.stat().st_mode & 0o077 == 0
    for path in (copy / "credentials").iterdir():
        assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", ["users.db", "admin-password", "session-key"])
def test_users_that_are_there_are_not_overwritten(server, tmp_path, name):
    back_up(server, tmp_path / "copy")
    used = ServerConfig(folder=tmp_path / "used")
    (used.folder / "credentials").mkdir(parents=True)
    (used.folder / "credentials" / name).write_text("theirs")
    with pytest.raises(TrackingError, match=f"{name} exists; a backup is restored into an empty place"):
        restore(used, tmp_path / "copy")
    assert (used.folder / "credentials" / name).read_text() == "theirs"
    assert not (used.folder / "mlflow.db").exists()


def test_a_backup_that_others_write_beside_is_restored(backed_up, tmp_path, monkeypatch):
    """What is counted is what was copied, not what the database held a moment later."""
    before, _, _, run = backed_up
    if not before.backend.startswith("sqlite"):
        real = backup_database._postgresql

        def and_then_more(*words):
            real(*words)
            MlflowClient(before.backend).log_metric(run, "later", 1.0)

        monkeypatch.setattr(backup_database, "_postgresql", and_then_more)
    else:
        real_copy = backup_database.copy_sqlite

        def copy_and_then_more(*paths):
            real_copy(*paths)
            MlflowClient(before.backend).log_metric(run, "later", 1.0)

        monkeypatch.setattr(backup_database, "copy_sqlite", copy_and_then_more)
    live = rows_by_table(before)["metrics"]
    assert back_up(before, tmp_path / "copy")["metrics"] == live == rows_by_table(before)["metrics"] - 1


@pytest.mark.slow
def test_a_restored_database_is_migrated_without_a_change(server):
    before = rows_by_table(server)
    assert upgrade(server) == 0
    assert rows_by_table(server) == before


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A server on SQLite and its backup."""
    folder = tmp_path_factory.mktemp("copied")
    config = ServerConfig(folder=folder / "server")
    config.folder.mkdir()
    filled(config)
    MlflowClient(f"sqlite:///{config.credentials}/users.db").search_experiments()
    back_up(config, folder / "copy")
    return config, folder / "copy"


@pytest.mark.parametrize("name", ["mlflow.db-journal", "mlflow.db-wal", "mlflow.db-shm", "credentials/users.db-wal"])
def test_what_sqlite_left_of_another_database_is_not_played_into_the_restored_one(copied, tmp_path, name):
    empty = ServerConfig(folder=tmp_path / "empty")
    (empty.folder / name).parent.mkdir(parents=True)
    (empty.folder / name).write_bytes(b"pages")
    with pytest.raises(TrackingError, match=rf"{name} is left of a database that is gone, .* move it away"):
        restore(empty, copied[1])
    assert not (empty.folder / "mlflow.db").exists()


@pytest.mark.parametrize("name", ["mlflow.db", "credentials/users.db"])
def test_a_database_that_is_damaged_after_it_was_restored_is_told(copied, tmp_path, monkeypatch, name):
    after, real = ServerConfig(folder=tmp_path / "after"), backup._verified

    def damage_and_verify(config, manifest):
        os.truncate(config.folder / name, 2**17)
        return real(config, manifest)

    monkeypatch.setattr(backup, "_verified", damage_and_verify)
    with pytest.raises(TrackingError, match=f"{name} is damaged: "):
        restore(after, copied[1])


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        pytest.param(lambda content: content[: 2**17], r"cannot be copied: database disk image is malformed", id="cut"),
        pytest.param(lambda content: content[: 2**17] + b"\1" * 2**14 + content[2**17 + 2**14 :],
                     r"is damaged, and so would be its copy: ", id="overwritten"),
    ],
)  # fmt: skip
def test_a_database_that_is_damaged_is_told_when_it_is_copied(copied, tmp_path, damage, told):
    damaged = ServerConfig(folder=tmp_path / "damaged")
    damaged.folder.mkdir()
    damaged.sqlite.write_bytes(damage((copied[1] / "database").read_bytes()))
    with pytest.raises(TrackingError, match=rf"mlflow\.db {told}"):
        back_up(damaged, tmp_path / "copy")
    with pytest.raises(TrackingError, match=r"mlflow\.db is damaged: "):
        upgrade(damaged)


@pytest.mark.parametrize("used", ["mlartifacts/1/a.json", "mlpromotions/m.jsonl", "mlflow.db"])
def test_what_is_there_is_not_restored_over(copied, tmp_path, used):
    after = ServerConfig(folder=tmp_path / "after")
    (after.folder / used).parent.mkdir(parents=True)
    (after.folder / used).write_text("theirs")
    with pytest.raises(TrackingError, match="exists; a backup is restored into an empty place"):
        restore(after, copied[1])
    assert [path.read_text() for path in after.folder.rglob("*") if path.is_file()] == ["theirs"]


def test_a_backup_of_another_kind_of_database_is_refused(copied, tmp_path):
    other = ServerConfig(folder=tmp_path / "other", database="postgresql://me@127.0.0.1:9/mlflow")
    with pytest.raises(TrackingError, match=r"copy is of a sqlite database, this server has postgresql"):
        restore(other, copied[1])
    assert not other.folder.exists()


@pytest.mark.parametrize(
    ("name", "told"),
    [("a.json", "mlartifacts is not what was backed up"), ("mlflow.db", "these tables differ in their rows: metrics$")],
)
def test_what_is_missing_after_it_was_restored_is_told(copied, tmp_path, monkeypatch, name, told):
    after, real = ServerConfig(folder=tmp_path / "after"), backup._verified

    def lose_and_verify(config, manifest):
        if name == "a.json":
            next(config.artifact_folder.rglob(name)).unlink()
        else:
            with closing(sqlite3.connect(config.sqlite)) as connection, connection:
                connection.execute("DELETE FROM metrics WHERE step = 4")
        return real(config, manifest)

    monkeypatch.setattr(backup, "_verified", lose_and_verify)
    with pytest.raises(TrackingError, match=told):
        restore(after, copied[1])


PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


@pytest.mark.parametrize(
    ("column", "place", "moved"),
    [
        *((column, "file:///srv/a_b/1", "file:///new/1") for column in PLACES),
        (("runs", "artifact_uri"), "file:///srv/a_b", "file:///new"),
        (("runs", "artifact_uri"), "/srv/a_b/1", "/new/1"),  # MLflow writes a folder without the scheme, too
        (("runs", "artifact_uri"), "file:///srv/a_bc/1", "file:///srv/a_bc/1"),
        (("runs", "artifact_uri"), "file:///srv/aXb/1", "file:///srv/aXb/1"),  # `_` is any letter to a database
        (("runs", "artifact_uri"), "mlflow-artifacts:/1", "mlflow-artifacts:/1"),
    ],
)
def test_places_of_artifacts_are_those_of_where_they_were_restored(tmp_path, column, place, moved):
    config = ServerConfig(folder=tmp_path)
    with closing(sqlite3.connect(config.sqlite)) as connection:
        with connection:
            for table, columns in groupby(PLACES, itemgetter(0)):
                connection.execute(f"CREATE TABLE {table} ({', '.join(f'{name} TEXT' for _, name in columns)})")
            connection.execute(f"INSERT INTO {column[0]} ({column[1]}) VALUES (?)", (place,))
        backup_database.move_artifacts(config, "file:///srv/a_b", "file:///new")
        assert connection.execute(f"SELECT {column[1]} FROM {column[0]}").fetchall() == [(moved,)]


def test_what_is_restored_is_its_owners_alone(copied, tmp_path):
    after = ServerConfig(folder=tmp_path / "after")
    before = os.umask(0)
    try:
        restore(after, copied[1])
    finally:
        os.umask(before)
    places = [after.folder, after.credentials, after.sqlite, after.credentials / "users.db"]
    assert [path.stat().st_mode & 0o777 for path in places] == [0o700, 0o700, 0o600, 0o600]


def test_folders_that_are_there_and_empty_are_filled(copied, tmp_path):
    after = ServerConfig(folder=tmp_path / "after")
    for name in ("mlartifacts", "mlpromotions"):
        (after.folder / name).mkdir(parents=True)
    assert restore(after, copied[1])["metrics"] == 5


def test_a_restore_that_was_cut_off_is_no_server_and_says_how_to_begin_anew(copied, tmp_path, monkeypatch):
    after = ServerConfig(folder=tmp_path / "after")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as dying, pytest.raises(KeyboardInterrupt):
        dying.setattr(backup, "_copy_tree", killed)
        restore(after, copied[1])
    for command in (
        lambda: start_configured(after),
        lambda: start(ServerSettings(after.folder)),
        lambda: check(after),
        lambda: back_up(after, tmp_path / "copy"),
        lambda: collect(after, days=0),
        lambda: upgrade(after),
    ):
        with pytest.raises(TrackingError, match="after is half restored: "):
            command()
    with pytest.raises(TrackingError, match="holds half a restore") as told:
        restore(after, copied[1])
    named = str(told.value).partition("remove ")[2].partition(", and restore")[0].split(", ")
    assert named[-1] == str(after.folder / ".restoring")
    for path in map(Path, named):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert restore(after, copied[1])["metrics"] == 5
    assert not (after.folder / ".restoring").exists()


def test_of_two_backups_to_one_place_the_second_is_refused(copied, tmp_path, monkeypatch):
    real, target = backup_database.copy, tmp_path / "copy"

    def copy_while_another_begins(*words):
        with monkeypatch.context() as second, pytest.raises(TrackingError, match="is being written by another backup"):
            second.setattr(backup_database, "copy", real)
            back_up(copied[0], target)
        return real(*words)

    (tmp_path / ".copy.writing").mkdir()  # of one that was killed
    monkeypatch.setattr(backup_database, "copy", copy_while_another_begins)
    assert back_up(copied[0], target)["metrics"] == 5
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_no_champion_changes_between_the_copies_of_registry_and_history(server, tmp_path, monkeypatch):
    """What is promoted while the artifacts are copied, for hours perhaps, is in neither."""
    history = History(server.folder, "m")
    history.append("promoted", {"version": "1"})
    held: list[str] = []

    def copying(*arguments):
        with pytest.raises(PromotionError, match="another promotion or rollback is being carried out"), history.alone():
            pass
        held.append("database")
        return copy(*arguments)

    def promoting(*arguments):
        with history.alone():
            history.append("promoted", {"version": "2"})
        copy_artifacts(*arguments)

    copy, copy_artifacts = backup_database.copy, backup._copy_artifacts
    monkeypatch.setattr(backup_database, "copy", copying)
    monkeypatch.setattr(backup, "_copy_artifacts", promoting)
    back_up(server, tmp_path / "copy")
    assert held == ["database"]
    assert [entry["version"] for entry in history.read()] == ["1", "2"]
    restored = ServerConfig(folder=tmp_path / "restored")
    restore(restored, tmp_path / "copy")
    assert [entry["version"] for entry in History(restored.folder, "m").read()] == ["1"]


def test_a_backup_waits_for_a_promotion_and_says_so_where_that_hangs(server, tmp_path, monkeypatch):
    history = History(server.folder, "m")
    history.append("promoted", {"version": "1"})
    monkeypatch.setattr(backup, "PROMOTION_SECONDS", 0.1)
    with history.alone(), pytest.raises(PromotionError, match="m: another promotion or rollback is being carried out"):
        back_up(server, tmp_path / "copy")
    assert not list(tmp_path.glob("*copy"))
    monkeypatch.setattr(backup, "PROMOTION_SECONDS", 60)
    begun = threading.Event()

    def promote():
        with history.alone():
            begun.set()
            time.sleep(0.3)

    promotion = threading.Thread(target=promote)
    promotion.start()
    begun.wait()
    assert back_up(server, tmp_path / "copy")["metrics"] == 5
    promotion.join()
