"""The applications that `launch.py` gives to `mlflow server`: MLflow's own, without what lets its users too far.

MLflow lets whoever makes an experiment choose the place of its artifacts, and writes there with the server's own
rights: `file:///` any folder that the server may write to, its credentials included. Clients say no place here, or one
below what the server proxies. The former is better: where there are users, MLflow lets them write to the places alone
that begin with the number of their experiment, as the server chooses them, and the administrator to others.

It also reads with the server's own rights wherever a version of a model or a trace says that its files lie: `s3://` any
bucket that its credentials open. Versions are taken of what this server keeps, and where a trace lies only it says.

MLflow's AI gateway keeps strangers' API keys and calls their services. Nothing here uses it, so it is not served.
"""

import os
import re
from urllib.parse import unquote

import sqlalchemy
from fastapi import FastAPI
from flask import Response, request
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from mlflow.protos.model_registry_pb2 import CreateModelVersion
from mlflow.protos.service_pb2 import CreateExperiment
from mlflow.server import ARTIFACTS_DESTINATION_ENV_VAR
from mlflow.server import app as flask
from mlflow.server.handlers import _get_request_message, catch_mlflow_exception
from mlflow.store.tracking.dbmodels.models import SqlExperiment, SqlTraceInfo, SqlTraceTag
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.mlflow_tags import MLFLOW_ARTIFACT_LOCATION, MLFLOW_TRACE_ARCHIVE_LOCATION
from mlflow.utils.uri import append_to_uri_path, is_local_uri
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

EXPERIMENT = "/mlflow/experiments/create"
VERSION = "/mlflow/model-versions/create"
PROXIED = "mlflow-artifacts:/"
KEPT_HERE = (PROXIED, "models:/", "runs:/")
"""How the sources of versions begin that the server looks up among its own runs and models."""
GATEWAY = re.compile(r"(/(ajax-)?api/[0-9.]+/mlflow)?/gateway[/-]")
ENDPOINTS = re.compile(r"/ajax-api/[0-9.]+/mlflow/gateway-proxy")
"""Where MLflow's list of runs asks for the gateway's endpoints; refused, it would show an error over the page. Without
a target MLflow answers that there are none."""
TARGET = "MLFLOW_DEPLOYMENTS_TARGET"


def embedded() -> FastAPI:
    """Return the application without users, for one storage folder."""
    from mlflow.server.fastapi_app import app

    return _confined(app)


def authenticated() -> FastAPI:
    """Return the application that asks who comes; that needs the packages of `.[server]`."""
    from mlflow.server import auth

    return _confined(auth.create_app(flask))


class WithoutGateway:
    """Refuses the gateway's routes, of which some never come to Flask; passes everything else on."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let the application do it."""
        refused = scope["type"] == "http" and GATEWAY.match(scope["path"]) and not _asks_for_endpoints(scope)
        answer = PlainTextResponse("This server has no AI gateway.", status_code=403) if refused else self._app
        await answer(scope, receive, send)


def _asks_for_endpoints(scope: Scope) -> bool:
    return scope["method"] == "GET" and ENDPOINTS.fullmatch(scope["path"]) is not None


def _confined(app: FastAPI) -> FastAPI:
    os.environ.pop(TARGET, None)
    flask.before_request(_refuse_place)  # after MLflow's own question who comes, if it asks
    # Tags of traces come by six routes, one of them not Flask's, where they lie inside of compressed spans.
    for written in ("before_insert", "before_update"):
        sqlalchemy.event.listen(SqlTraceTag, written, _refuse_place_of_trace)
    app.add_middleware(WithoutGateway)
    return app


@catch_mlflow_exception  # type: ignore[untyped-decorator]
def _refuse_place() -> Response | None:
    """Refuse a request that names a place outside the server's own."""
    path, refused = request.path.rstrip("/"), None
    if path.endswith(EXPERIMENT):
        refused = problem_of_location(str(_get_request_message(CreateExperiment()).artifact_location))
    elif path.endswith(VERSION):
        refused = problem_of_source(str(_get_request_message(CreateModelVersion()).source))
    return Response(refused, status=403, mimetype="text/plain") if refused else None


def problem_of_location(place: str) -> str | None:
    """Say why an experiment cannot have its artifacts in a place, or None."""
    place = _decoded(place)
    if not place or (place.startswith(PROXIED) and ".." not in place):
        return None
    return "artifact_location: leave it out, the server chooses it, and where its users may write"


def problem_of_source(source: str) -> str | None:
    """Say why a version of a model cannot be made of what lies in a place, or None.

    MLflow itself refuses a path, `runs:/`, and what is proxied, unless it lies among the artifacts of the run or logged
    model that the request names; to any other place it would go.
    """
    own = (*KEPT_HERE, os.environ[ARTIFACTS_DESTINATION_ENV_VAR].rstrip("/") + "/")
    inside = is_local_uri(source, is_tracking_or_registry_uri=False) or source.startswith(own)
    if inside and not _climbs(source):
        return None
    return "source: name a model of this server, as runs:/RUN/PATH, models:/ID or the place of its run's artifacts"


def _refuse_place_of_trace(_: object, connection: sqlalchemy.Connection, tag: SqlTraceTag) -> None:
    """Refuse a tag that says where the server reads a trace, and deletes it, unless the server itself says so."""
    if tag.key == MLFLOW_TRACE_ARCHIVE_LOCATION or (
        tag.key == MLFLOW_ARTIFACT_LOCATION
        and (tag.value != _place_of_trace(connection, tag.request_id) or _climbs(tag.value))  # users name their traces
    ):
        raise MlflowException(f"{tag.key}: leave it out, the server chooses it", PERMISSION_DENIED)


def _place_of_trace(connection: sqlalchemy.Connection, trace: str) -> str | None:
    """Return where MLflow puts what belongs to a trace, below the artifacts of its experiment; None: there is none."""
    of_experiment = (
        sqlalchemy.select(SqlExperiment.artifact_location)
        .join(SqlTraceInfo, SqlTraceInfo.experiment_id == SqlExperiment.experiment_id)
        .where(SqlTraceInfo.request_id == trace)
    )
    below = (SqlAlchemyStore.TRACE_FOLDER_NAME, trace, SqlAlchemyStore.ARTIFACTS_FOLDER_NAME)
    place = connection.scalar(of_experiment)
    return None if place is None else str(append_to_uri_path(place, *below))


def _climbs(place: str) -> bool:
    return ".." in re.split(r"[/\\]", _decoded(place))


def _decoded(place: str) -> str:
    while (decoded := unquote(place)) != place:
        place = decoded
    return place
