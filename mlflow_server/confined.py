"""The applications that `launch.py` gives to `mlflow server`: MLflow's own, without what lets its users too far.

MLflow lets whoever makes an experiment choose the place of its artifacts, and writes there with the server's own
rights: `file:///` any folder that the server may write to, its credentials included. Clients say no place here, or one
below what the server proxies. The former is better: where there are users, MLflow lets them write to the places alone
that begin with the number of their experiment, as the server chooses them, and the administrator to others.

MLflow's AI gateway keeps strangers' API keys and calls their services. Nothing here uses it, so it is not served.
"""

import re
from urllib.parse import unquote

from fastapi import FastAPI
from flask import Response, request
from mlflow.protos.service_pb2 import CreateExperiment
from mlflow.server import app as flask
from mlflow.server.handlers import _get_request_message, catch_mlflow_exception
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

CREATE = "/mlflow/experiments/create"
PROXIED = "mlflow-artifacts:/"
GATEWAY = re.compile(r"(/(ajax-)?api/[0-9.]+/mlflow)?/gateway[/-]")


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
        refused = scope["type"] == "http" and GATEWAY.match(scope["path"])
        answer = PlainTextResponse("This server has no AI gateway.", status_code=403) if refused else self._app
        await answer(scope, receive, send)


def _confined(app: FastAPI) -> FastAPI:
    flask.before_request(_refuse_place)  # after MLflow's own question who comes, if it asks
    app.add_middleware(WithoutGateway)
    return app


@catch_mlflow_exception  # type: ignore[untyped-decorator]
def _refuse_place() -> Response | None:
    """Refuse a request that names a place outside the server's own."""
    if not request.path.rstrip("/").endswith(CREATE):
        return None
    place = _decoded(str(_get_request_message(CreateExperiment()).artifact_location))
    if not place or (place.startswith(PROXIED) and ".." not in place):
        return None
    refused = "artifact_location: leave it out, the server chooses it, and where its users may write"
    return Response(refused, status=403, mimetype="text/plain")


def _decoded(place: str) -> str:
    while (decoded := unquote(place)) != place:
        place = decoded
    return place
