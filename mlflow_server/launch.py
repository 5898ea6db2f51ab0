"""`python -m mlflow_server.launch server …`: MLflow's command, whose server serves the applications of `confined.py`.

MLflow finds applications among the entry points of installed packages, and this repository is none.
"""

import click
import mlflow.server
from mlflow.cli import cli

APPS = {"embedded": "mlflow_server.confined:embedded", "basic-auth": "mlflow_server.confined:authenticated"}
"""By `--app-name`. The second is MLflow's own name, at which it makes the admin before any worker starts."""


def run() -> None:
    """Run MLflow's command with these applications instead of the installed ones."""
    mlflow.server._find_app = APPS.__getitem__
    for option in cli.commands["server"].params:
        if option.name == "app_name":
            option.type = click.Choice(list(APPS))
    cli()


if __name__ == "__main__":
    run()
