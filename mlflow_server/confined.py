"""Who may come in, and where artifacts may go: MLflow's basic-auth asks `authorize` before every request.

MLflow lets every user choose the place of a new experiment's artifacts, and writes there with the server's own rights:
`file:///` any folder that the server may write to, its credentials included. Users say no place here, or one below what
the server proxies.
"""

from flask import Response, request
from mlflow.protos.service_pb2 import CreateExperiment
from mlflow.server import auth
from mlflow.server.handlers import _get_request_message
from werkzeug.datastructures import Authorization

# With a function that is not its own MLflow takes it that there are no passwords, and its page no longer offers to log
# out or to change one's own.
auth.DEFAULT_AUTHORIZATION_FUNCTION = f"{__name__}:authorize"
CREATE = "/mlflow/experiments/create"
PROXIED = "mlflow-artifacts:/"


def authorize() -> Authorization | Response:
    """Let a request through if its password is right and it names no place outside the server's own."""
    found: Authorization | Response = auth.authenticate_request_basic_auth()
    if isinstance(found, Response) or not request.path.rstrip("/").endswith(CREATE):
        return found
    place = str(_get_request_message(CreateExperiment()).artifact_location)
    if place and not place.startswith(PROXIED):
        refused = "artifact_location: leave it out, the server chooses it; or begin it with mlflow-artifacts:/"
        return Response(refused, status=403, mimetype="text/plain")
    return found
