"""`python -m mlflow_server.deploy.health`: exit code 0 if the server in this container answers."""

import os
import urllib.request


def main() -> None:
    """Ask, under a name that the server answers to; raises what `urllib` raises."""
    port = int(os.environ.get("RADSWEEP_PORT", "5000"))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=4):
        pass


if __name__ == "__main__":
    main()
