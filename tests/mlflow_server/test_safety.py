"""The attacks behind MLflow's published holes, on a running server.

Strangers on every route (CVE-2026-0545, CVE-2026-2652), the default password (CVE-2026-2635), paths that lead out of
the store (CVE-2025-11201, CVE-2023-1177), pages of other hosts.
"""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from base64 import b64encode

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.crypto import DEFAULT_KEK_PASSPHRASE

from mlflow_server import confined, server
from mlflow_server.check import logged_in, login, request
from mlflow_server.registry import Registry
from scripts.services import free_port, listens

pytestmark = pytest.mark.slow

LISTED = """
import json
from mlflow.server import app as flask
from mlflow.server.auth import create_app
served = create_app(flask)
routes = [[str(rule), method] for rule in flask.url_map.iter_rules() for method in rule.methods]
for path, methods in served.openapi()["paths"].items():
    routes += [[path, method.upper()] for method in methods]
routes += [[path, "GET"] for path in ("/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect")]
print(json.dumps(routes))
"""
OPEN = {
    # Says that it is alive, and no more.
    "/health": b"OK",
    # What a client reads before it logs in; names no run, user or path.
    "/api/3.0/mlflow/server-info": b"{",
    "/ajax-api/3.0/mlflow/server-info": b"{",
}
"""Routes that answer anybody, and how their answers begin; besides, the files of the web page below /static-files."""


@pytest.fixture(scope="module")
def routes(served, tmp_path_factory):
    """All (path, method) of the application that serves, the parameters filled in."""
    surroundings = {**server.configured_environment(served), "_MLFLOW_SGI_NAME": "uvicorn"}
    surroundings["MLFLOW_BACKEND_STORE_URI"] = served.backend
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LISTED],
        env=surroundings,
        cwd=tmp_path_factory.mktemp("routes"),
        capture_output=True,
        text=True,
        check=True,
    )
    found = {(re.sub(r"<[^>]+>|\{[^}]+\}", "x", path), method) for path, method in json.loads(done.stdout)}
    assert len(found) > 500
    assert {("/ajax-api/3.0/jobs/x", "GET"), ("/graphql", "POST"), ("/v1/traces", "POST")} <= found
    return sorted((path, method) for path, method in found if method not in {"HEAD", "OPTIONS"})


def ask(connection, method, path):
    """Return status and beginning of the body, of a stranger."""
    body = b"{}" if method != "GET" else None
    connection.request(method, path, body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    return answer.status, answer.read()[:200]


def test_no_route_answers_a_stranger(served, routes):
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    answered = {}
    for path, method in routes:
        status, body = ask(connection, method, path)
        if status not in {401, 403} and not path.startswith("/static-files/"):
            answered[path, method] = status, body
    unexpected = {key: found for key, found in answered.items() if key[0] not in OPEN}
    assert unexpected == {}
    assert {path: body[: len(OPEN[path])] for (path, _), (_, body) in answered.items() if path in OPEN} == OPEN


def test_what_is_open_tells_nothing_of_the_store(served):
    for path in OPEN:
        body = request(served, path, known=False)[1].decode()
        assert not re.search(r"sqlite|postgres|file:|/tmp|password|admin", body), body


def test_a_wrong_password_is_no_password(served, routes):
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    connection.request(
        "GET",
        "/api/2.0/mlflow/experiments/search?max_results=1",
        headers={"Authorization": "Basic YWRtaW46cGFzc3dvcmQxMjM0"},  # admin:password1234, MLflow's default once
    )
    assert connection.getresponse().status == 401


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:5000", "localhost.evil.example"]
)
def test_a_hostile_host_header_is_refused_on_every_kind_of_route(served, host):
    for path in ("/", "/api/2.0/mlflow/experiments/search?max_results=1", "/graphql", "/ajax-api/3.0/jobs/0"):
        assert request(served, path, known=True, host=host)[0] == 403


def ask_as_user(served, method, path, body=None, more=None):
    """Return status and body of a request whose path is sent as it stands."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    word = b64encode(":".join(login(served)).encode()).decode()
    connection.request(method, path, body, {"Authorization": f"Basic {word}", **(more or {})})
    answer = connection.getresponse()
    return answer.status, answer.read()


OUTSIDE = [
    "../../../../../../etc/passwd",
    "%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
    "..%252f..%252f..%252f..%252fetc%252fpasswd",
    "/etc/passwd",
    "%2Fetc%2Fpasswd",
    "file:///etc/passwd",
    "....//....//....//etc/passwd",
    "..%5c..%5c..%5cetc%5cpasswd",
]


@pytest.fixture(scope="module")
def run(served):
    """A run of the server with an artifact, and a version of a model that has its source."""
    with logged_in(served):
        client = MlflowClient(served.uri)
        made = client.create_run("0").info
        client.log_text(made.run_id, "harmless", "a.txt")
        client.create_registered_model("attacked")
        client.create_model_version("attacked", source=made.artifact_uri, run_id=made.run_id)
    return made.run_id


@pytest.mark.parametrize("path", OUTSIDE)
def test_no_artifact_path_leads_out_of_the_store(served, run, path):
    for asked in (
        f"/api/2.0/mlflow-artifacts/artifacts/{path}",
        f"/api/2.0/mlflow-artifacts/artifacts?path={path}",
        f"/ajax-api/2.0/mlflow-artifacts/artifacts/{path}",
        f"/get-artifact?run_uuid={run}&path={path}",
        f"/model-versions/get-artifact?name=attacked&version=1&path={path}",
        f"/api/2.0/mlflow/artifacts/list?run_id={run}&path={path}",
    ):
        status, body = ask_as_user(served, "GET", asked)
        assert b"root:" not in body, asked
        assert b'passwd"' not in body, asked
        assert status in {400, 404, 405, 500} or b"files" not in body, asked


def test_the_same_requests_find_what_is_in_the_store(served, run):
    """Else the test above would hold on a server that finds nothing at all."""
    for asked in (
        f"/get-artifact?run_uuid={run}&path=a.txt",
        "/model-versions/get-artifact?name=attacked&version=1&path=a.txt",
    ):
        assert ask_as_user(served, "GET", asked) == (200, b"harmless")


@pytest.mark.parametrize(
    "path", ["../../planted", "%2e%2e/%2e%2e/planted", "..%2f..%2fplanted", "..%252f..%252fplanted"]
)
def test_nothing_is_written_outside_the_store(served, path):
    status, _ = ask_as_user(served, "PUT", f"/api/2.0/mlflow-artifacts/artifacts/{path}", b"content")
    assert status in {400, 404, 405, 500}
    assert not list(served.folder.parent.rglob("planted"))


@pytest.mark.parametrize(
    "source",
    [
        "file:///etc",
        "/etc",
        "../../etc",
        "mlflow-artifacts:/../../etc",
        "mlflow-artifacts:/%2e%2e/%2e%2e/etc",
        "models:/../../etc",
        "file://evil/etc",
        "file:///tmp/../etc#a",
    ],
)
def test_no_version_of_a_model_leads_out_of_the_store(served, source, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # a refusal may be a 500, which the client tries again
    with logged_in(served):
        client = MlflowClient(served.uri)
        run = client.create_run("0").info.run_id
        with pytest.raises(MlflowException):
            Registry(served.uri).register("traversal", source=source, run_id=run, tags={})


@pytest.mark.parametrize("key", ["artifact_location", "artifactLocation"])
@pytest.mark.parametrize(
    "place", ["file://{}", "{}", "s3://somebody/x", "file:{}", "mlflow-artifacts:{}/..", "FILE://{}"]
)
@pytest.mark.parametrize("route", ["/api/2.0/mlflow/experiments/create", "/ajax-api/2.0/mlflow/experiments/create"])
def test_no_user_chooses_where_the_server_writes(served, route, place, key):
    outside = served.folder.parent / "outside"
    body = json.dumps({"name": f"{route}{place}{key}", key: place.format(outside)}).encode()
    status, answer = ask_as_user(served, "POST", route, body, {"Content-Type": "application/json"})
    assert (status, answer[:17]) == (403, b"artifact_location")
    assert not outside.exists()


def test_a_user_may_create_an_experiment_where_the_server_keeps_things(served):
    with logged_in(served):
        client = MlflowClient(served.uri)
        for name, place in (("chosen by the server", None), ("proxied", "mlflow-artifacts:/somewhere")):
            run = client.create_run(client.create_experiment(name, artifact_location=place)).info
            client.log_text(run.run_id, "content", "a.txt")
            assert run.artifact_uri.startswith("mlflow-artifacts:/")
            assert len(list((served.folder / "mlartifacts").rglob(f"{run.run_id}/artifacts/a.txt"))) == 1


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    "source",
    [
        "s3://private/backup",
        "S3://private/backup",
        "s3:/private/backup",
        "dbfs:/private/backup",
        "gs://private/backup",
        "hdfs://private/backup",
        "http://127.0.0.1/api/2.0/mlflow-artifacts/artifacts/0",
        "models:/attacked/%252e%252e/1",
    ],
)
@pytest.mark.parametrize("prefix", ["/api/2.0", "/ajax-api/2.0"])
def test_no_version_of_a_model_is_made_of_what_the_server_does_not_keep(served, run, prefix, source):
    """The server would read it with its own credentials, for whoever asks for the version's files."""
    for body in (json.dumps({"name": "attacked", "source": source}), json.dumps(json.dumps({"source": source}))):
        path = f"{prefix}/mlflow/model-versions/create"
        status, answer = ask_as_user(served, "POST", path, body.encode(), JSON)
        assert (status, answer[:30]) == (403, b"source: name a model of this s")


@pytest.mark.parametrize(
    ("source", "taken"),
    [
        ("s3://mlflow/artifacts/0/a", True),
        ("mlflow-artifacts:/0/a", True),
        ("runs:/a/model..1", True),
        ("models:/m-1", True),
        ("models:/m/1", True),
        ("/a", True),  # MLflow itself asks whether it is the run's
        ("prompt-template", True),
        ("s3://mlflow/artifacts", False),
        ("s3://mlflow/artifacts2/a", False),
        ("s3://mlflow/artifacts/../a", False),
        ("s3://mlflow/artifacts/%252e%252e/a", False),
        ("s3://mlflow/artifacts%2fa", False),
        ("runs:/a/..", False),
        ("mlflow-artifacts:/a/..%5ca", False),
    ],
)
def test_a_version_is_made_of_what_the_server_keeps(monkeypatch, source, taken):
    monkeypatch.setenv(confined.ARTIFACTS_DESTINATION_ENV_VAR, "s3://mlflow/artifacts")
    assert (confined.problem_of_source(source) is None) == taken


def registered(uri, run):
    """Register the model of a run in every way that it can be named; returns the registered model's name."""
    client = MlflowClient(uri)
    model = client.create_logged_model(run.experiment_id, name="network", source_run_id=run.run_id)
    client.log_text(run.run_id, "content", "network/a.txt")
    name = f"of-{run.run_id}"
    client.create_registered_model(name)
    place, own = f"{run.artifact_uri}/network", f"models:/{model.model_id}"
    client.create_model_version(name, source=place, run_id=run.run_id)
    client.create_model_version(name, source=f"runs:/{run.run_id}/network", run_id=run.run_id)
    client.create_model_version(name, source=own, run_id=run.run_id, model_id=model.model_id)
    client.create_model_version(name, source=f"models:/{name}/1")
    return name


def test_users_register_what_is_proxied(served):
    with logged_in(served):
        run = MlflowClient(served.uri).create_run("0").info
        name = registered(served.uri, run)
    for version in (1, 4):  # what was named by its run, MLflow's server does not find where it is proxied
        asked = f"/model-versions/get-artifact?name={name}&version={version}&path=a.txt"
        assert ask_as_user(served, "GET", asked) == (200, b"content"), version


TRACE = "tr-00000000000000000000000000000001"
PLACES = ("mlflow.artifactLocation", "mlflow.trace.archiveLocation")


def started(trace, tags):
    """Return the body that starts a trace."""
    where = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "0"}}
    told = {"trace_id": trace, "trace_location": where, "request_time": "2026-01-01T00:00:00Z", "state": "OK"}
    return {"trace": {"trace_info": {**told, "tags": tags}}}


def spanned(trace, tags):
    """Return the body that tells a trace by its span."""
    attributes = [{"key": f"mlflow.traceTag.{key}", "value": {"stringValue": value}} for key, value in tags.items()]
    span = {"traceId": trace, "spanId": "0000000000000001", "name": "a", "attributes": attributes}
    times = {"startTimeUnixNano": "1000000000", "endTimeUnixNano": "2000000000"}
    return {"resourceSpans": [{"scopeSpans": [{"spans": [span | times]}]}]}


def tagged(served, kind, tags):
    """Send tags of a trace by one of MLflow's routes; returns status and body."""
    pairs = [{"key": key, "value": value} for key, value in tags.items()]
    begun = {"experiment_id": "0", "timestamp_ms": 1, "request_metadata": [], "tags": pairs}
    ended = {"timestamp_ms": 2, "status": "OK", "request_metadata": [], "tags": pairs}
    method, path, body = {
        "start": ("POST", "/api/3.0/mlflow/traces", started("tr-00000000000000000000000000000002", tags)),
        "start as before": ("POST", "/ajax-api/2.0/mlflow/traces", begun),
        "end as before": ("PATCH", f"/api/2.0/mlflow/traces/{TRACE}", ended),
        "tag": ("PATCH", f"/ajax-api/3.0/mlflow/traces/{TRACE}/tags", pairs[0]),
        "tag as before": ("PATCH", f"/api/2.0/mlflow/traces/{TRACE}/tags", pairs[0]),
        "span": ("POST", "/v1/traces", spanned("00000000000000000000000000000003", tags)),
    }[kind]
    return ask_as_user(served, method, path, json.dumps(body).encode(), {**JSON, "x-mlflow-experiment-id": "0"})


ROUTES_OF_TAGS = ["start", "start as before", "end as before", "tag", "tag as before", "span"]


@pytest.fixture(scope="module")
def trace(served):
    """A trace that the server has, where it may hold tags."""
    body = json.dumps(started(TRACE, {})).encode()
    assert ask_as_user(served, "POST", "/api/3.0/mlflow/traces", body, JSON)[0] == 200


@pytest.mark.parametrize("kind", ROUTES_OF_TAGS)
@pytest.mark.parametrize("key", PLACES)
@pytest.mark.usefixtures("trace")
def test_no_user_chooses_where_the_server_reads_a_trace(served, kind, key):
    """And whose files it deletes with one."""
    status, answer = tagged(served, kind, {key: (served.folder / "credentials").as_uri()})
    assert status == (400 if key == PLACES[1] and kind.startswith("tag") else 403), answer  # MLflow refuses some itself
    assert key.encode() in answer


@pytest.mark.parametrize("kind", ROUTES_OF_TAGS)
@pytest.mark.usefixtures("trace")
def test_users_tag_traces(served, kind):
    assert tagged(served, kind, {"colour": "green"})[0] == 200


def test_no_name_of_a_trace_leads_out_of_the_store(served):
    body = json.dumps(started("../../../credentials", {})).encode()
    status, answer = ask_as_user(served, "POST", "/api/3.0/mlflow/traces", body, JSON)
    assert (status, b"mlflow.artifactLocation: leave it out" in answer) == (403, True)


@pytest.mark.parametrize(
    "route",
    [
        "/api/3.0/mlflow/gateway/secrets/create",
        "/ajax-api/3.0/mlflow/gateway/secrets/create",
        "/ajax-api/2.0/mlflow/gateway-proxy",
        "/gateway/mlflow/v1/chat/completions",
    ],
)
def test_nobody_gets_to_the_gateway(served, route):
    """MLflow would encrypt the API keys that it is given with a passphrase that stands in its code."""
    body = json.dumps({"secret_name": "a", "secret_value": {"key": "b"}, "provider": "openai"}).encode()
    status, answer = ask_as_user(served, "POST", route, body, {"Content-Type": "application/json"})
    assert (status, answer) == (403, b"This server has no AI gateway.")


def test_the_list_of_runs_is_told_that_the_gateway_has_no_endpoints(served):
    """MLflow's page shows what else it is answered as an error."""
    asked = "/ajax-api/2.0/mlflow/gateway-proxy?gateway_path=api%2F2.0%2Fendpoints%2F"
    status, answer = ask_as_user(served, "GET", asked)
    assert (status, json.loads(answer)) == (200, {"endpoints": []})
    assert ask_as_user(served, "GET", "/gateway/endpoints")[0] == 403


def test_the_servers_secrets_are_encrypted_with_a_passphrase_of_its_own(served):
    surroundings = server.configured_environment(served)
    stored = (served.folder / "credentials" / "passphrase").read_text().strip()
    assert surroundings["MLFLOW_CRYPTO_KEK_PASSPHRASE"] == stored
    assert len(stored) >= 20
    assert stored != DEFAULT_KEK_PASSPHRASE


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    """The server of one storage folder, without users."""
    folder = tmp_path_factory.mktemp("embedded")
    settings = server.ServerSettings(folder, "127.0.0.1", free_port())
    with subprocess.Popen(server.command(settings), env=server.environment(), start_new_session=True) as process:
        try:
            deadline = time.monotonic() + 120
            while not listens(settings.port):
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.2)
            yield folder, f"http://127.0.0.1:{settings.port}"
        finally:
            os.killpg(process.pid, signal.SIGTERM)


@pytest.mark.parametrize("place", ["{}", "file://{}", "mlflow-artifacts:/..{}", "mlflow-artifacts:/%2e%2e{}"])
def test_the_embedded_server_writes_nowhere_else_either(embedded, place):
    """Whoever has an account on the machine reaches its loopback."""
    folder, uri = embedded
    outside = folder.parent / "outside-of-the-embedded"
    with pytest.raises(MlflowException, match="artifact_location"):
        MlflowClient(uri).create_experiment(place, artifact_location=place.format(outside))
    assert not outside.exists()


def test_the_embedded_server_takes_runs_and_files(embedded, monkeypatch):
    folder, uri = embedded
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    client = MlflowClient(uri)
    run = client.create_run(client.create_experiment("e")).info.run_id
    client.log_text(run, "content", "a.txt")
    assert len(list((folder / "mlartifacts").rglob("a.txt"))) == 1


def test_the_embedded_server_registers_what_lies_in_its_folder(embedded, monkeypatch):
    """A study writes to the database itself, so that its runs lie at paths."""
    folder, uri = embedded
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    place = (folder / "mlartifacts" / "study").as_uri()
    run = client.create_run(client.create_experiment("study", artifact_location=place)).info
    assert registered(uri, run) == f"of-{run.run_id}"
    with pytest.raises(MlflowException, match="source: name a model of this server"):
        MlflowClient(uri).create_model_version(f"of-{run.run_id}", source="s3://private/backup", run_id=run.run_id)
