import configparser
import errno
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psutil
import pytest
import sqlalchemy
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import UNAUTHENTICATED
from mlflow.tracking import MlflowClient

from mlflow_server import __main__ as commands
from mlflow_server import check as checking
from mlflow_server import credentials, server, server_config
from mlflow_server.check import Finding, _own_run, check, logged_in, request
from mlflow_server.errors import PromotionError, TrackingError, refusal
from mlflow_server.reach import SECONDS, reach, without_password
from mlflow_server.registry import Registry
from mlflow_server.server_config import ServerConfig
from mlflow_server.tracking import Measurement, RunDescription, Tracker
from scripts.services import free_port, listens


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("host: 0.0.0.0\nauthentication: false", "host 0.0.0.0 is reachable .*: authentication must be on"),
        ("host: 0.0.0.0", "say allowed_hosts"),
        ("host: 0.0.0.0\nallowed_hosts: ['*']", "a wildcard lets any web page in"),
        ("database: postgresql://me:s3cret@db/mlflow", "a password does not belong in this file"),
        ("database: postgresql://me@db/mlflow?password=s3cret", "a password does not belong in this file"),
        ("database: postgresql://me:s3cret/x@db/mlflow", "a password does not belong in this file"),
        ("artifacts: s3://AKIA:s3cret@bucket/x", "keys do not belong in this file"),
        ("database: mysql://me@db/mlflow", "must begin with one of sqlite:///, postgresql://"),
        ("database: postgresql://me@db/mlflow?%70assword=s3cret", "a password does not belong in this file"),
        ("database: 'sqlite:///:memory:'", "a database in memory is gone with the server"),
        ("artifacts: http://elsewhere/x", "http: must be a folder, file:///PATH or s3://BUCKET/PREFIX"),
        ("artifacts: gs://bucket/x", "gs: must be a folder"),
        ("artifacts: s3://", "s3: must be a folder"),
        ("artifacts: s3:/bucket", "s3: must be a folder"),
        ("artifacts: s3://bucket/x?aws_secret_access_key=s3cret", "keys do not belong in this file"),
        ("artifacts: ''", "artifacts: name a folder"),
        ("artifacts: file:/srv/art", "file:/srv/art: write /srv/art or file:///srv/art"),
        ("folder: /srv/what?", r"folder: `\?` cannot be in the path of a database"),
        ("database: sqlite:////srv/a?b.db", r"database: `\?` cannot be in the path of a database"),
        ("folder: /srv/a%20b", "folder: `%20` cannot be in the path of a database"),
        ("database: sqlite:////srv/a%2eb", "database: `%2e` cannot be in the path of a database"),
        ("host: '::1'", "'::1': give an IPv4 address or a name"),
        ("allowed_hosts: ['http://mlflow:5000']", "'http://mlflow:5000': a host is NAME or NAME:PORT"),
        ("allowed_hosts: ['']", "'': a host is NAME or NAME:PORT"),
        ("port: true", "port: Input should be a valid integer"),
        ("port: 5000\nport: 5001", "port: given twice, keep one"),
        ("folder: ''", "folder: name a folder"),
        ("pasword: x", "pasword: unknown key; keys: folder, database"),
        ("folder: [", r"server\.yaml: line 1: expected the node content, but found '<stream end>'"),
        ("folder: a\n? [b]\n: c", r"server\.yaml: line 2: found unhashable key"),
        ("folder: ~nobodyx/server", "Could not determine home directory"),
        ("artifacts: ~nobodyx/a", "Could not determine home directory"),
        ("port: 2026-13-45", "month must be in 1..12"),
        ("database: postgresql://me@db:port/mlflow", "database: no address of a database"),
    ],
)
def test_a_server_that_would_be_open_is_refused(tmp_path, lines, message):
    path = tmp_path / "server.yaml"
    path.write_text(f"folder: {tmp_path}\n{lines}\n" if "folder" not in lines else lines)
    with pytest.raises(TrackingError, match=message) as refused:
        server_config.load(path)
    assert "s3cret" not in str(refused.value)


def test_a_place_may_be_below_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "server.yaml").write_text("folder: ~/server\nartifacts: ~/artifacts@2\n")
    config = server_config.load(tmp_path / "server.yaml")
    assert (config.folder, config.destination) == (tmp_path / "server", (tmp_path / "artifacts@2").as_uri())


def test_a_folder_of_artifacts_may_hold_a_blank(tmp_path):
    config = ServerConfig(folder=tmp_path / "a b")
    assert config.destination.endswith("/a%20b/mlartifacts")
    assert config.artifact_folder == tmp_path / "a b" / "mlartifacts"


def test_a_bucket_may_have_a_prefix_with_an_at(tmp_path):
    (tmp_path / "server.yaml").write_text(f"folder: {tmp_path}\nartifacts: s3://bucket/x@1\n")
    assert server_config.load(tmp_path / "server.yaml").destination == "s3://bucket/x@1"


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(TrackingError) as told:
        server_config.load(tmp_path / "server.yaml")
    assert str(told.value) == f"{tmp_path}/server.yaml: No such file or directory"


def test_all_problems_of_a_file_are_told_at_once(tmp_path):
    (tmp_path / "server.yaml").write_text("folder: server\nport: 0\nworkers: 0\nallowed_hosts: ['a/b']\n")
    with pytest.raises(TrackingError, match=r"port: .*; workers: .*; allowed_hosts: 'a/b': a host is NAME"):
        server_config.load(tmp_path / "server.yaml")


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "server.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(TrackingError, match=r"server\.yaml: 'utf-8' codec"):
        server_config.load(tmp_path / "server.yaml")


def test_a_port_that_is_taken_is_told_and_nothing_is_announced(tmp_path):
    def announce():
        pytest.fail("it does not start")

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for start in (
            lambda: server.start(server.ServerSettings(tmp_path / "new", port=port), announce),
            lambda: server.start_configured(ServerConfig(folder=tmp_path / "new", port=port), announce),
        ):
            with pytest.raises(TrackingError, match=rf"127\.0\.0\.1:{port}: Address already in use; choose another"):
                start()
    assert not (tmp_path / "new").exists()


def test_the_secrets_are_made_once_and_nobody_else_reads_them(tmp_path):
    folder = tmp_path / "credentials"
    first = credentials.obtain(folder)
    assert len(first.password) >= 40
    assert first.password != first.session_key
    assert credentials.obtain(folder) == first
    assert first.password not in repr(first)
    path = folder / "admin-password"
    assert path.stat().st_mode & 0o777 == 0o600
    for mode in (0o640, 0o604):
        path.chmod(mode)
        with pytest.raises(TrackingError, match=rf"can be read by others \(mode {mode:o}\); `chmod 600"):
            credentials.obtain(folder)


@pytest.mark.parametrize("name", credentials.SECRETS)
def test_a_secret_that_is_empty_is_told_and_made_anew_once_it_is_taken_away(tmp_path, name):
    credentials.obtain(tmp_path / "credentials")
    path = tmp_path / "credentials" / name
    path.write_text("\n")  # as a full disk leaves it
    with pytest.raises(TrackingError, match=f"{name} is empty; take it away, and the next start makes a new one"):
        credentials.obtain(tmp_path / "credentials")
    path.unlink()
    assert credentials.obtain(tmp_path / "credentials")


def test_a_secret_that_is_no_text_is_told(tmp_path):
    credentials.obtain(tmp_path / "credentials")
    (tmp_path / "credentials" / "admin-password").write_bytes("Geräusch".encode("latin-1"))
    with pytest.raises(TrackingError, match="admin-password is no text in UTF-8; write the secret into it anew"):
        credentials.obtain(tmp_path / "credentials")


def test_a_full_disk_leaves_no_secret_without_content(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk, pytest.raises(OSError, match="No space left"):
        disk.setattr(credentials.secrets, "token_urlsafe", full)
        credentials.obtain(tmp_path / "credentials")
    assert not list((tmp_path / "credentials").iterdir())
    assert credentials.obtain(tmp_path / "credentials")


def test_a_password_that_would_let_nobody_in_is_not_made(tmp_path):
    """MLflow makes the administrator once, and keeps a hash."""
    config = ServerConfig(folder=tmp_path)
    first = credentials.obtain(config.credentials)
    (config.credentials / "users.db").touch()
    (config.credentials / "admin-password").unlink()
    with pytest.raises(
        TrackingError, match=r"admin-password is gone, and .*users\.db has only its hash; bring it back"
    ):
        server.configured_environment(config)
    (config.credentials / "session-key").unlink()
    (config.credentials / "admin-password").touch(mode=0o600)
    (config.credentials / "admin-password").write_text(first.password)
    assert credentials.obtain(config.credentials).password == first.password


@pytest.mark.parametrize("installed", ["3.9.0", "3.11.1", "3.17.1"])
def test_a_version_of_mlflow_with_known_holes_is_not_started(tmp_path, monkeypatch, installed):
    monkeypatch.setattr(server, "version", lambda _: installed)
    for start in (
        lambda: server.configured_command(ServerConfig(folder=tmp_path)),
        lambda: server.command(server.ServerSettings(tmp_path)),
        lambda: server.upgrade(ServerConfig(folder=tmp_path)),
    ):
        with pytest.raises(TrackingError, match=rf"mlflow {installed} has known holes; install 3\.17\.2 or later"):
            start()


def test_no_secret_is_in_the_command_line(tmp_path):
    config = ServerConfig(folder=tmp_path, database="postgresql://me@db/mlflow")
    environment = server.configured_environment(config)
    words = " ".join(server.configured_command(config))
    assert environment["MLFLOW_AUTH_ADMIN_PASSWORD"] not in words
    assert "--app-name basic-auth" in words
    assert "postgresql+psycopg://me@db/mlflow" in words
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert "password" not in (tmp_path / "credentials" / "basic_auth.ini").read_text()


def test_users_are_kept_apart_by_secrets_of_the_servers_own(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    config = ServerConfig(folder=tmp_path, workers=3, allowed_hosts=("mlflow.example.org:5000",))
    found, secret = server.configured_environment(config), credentials.obtain(config.credentials)
    expected = {
        "MLFLOW_AUTH_CONFIG_PATH": f"{tmp_path}/credentials/basic_auth.ini",
        "MLFLOW_AUTH_ADMIN_USERNAME": "admin",
        "MLFLOW_AUTH_ADMIN_PASSWORD": secret.password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secret.session_key,
        "MLFLOW_CRYPTO_KEK_PASSPHRASE": secret.passphrase,
        "MLFLOW_BASIC_AUTH_FAIL_CLOSED": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONPATH": f"{server.REPOSITORY}:/elsewhere",
    }
    assert {name: found.get(name) for name in expected} == expected
    settings = tmp_path / "credentials" / "basic_auth.ini"
    written = configparser.ConfigParser()
    written.read(settings)
    assert settings.stat().st_mode & 0o777 == 0o600
    assert written["mlflow"]["default_permission"] == "READ"
    assert written["mlflow"]["auth_cache_ttl_seconds"] == "60"
    words = server.configured_command(config)
    options = {name: words[words.index(name) + 1] for name in words if name.startswith("--")}
    assert options["--workers"] == "3"
    assert options["--allowed-hosts"] == "127.0.0.1:5000,localhost:5000,mlflow.example.org:5000"
    assert options["--cors-allowed-origins"] == "https://mlflow.example.org:5000,http://mlflow.example.org:5000"


@pytest.mark.parametrize(
    ("host", "uri", "own"),
    [
        ("127.0.0.1", "http://127.0.0.1:5000", ""),
        ("localhost", "http://localhost:5000", ""),
        ("0.0.0.0", "http://127.0.0.1:5000", ""),
        ("10.0.0.5", "http://10.0.0.5:5000", "10.0.0.5:5000,"),  # nothing listens on loopback
    ],
)
def test_a_server_is_reached_where_it_listens(tmp_path, host, uri, own):
    config = ServerConfig(folder=tmp_path, host=host, allowed_hosts=("mlflow.example.org",))
    assert config.uri == uri
    assert config.hosts == f"127.0.0.1:5000,localhost:5000,{own}mlflow.example.org"
    with logged_in(config.model_copy(update={"authentication": False})):
        assert host in os.environ["no_proxy"].split(",")


def test_a_storage_folder_that_is_not_there_is_told_and_not_made(tmp_path):
    with pytest.raises(TrackingError, match=r"typo: no such storage folder; run a study first, or name its --storage"):
        server.start(server.ServerSettings(tmp_path / "typo", port=free_port()), lambda: pytest.fail("it starts"))
    assert not (tmp_path / "typo").exists()


def test_a_port_that_its_last_server_just_left_is_not_taken():
    """The connections that it closed itself linger for a minute."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        accepted, _ = listener.accept()
        accepted.close()
        client.recv(1)
        client.close()
    server.refuse_taken("127.0.0.1", port)


def test_a_percent_sign_may_be_in_the_path_of_the_users(tmp_path):
    server.configured_environment(ServerConfig(folder=tmp_path / "100%s"))
    written = configparser.ConfigParser()  # as MLflow reads it
    written.read(tmp_path / "100%s" / "credentials" / "basic_auth.ini")
    assert written["mlflow"]["database_uri"] == f"sqlite:///{tmp_path}/100%s/credentials/users.db"


@pytest.mark.slow
def test_a_started_server_is_whole(served, monkeypatch, tmp_path, capsys):
    found = check(served)
    assert [(finding.name, finding.holds) for finding in found] == [
        ("reachable", True),
        ("schema", True),
        ("authentication", True),
        ("hosts", True),
        ("database and artifacts", True),
    ], found
    path = tmp_path / "server.yaml"
    path.write_text(served.model_dump_json())
    monkeypatch.setattr(sys, "argv", ["mlflow_server", "check", str(path)])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert told.count("ok  ") == 5
    assert re.search(r"^ok   schema: [0-9a-f]+, that of mlflow [0-9.]+$", told, re.MULTILINE)
    assert (
        credentials.read_secret(served.folder / "credentials" / "admin-password")
        not in (served.folder / "log").read_text()
    )


def test_a_server_that_is_not_there_is_told(tmp_path):
    found = check(ServerConfig(folder=tmp_path, port=9, authentication=False))
    assert [(finding.name, finding.holds) for finding in found] == [("reachable", False), ("schema", False)]
    refused = "ConnectionRefusedError(111, 'Connection refused')"
    assert found[0].evidence == f"no HTTP server answers at http://127.0.0.1:9: {refused}"
    assert found[1].evidence == f"{tmp_path}/mlflow.db does not exist; the server makes it when it is started first"


def of_another_mlflow(path, revision):
    """Say in an SQLite file that another MLflow made its schema."""
    with closing(sqlite3.connect(path)) as connection, connection:
        expected = connection.execute("SELECT version_num FROM alembic_version").fetchone()[0]
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    return expected


BEFORE = "534353b11cbc"
"""A revision between those of the first and the last MLflow."""


@pytest.mark.usefixtures("store_uri")
def test_a_database_of_an_earlier_mlflow_is_told_also_where_nothing_listens(tmp_path):
    expected = of_another_mlflow(tmp_path / "mlflow.db", BEFORE)
    _, finding = check(ServerConfig(folder=tmp_path, port=9, authentication=False))
    told = f"{BEFORE}, expected {expected} (mlflow {server.version('mlflow')})"
    migrate = "make a backup, then run `python -m mlflow_server migrate SERVER.yaml`"
    assert finding == Finding("schema", False, f"{told}; {migrate}")


@pytest.mark.usefixtures("store_uri")
def test_a_database_of_a_later_mlflow_is_not_to_be_migrated(tmp_path):
    of_another_mlflow(tmp_path / "mlflow.db", "of-the-future")
    _, finding = check(ServerConfig(folder=tmp_path, port=9, authentication=False))
    assert finding.evidence.startswith("of-the-future, expected ")
    assert finding.evidence.endswith("; a later MLflow made this database, install that one")


@pytest.mark.usefixtures("store_uri")
@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["--config", "{}/server.yaml"], "python -m mlflow_server migrate SERVER.yaml"),
        (["--storage", "{}"], "python -m mlflow db upgrade sqlite:///{}/mlflow.db"),
    ],
)
def test_a_database_of_an_earlier_mlflow_is_not_started_on(tmp_path, monkeypatch, capsys, words, remedy):
    monkeypatch.setattr(server, "_run", lambda *_, **__: pytest.fail("it does not start"))
    expected, port = of_another_mlflow(tmp_path / "mlflow.db", BEFORE), free_port()
    (tmp_path / "server.yaml").write_text(ServerConfig(folder=tmp_path, port=port).model_dump_json())
    words = [*(word.format(tmp_path) for word in words), *(("--port", str(port)) if words[0] == "--storage" else ())]
    monkeypatch.setattr(sys, "argv", ["mlflow_server", "start", *words])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    told = capsys.readouterr()
    assert (ended.value.code, told.out) == (2, "")
    assert told.err == (
        f"error: the schema of sqlite:///{tmp_path}/mlflow.db: {BEFORE}, expected {expected} "
        f"(mlflow {server.version('mlflow')}); make a backup, then run `{remedy.format(tmp_path)}`\n"
    )


@pytest.mark.parametrize("content", [None, b""])
def test_a_database_that_is_not_there_yet_or_empty_is_filled(tmp_path, monkeypatch, content):
    monkeypatch.setattr(server, "_run", lambda *_, **__: 0)
    if content is not None:
        (tmp_path / "mlflow.db").write_bytes(content)
    assert server.start(server.ServerSettings(tmp_path, port=free_port())) == 0
    assert server.start_configured(ServerConfig(folder=tmp_path, port=free_port())) == 0


def test_a_file_that_is_no_database_is_told_before_the_server_starts(tmp_path):
    (tmp_path / "mlflow.db").write_text("no database, but words" * 100)
    with pytest.raises(TrackingError, match=r"the database does not answer: .* file is not a database$"):
        server.start(server.ServerSettings(tmp_path, port=free_port()), lambda: pytest.fail("it does not start"))


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", r"no HTTP server answers at http://127.0.0.1:\d+: BadStatusLine"),
        (b"HTTP/1.0 200 OK\r\n\r\nhello", r"is no MLflow: it answers 200 b'hello' to /health instead of OK"),
    ],
)
def test_what_is_no_mlflow_is_told_and_gets_no_password(tmp_path, answer, told):
    heard = []

    def listen(listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # closed
                return
            with connection:
                heard.append(connection.recv(65536))
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = ServerConfig(folder=tmp_path, port=listener.getsockname()[1])
        credentials.obtain(config.credentials)
        threading.Thread(target=listen, args=(listener,), daemon=True).start()
        finding, _ = check(config)
        listener.shutdown(socket.SHUT_RDWR)
    assert not finding.holds
    assert re.search(told, finding.evidence)
    assert heard
    assert not any(b"Authorization" in words for words in heard)


WHOLE = {
    "/health": (200, b"OK"),
    "/version": (200, server.version("mlflow").encode()),
    "stranger": (401, b""),
    "user": (200, b""),
    "other host": (403, b""),
    "other origin": (403, b""),
    "own origin": (200, b""),
}
"""What a whole server answers, by who asks for what."""


@contextmanager
def answering(answers):
    """Listen on a port and answer as a server would."""

    class Answering(BaseHTTPRequestHandler):
        def do_GET(self):
            status, body = answers[self.path if self.path in answers else self.who()]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def who(self):
            if self.headers["Host"] == "attacker.example":
                return "other host"
            if self.headers["Origin"] is not None:
                return "other origin" if "attacker" in self.headers["Origin"] else "own origin"
            return "user" if self.headers["Authorization"] else "stranger"

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as listener:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        yield listener.server_port
        listener.shutdown()


@pytest.mark.parametrize(
    ("asked", "answer", "name", "evidence"),
    [
        ("/health", (503, b"OK"), "reachable", r"is no MLflow: it answers 503 b'OK' to /health"),
        ("/version", (200, b"3.11.0"), "reachable", r"answers 200 '3\.11\.0'; the client here has mlflow"),
        ("/version", (503, b"3.17.2"), "reachable", r"answers 503 '3\.17\.2'; the client here has mlflow"),
        ("/version", (401, b"You are not"), "reachable",
         r"does not let anna in; user and password are those of MLFLOW_TRACKING_USERNAME and .*, or admin and what .*"
         r"/credentials/admin-password says"),
        ("stranger", (200, b""), "authentication", r"a stranger is answered 200 instead of 401, a user 200 instead of"),
        ("user", (403, b""), "authentication", r"a stranger is answered 401 instead of 401, a user 403 instead of 200"),
        ("other host", (200, b""), "hosts", r"a request for another host is answered 200 instead of 403"),
        ("other origin", (200, b""), "hosts", r"a page of another origin may post: it is answered 200 instead of 403"),
        ("own origin", (403, b""), "hosts", r"the UI at https://mlflow.example.org cannot search: it is answered 4"),
    ],
)  # fmt: skip
def test_a_check_fails_where_a_server_answers_otherwise(tmp_path, monkeypatch, asked, answer, name, evidence):
    monkeypatch.setattr(checking, "_round_trip", lambda _: "")
    monkeypatch.setattr(checking, "_schema", lambda _: "")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "anna")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a password of hers")
    with answering(WHOLE | {asked: answer}) as port:
        found = check(ServerConfig(folder=tmp_path, port=port, allowed_hosts=("mlflow.example.org",)))
    (failed,) = (finding for finding in found if not finding.holds)
    assert failed.name == name
    assert re.search(evidence, failed.evidence)


@pytest.mark.usefixtures("store_uri")
@pytest.mark.parametrize("lost", ["log_metric", "log_dict"])
def test_a_check_fails_where_what_is_read_is_not_what_was_written(tmp_path, monkeypatch, lost):
    class Losing(MlflowClient):
        def __init__(self, _):
            super().__init__(f"sqlite:///{tmp_path}/mlflow.db")

        def log_metric(self, run, *words):
            super().log_metric(run, *words) if lost != "log_metric" else None

        def log_dict(self, run, content, path):
            super().log_dict(run, content if lost != "log_dict" else {}, path)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mlflow.tracking.MlflowClient", Losing)
    with pytest.raises(TrackingError, match="what was written is not what was read"):
        checking._round_trip(ServerConfig(folder=tmp_path, authentication=False))


def test_who_checks_is_named_by_the_environment_or_the_servers_own_file(tmp_path, monkeypatch):
    config = ServerConfig(folder=tmp_path)
    password = credentials.obtain(config.credentials).password
    for name in checking.LOGIN:
        monkeypatch.delenv(name, raising=False)
    assert checking.login(config) == ("admin", password)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "anna")
    assert checking.login(config) == ("admin", password)  # a name alone is nobody
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hers")
    assert checking.login(config) == ("anna", "hers")
    assert checking.login(ServerConfig(folder=tmp_path, authentication=False)) is None
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    before = dict(os.environ)
    with logged_in(config):
        assert [os.environ[name] for name in checking.LOGIN] == ["admin", password]
    assert dict(os.environ) == before


def test_checks_at_once_do_not_meet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    with _own_run(client, "anna") as first, _own_run(client, "bob") as second:
        assert first != second
    left = client.search_experiments(view_type=ViewType.ALL, filter_string="name LIKE 'radsweep-check-%'")
    assert [experiment.lifecycle_stage for experiment in left] == ["deleted", "deleted"]


@pytest.mark.slow
def test_several_drivers_at_once_lose_and_double_nothing(served):
    with logged_in(served):
        trackers = [Tracker(served.uri, "drivers") for _ in range(3)]
        problems = []

        def drive(number):
            try:
                tracker = trackers[number]
                tracker.open(RunDescription(f"study-{number}", "study", 1))
                for trial in range(2):
                    identity = f"trial-{number}-{trial}"
                    tracker.open(RunDescription(identity, identity, 2), parent=f"study-{number}")
                    for _ in range(2):  # told twice, as after a lost answer
                        tracker.log(identity, [Measurement(s, 1000 + s, {"a": s, "b": -s}) for s in range(20)])
                    tracker.finish(identity, "FINISHED", 9000)
            except Exception as problem:
                problems.append(problem)

        threads = [threading.Thread(target=drive, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert problems == []
        client = MlflowClient(served.uri)
        experiment = client.get_experiment_by_name("drivers")
        found = client.search_runs([experiment.experiment_id], max_results=100)
        assert len(found) == 9
        for number in range(3):
            run = trackers[number].run_id(f"trial-{number}-1")
            assert [m.value for m in client.get_metric_history(run, "b")] == [-s for s in range(20)]


@pytest.mark.slow
def test_of_four_promotions_at_once_one_is_carried_out(served):
    with logged_in(served):
        client = MlflowClient(served.uri)
        experiment = client.create_experiment("promotions")
        runs = [client.create_run(experiment).info.run_id for _ in range(4)]
        registry = Registry(served.uri)
        versions = [registry.register("m", source=f"runs:/{run}/model", run_id=run, tags={}) for run in runs]
        ends, start = [], threading.Barrier(4)

        def crown(version):
            start.wait()
            try:
                Registry(served.uri).crown(version, instead_of=None)
                ends.append(version.version)
            except PromotionError as refused:
                ends.append(str(refused))

        threads = [threading.Thread(target=crown, args=(version,)) for version in versions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        crowned = [end for end in ends if end.isdigit()]
        assert crowned == [registry.champion("m").version]
        assert sum("promotion" in end for end in ends) == 3


DEAF = "import signal, time; signal.signal(signal.SIGHUP, signal.SIG_IGN); time.sleep(20)"
"""A server that heeds no closed terminal."""


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGHUP])
def test_a_server_ends_with_the_command_that_started_it(told):
    def unheeded(*_):
        """Keep the signal from these tests, should nobody heed it."""

    before = signal.signal(told, unheeded)
    try:
        threading.Timer(0.5, os.kill, (os.getpid(), told)).start()
        assert server._run([sys.executable, "-c", DEAF], os.environ) == -signal.SIGTERM
        assert signal.getsignal(told) is unheeded
    finally:
        signal.signal(told, before)


def test_a_server_under_nohup_outlives_its_terminal():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGHUP)).start()
        assert server._run([sys.executable, "-c", "import time; time.sleep(0.6)"], os.environ) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_bucket_is_there_before_the_server_starts(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr("mlflow_server.object_store.ensure_bucket", made.append)
    monkeypatch.setattr(server, "_run", lambda *_, **__: len(made))
    config = ServerConfig(folder=tmp_path, artifacts="s3://bucket/prefix", port=free_port())
    assert server.start_configured(config) == 1
    assert made == ["s3://bucket/prefix"]


def test_a_server_that_is_stopped_by_hand_ends_well():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it
    try:
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        assert server._run([sys.executable, "-c", DEAF], os.environ) == 0
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.slow
def test_a_server_that_is_told_to_end_leaves_nothing_behind(tmp_path):
    port = free_port()
    words = ["start", "--storage", str(tmp_path), "--port", str(port)]
    started = subprocess.Popen([sys.executable, "-m", "mlflow_server", *words], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not listens(port):
        assert started.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    family = psutil.Process(started.pid).children(recursive=True)
    started.terminate()
    started.wait(timeout=30)
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param("artifacts: .", id="its folder"),
        pytest.param("artifacts: credentials/x", id="below its credentials"),
        pytest.param("artifacts: ..", id="above its folder"),
        pytest.param("artifacts: link", id="a link to its folder"),
        pytest.param("artifacts: data\ndatabase: sqlite:///{folder}/data/mlflow.db", id="where its database is"),
        pytest.param("artifacts: data\ndatabase: sqlite:///{folder}/linked.db", id="where its database leads"),
    ],
)
def test_artifacts_that_would_give_the_servers_own_files_to_every_user_are_refused(tmp_path, lines):
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / "link").symlink_to(folder)
    (folder / "linked.db").symlink_to(folder / "data" / "mlflow.db")
    (folder / "server.yaml").write_text(f"folder: .\n{lines.format(folder=folder)}\n")
    with pytest.raises(TrackingError, match="holds the server's own database or credentials"):
        server_config.load(folder / "server.yaml")


def test_folders_lie_beside_the_file_wherever_a_command_is_run(tmp_path, monkeypatch):
    (tmp_path / "server.yaml").write_text("folder: server\nartifacts: files\ndatabase: sqlite:///runs.db\n")
    monkeypatch.chdir("/")
    config = server_config.load(tmp_path / "server.yaml")
    assert (config.folder, config.destination) == (tmp_path / "server", (tmp_path / "files").as_uri())
    assert config.sqlite == tmp_path / "runs.db"


@pytest.mark.parametrize(
    ("words", "database"),
    [
        *(([command], None) for command in ("migrate", "gc", "backup")),  # a first start makes it
        *((words, "postgresql://nobody@127.0.0.1:9/mlflow") for words in (["migrate"], ["gc"], ["start", "--config"])),
    ],
)
def test_a_database_that_is_not_there_is_told_at_once_and_not_made(tmp_path, capsys, monkeypatch, database, words):
    config = ServerConfig(folder=tmp_path / "typo", database=database, port=free_port())
    (tmp_path / "server.yaml").write_text(config.model_dump_json())
    more = [str(tmp_path / "copy")] if words[0] == "backup" else []
    monkeypatch.setattr(sys, "argv", ["mlflow_server", *words, str(tmp_path / "server.yaml"), *more])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert "MLflow UI" not in told.out
    assert ("does not exist" if database is None else "the database does not answer") in told.err
    assert not (tmp_path / "typo").exists()


@pytest.mark.parametrize(
    "secret",
    [
        "postgresql://me:s3cret@db/x",
        "postgresql://me@db/x?password=s3cret&a=b",
        "https://h/x?a=b&%70assword=s3cret",
        "https://h/x?PASSWORD=s3cret",
    ],
)
def test_an_address_is_told_without_its_password(secret):
    assert "s3cret" not in without_password(f"MLflow at {secret} is away")
    assert without_password(f"MLflow at {secret} is away").endswith(" is away")


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql+psycopg://me:s3cret@127.0.0.1:9/db",
        "postgresql://me:s3cret/x@127.0.0.1:9/db",
        "postgresql+psycopg2://me@/db?host=127.0.0.1&port=9&password=s3cret",
        "postgresql+psycopg://me:s3cret@/db?host=127.0.0.1:9&host=127.0.0.1:10",
    ],
)
def test_a_database_that_is_away_is_told_at_once(tmp_path, monkeypatch, capsys, uri):
    """MLflow would try again for minutes."""
    words = ["history", "demo", "--storage", str(tmp_path), "--tracking", uri]
    monkeypatch.setattr(sys, "argv", ["mlflow_server", *words])
    begun = time.monotonic()
    with pytest.raises(SystemExit) as ended:
        commands.main()
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert re.fullmatch(r"error: MLflow at postgresql\S* cannot be reached: .*Connection refused\n", told)
    assert "s3cret" not in told
    assert time.monotonic() - begun < SECONDS


def test_a_database_is_reached_where_one_of_its_servers_listens(tmp_path, monkeypatch):
    monkeypatch.delenv("PGHOST", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        reach(f"postgresql+psycopg://me@127.0.0.1:{port}/db")
        reach(f"postgresql+psycopg://me@/db?host=127.0.0.1,127.0.0.1&port=9,{port}")
    reach("postgresql+psycopg://me@/db")  # by a socket that its client knows
    with pytest.raises(TrackingError, match=r"cannot be reached: .* No such file"):
        reach(f"postgresql+psycopg://me@/db?host={tmp_path}")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/.s.PGSQL.5432")
        listener.listen()
        reach(f"postgresql+psycopg://me@/db?host={tmp_path}")


@pytest.mark.parametrize(
    ("uri", "environment", "asked"),
    [
        ("http://h/x", {}, [("h", 80)]),
        ("https://h/x", {}, [("h", 443)]),
        ("https://h:5000", {}, [("h", 5000)]),
        ("postgresql+psycopg://me@h/db", {"PGHOST": "other"}, [("h", 5432)]),
        ("postgresql://me@/db", {"PGHOST": "h", "PGPORT": "6"}, [("h", 6)]),
        ("postgresql://me@/db?host=a,b&port=1,2", {}, [("a", 1), ("b", 2)]),
        ("postgresql://me@/db?host=a,b&port=1", {}, [("a", 1), ("b", 1)]),
        ("postgresql://me@/db?host=a:3&host=b:4", {}, [("a", 3), ("b", 4)]),
        ("postgresql://me@[::1]:7/db", {}, [("::1", 7)]),
    ],
)
def test_every_place_that_may_answer_is_asked_in_turn(monkeypatch, uri, environment, asked):
    tried = []

    def away(place, timeout):
        tried.append((place, timeout))
        raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")

    for name in ("PGHOST", "PGPORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(socket, "create_connection", away)
    with pytest.raises(TrackingError, match="cannot be reached"):
        reach(uri)
    assert tried == [(place, SECONDS) for place in asked]


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_a_port_that_is_no_number_is_told_without_the_password(scheme):
    with pytest.raises(TrackingError, match="cannot be reached: its port is no number") as refused:
        reach(f"{scheme}://me:s3cret@h:s3cret/db")
    assert str(refused.value).count("s3cret") == 1  # the port itself


def test_a_credentials_folder_that_others_may_open_is_refused(tmp_path):
    (tmp_path / "credentials").mkdir(mode=0o755)
    with pytest.raises(TrackingError, match=r"is open to others \(mode 755\); `chmod 700"):
        credentials.obtain(tmp_path / "credentials")
    assert not list((tmp_path / "credentials").iterdir())


@pytest.mark.slow
def test_nobody_gets_past_the_users_of_a_server_by_way_of_its_files(served):
    """What the server itself wrote; the test wrote the log and the server's file."""
    files = [path for path in served.folder.rglob("*") if path.is_file() and path.name not in {"log", "server.yaml"}]
    assert {"admin-password", "users.db"} <= {path.name for path in files}
    assert [path for path in files if path.stat().st_mode & 0o077] == []


@pytest.mark.slow
def test_a_check_leaves_nothing_behind_and_asks_no_proxy(served, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    before = {path for path in served.folder.rglob("*") if path.is_file()}
    for _ in range(2):
        assert all(finding.holds for finding in check(served))
    with logged_in(served):
        monkeypatch.delenv("http_proxy")
        named = [e for e in MlflowClient(served.uri).search_experiments(view_type=3) if "check" in e.name]
        assert {e.lifecycle_stage for e in named} == {"deleted"}
    assert [p for p in set(served.folder.rglob("*")) - before if p.is_file() and p.name == "check.json"] == []


@pytest.mark.slow
def test_the_ui_behind_a_proxy_may_post_and_a_page_from_elsewhere_may_not(served):
    """A browser names the origin of the page with every POST; the UI's own searches are POSTs."""
    for scheme in ("https", "http"):
        own = {"host": "mlflow.example.org", "origin": f"{scheme}://mlflow.example.org"}
        assert request(served, "/ajax-api/2.0/mlflow/experiments/search", known=True, **own)[0] == 200
    foreign = {"host": "mlflow.example.org", "origin": "https://attacker.example"}
    assert request(served, "/ajax-api/2.0/mlflow/experiments/search", known=True, **foreign)[0] == 403


@pytest.mark.slow
def test_a_user_who_is_no_administrator_makes_the_first_champion(served, monkeypatch):
    """Asked by a user, a server says of a model that is not there that it is forbidden."""
    from mlflow.server import get_app_client

    user, other = f"anna-{served.port}", f"bob-{served.port}"
    with logged_in(served):
        for name in (user, other):
            get_app_client("basic-auth", tracking_uri=served.uri).create_user(name, f"a-long-password-of-{name}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    def log_in(name):
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", name)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", f"a-long-password-of-{name}")

    log_in(user)
    assert all(finding.holds for finding in check(served))
    registry, client = Registry(served.uri), MlflowClient(served.uri)
    name = f"first-of-{user}"
    assert registry.champion(name) is None
    assert registry.unlock(name) is False
    run_id = client.create_run(client.create_experiment(name)).info.run_id
    version = registry.register(name, source=client.get_run(run_id).info.artifact_uri, run_id=run_id, tags={})
    registry.challenge(version)
    registry.crown(version, instead_of=None)
    assert registry.champion(name).version == version.version

    log_in(other)
    with pytest.raises(MlflowException, match="403"):
        registry.tag(version, {"a": "b"})
    log_in(user)
    get_app_client("basic-auth", tracking_uri=served.uri).grant_user_permission(other, "registered_model", name, "EDIT")
    log_in(other)
    registry.tag(version, {"a": "b"})


def test_a_database_that_is_not_there_is_told_and_not_made(tmp_path):
    with pytest.raises(TrackingError, match="no such database, and asking for it would make an empty one"):
        Registry(f"sqlite:///{tmp_path}/nowhere.db")
    assert not list(tmp_path.iterdir())


def full(kind):
    """Errors that a full disk ends in, also those that a library raises about it."""
    cause, error = OSError(errno.ENOSPC, "No space left on device"), OSError("With tag (7FE0,0010) got exception")
    if kind == "wrapped":
        error.__cause__ = cause
        return error
    if kind == "while handled":
        error.__context__ = cause
        return error
    return {
        "plain": cause,
        "quota": OSError(errno.EDQUOT, "Disk quota exceeded"),
        "database": RuntimeError("(sqlite3.OperationalError) database or disk is full"),
        "words": RuntimeError("API request failed: [Errno 28] No space left on device"),
    }[kind]


@pytest.mark.parametrize("kind", ["plain", "quota", "wrapped", "while handled", "database", "words"])
def test_a_full_disk_is_told_as_such_whoever_noticed(kind):
    assert refusal(full(kind)) == "no space left on device; make room and run the same command again"
    assert refusal(KeyError("a")) is None


@pytest.mark.parametrize(
    ("problem", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/srv/a"),
         "/srv/a: no space left on device; make room and run the same command again"),
        (OSError(errno.ENOSPC, "No space left on device", "/backup/a", None, "/srv/a"),  # copied from one to the other
         "/srv/a: no space left on device; make room and run the same command again"),
        (PermissionError(errno.EACCES, "Permission denied", "/srv/a"), "/srv/a: Permission denied"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "Connection refused"),
        (MlflowException("no such run\nand more"), "MLflow refuses: no such run"),
        (MlflowException("You are not authenticated", UNAUTHENTICATED),
         "MLflow refuses: You are not authenticated; it takes the user and password of MLFLOW_TRACKING_USERNAME and "
         "MLFLOW_TRACKING_PASSWORD"),
    ],
)  # fmt: skip
def test_what_the_system_or_mlflow_refuses_is_told_in_one_line(problem, told):
    assert refusal(problem) == told


def test_what_a_database_refuses_is_told_in_one_line():
    lines = sqlalchemy.exc.DatabaseError("SELECT 1\nFROM runs", {}, sqlite3.DatabaseError("malformed"))
    assert len(str(lines).splitlines()) > 1
    assert refusal(lines) == "the database refuses: (sqlite3.DatabaseError) malformed"
    assert refusal(sqlite3.OperationalError("locked")) == "the database refuses: locked"
