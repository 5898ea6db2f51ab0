"""A Ray cluster: joining or starting one, its nodes, and plain functions on its workers."""

import gc
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Read by Ray when it is imported or started.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a trial without a GPU must not see one
if (Path.home() / ".ray" / "auth_token").is_file():
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # a head turns it on when it finds this file; we must do as it did

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search.errors import StudyError
from search.provenance import code_digest
from search.resources import Node, Slot

TOKEN = Path.home() / ".ray" / "auth_token"
ROOT = Path(__file__).resolve().parents[1]
SECONDS_FOR_A_NODE = 60.0
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}


@contextmanager
def cluster(address: str | None, *, cpus: int | None = None) -> Iterator[Mapping[str, float]]:
    """Start Ray on this machine, or join a running cluster; yields its total resources.

    Args:
        address: of a running cluster's head, or None for a private one that ends with the block.
        cpus: CPUs of the private cluster; None: all of this machine.

    Raises:
        StudyError: the cluster does not answer, or a node has other code than this driver.
    """
    # Not Ray's `working_dir`: it unpacks the code on each node, and a node or driver killed at that moment leaves half
    # of it behind for those that come after. The code lies where the storage does: on a path that all nodes share.
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    try:
        host, _, port = (address or "").rpartition(":")
        if host and port.isdigit() and "/" not in host:
            socket.create_connection((host, int(port)), timeout=10).close()  # Ray itself would try for minutes
        if address is None:
            _start(path, cpus)
        else:
            ray.init(address, runtime_env={"env_vars": {"PYTHONPATH": path}}, **QUIET)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as problem:
        reason = _first_line(problem)
        if address is None:
            raise StudyError(f"Ray does not start on this machine ({reason}); its logs are in /tmp/ray") from None
        raise StudyError(
            f"--address {address}: no Ray cluster answers there ({reason}); start one with `ray start --head`, "
            "or give RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH as on its head"
        ) from None
    if threading.current_thread() is threading.main_thread():
        # Schedulers of clusters ask a job to leave with SIGTERM: stop as if Ctrl-C had been pressed. Ray set its own.
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    if TOKEN.is_file():
        TOKEN.chmod(0o600)  # Ray closes a cluster of its own by this token, and leaves it for all to read
    try:
        if address is not None:
            _check_code()
        yield ray.cluster_resources()
    finally:
        _leave()


def _leave() -> None:
    """Shut Ray down with nothing left over that asks it anything afterwards: it ends the process of whoever does."""
    gc.collect()  # Tune leaves references to objects of Ray in cycles
    gc.disable()  # the thread that delivers to MLflow would collect just now
    try:
        ray.shutdown()
    finally:
        gc.enable()


def _start(path: str, cpus: int | None) -> None:
    """Start a private cluster whose workers import from `path`.

    They inherit it. With a `runtime_env` the workers that Ray starts ahead would be of no use to anybody, and the first
    trial of each slot would wait for another one, more than a second.
    """
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = path
    try:
        # A bare init() may join somebody else's cluster; "local" never does.
        ray.init("local", num_cpus=cpus, include_dashboard=False, **QUIET)
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _check_code() -> None:
    """Refuse nodes that would run other code than this driver, or none."""
    digest = ray.remote(num_cpus=0, max_retries=0)(code_digest)
    asked = {
        digest.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(): node
        for node in ray.nodes()
        if node["Alive"]
    }
    own = code_digest()
    ray.wait(list(asked), num_returns=len(asked), timeout=SECONDS_FOR_A_NODE)
    for reference, node in asked.items():
        try:
            found = ray.get(reference, timeout=0)
        except (ray.exceptions.RayError, ImportError) as problem:
            found = _first_line(problem)
        if found != own:
            raise StudyError(
                f"node {node['NodeManagerAddress']} does not have this driver's code at {ROOT} ({found[:200]}); put "
                "the clone and its .venv on a path that all nodes share, or the same version into all images"
            )


def _first_line(problem: Exception) -> str:
    """Return what an exception says first; some of Ray's and of the system's say nothing."""
    return next(filter(None, str(problem).splitlines()), type(problem).__name__)


def nodes() -> list[Node]:
    """Return the resources of every node that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def stream(function: Callable[..., Iterator[Any]], order: Any, slot: Slot) -> Iterator[Any]:
    """Run a generator function in a worker and yield what it yields."""
    remote = ray.remote(num_returns="streaming", **_options(slot))(function)
    for reference in remote.remote(order):
        yield _result(reference)


def each(function: Callable[..., Any], orders: Sequence[Any], slots: Sequence[Slot]) -> Iterator[tuple[int, Any]]:
    """Run a function over orders in workers, each in its slot; yield (index, result) as they finish."""
    waiting = {
        ray.remote(**_options(slot))(function).remote(order): index
        for index, (order, slot) in enumerate(zip(orders, slots, strict=True))
    }
    while waiting:
        done, _ = ray.wait(list(waiting), num_returns=1)
        yield waiting.pop(done[0]), _result(done[0])


def _options(slot: Slot) -> dict[str, Any]:
    asked = slot.as_ray()
    memory = {"memory": asked["memory"]} if "memory" in asked else {}
    others = {name: amount for name, amount in asked.items() if name not in {"CPU", "GPU", "memory"}}
    return {"num_cpus": slot.cpus, "num_gpus": slot.gpus, "resources": others, **memory}


def _result(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as failure:
        # The worker's own error says what the user must do; Ray's wrapping does not.
        raise failure.cause if isinstance(failure.cause, Exception) else failure from None
