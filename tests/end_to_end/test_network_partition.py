"""A node that lives on but cannot be reached: two hosts on a switch, each of them a network namespace.

Killing a node's processes does not show this. Here the lost node's training process stays alive, finishes its epoch,
writes its checkpoint into the shared storage, and reports to a driver that has given its trial to somebody else.
"""

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from datasets.dataset_config import DatasetConfig
from scripts.services import Service, working
from search.dispatcher import Dispatcher
from search.ledger import Event
from search.resources import Slot
from search.schedule import Assignment
from search.worker import WorkOrder
from tests.end_to_end.conftest import ROOT, Command, environment
from tests.end_to_end.results import report, rows_per_metric, runs
from tests.search.recorded import PRIMARY, Search
from trainers.trial import EpochMetrics, Operation, TrialConfig

Found = TypeVar("Found")

HEAD, WORKER = "10.231.0.1", "10.231.0.2"
"""They exist inside the namespaces only, like the port."""
ADDRESS = f"{HEAD}:6379"
PATIENCE = {
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
"""Of the head with a silent node; by default it waits five times for 10 s, with 3 s between, so more than a minute."""
SECONDS_UNDERWAY = 0.5
"""After that, what a process told before it was held is in the ledger."""


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


class Hosts:
    """A head and a worker on a switch, each a network namespace; nothing of them is seen from outside."""

    def __init__(self, prefix: str):
        self.switch, self.head, self.worker = (f"{prefix}-{name}" for name in ("switch", "head", "worker"))

    def connect(self) -> None:
        for host in (self.switch, self.head, self.worker):
            ip("netns", "add", host)
            ip("-n", host, "link", "set", "lo", "up")
        ip("-n", self.switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", self.switch, "link", "set", "bridge", "up")
        for port, host, address in (("head", self.head, HEAD), ("worker", self.worker, WORKER)):
            ip("-n", self.switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host)
            ip("-n", self.switch, "link", "set", port, "master", "bridge", "up")
            ip("-n", host, "address", "add", f"{address}/24", "dev", "eth0")
            ip("-n", host, "link", "set", "eth0", "up")

    def turn_link(self, state: str) -> None:
        """Turn the worker's port of the switch `up` or `down`.

        Its own interface stays up: without it, the worker's processes could not even talk to each other.
        """
        ip("-n", self.switch, "link", "set", "worker", state)

    def end_processes(self) -> None:
        """Kill whatever runs on the hosts, and nothing else: also what a dead parent has left behind."""
        deadline = time.monotonic() + 30
        while (found := self._processes()) and time.monotonic() < deadline:
            for process in found:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(found, timeout=1)

    def remove(self) -> None:
        self.end_processes()
        for host in (self.head, self.worker, self.switch):
            subprocess.run(["ip", "netns", "delete", host], capture_output=True, check=False)

    def _processes(self) -> list[psutil.Process]:
        found = []
        for host in (self.head, self.worker):
            told = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True, check=False)
            for pid in told.stdout.split():
                with contextlib.suppress(psutil.NoSuchProcess):
                    found.append(psutil.Process(int(pid)))
        return found


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    if sys.platform != "linux":
        pytest.skip("network namespaces are a thing of Linux")
    if os.geteuid() != 0:
        pytest.skip("only root can make network namespaces")
    if shutil.which("ip") is None:
        pytest.skip("there is no `ip` on this machine: apt-get install iproute2")
    hosts = Hosts(f"radsweep-{os.getpid()}")
    try:
        try:
            hosts.connect()
        except subprocess.CalledProcessError as refusal:
            pytest.skip(f"this machine allows no network namespaces: {refusal.stderr.strip()}")
        yield hosts
    finally:
        hosts.remove()


@dataclass(frozen=True, slots=True)
class Cluster:
    """A Ray head and a Ray worker of one CPU each, on hosts of their own."""

    hosts: Hosts
    head: Service
    worker: Service
    environment: dict[str, str]


@pytest.fixture
def cluster(hosts: Hosts, tmp_path: Path) -> Iterator[Cluster]:
    token = tmp_path / "ray-token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    known = {**environment(), **PATIENCE, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1", "--disable-usage-stats"]

    def node(host: str, *words: str) -> Service:
        log = tmp_path / f"{host}.log"
        command = ["ip", "netns", "exec", host, *ray, *words]
        return Service(f"Ray on {host}", command, lambda: "Ray runtime started" in log.read_text(), log, known)

    # Not below tmp_path: the names of Ray's sockets may have 107 characters at most.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as scratch:
        begins = ("--head", "--port=6379", "--include-dashboard=false", f"--temp-dir={scratch}")
        head = node(hosts.head, *begins, f"--node-ip-address={HEAD}")
        worker = node(hosts.worker, f"--address={ADDRESS}", f"--node-ip-address={WORKER}")
        try:
            head.start()
            worker.start()
            yield Cluster(hosts, head, worker, known)
        finally:
            hosts.end_processes()
            for service in (head, worker):
                if service.process is not None:
                    service.process.wait()


class Run:
    """A driver on the head's host, and what its ledger says."""

    def __init__(self, cluster: Cluster, command: Command, log: Path):
        self.command = command
        self.log = log
        words = ["ip", "netns", "exec", cluster.hosts.head, *command.words("run", "--address", ADDRESS)]
        with log.open("wb") as file:
            self.driver = subprocess.Popen(words, cwd=ROOT, env=cluster.environment, stdout=file, stderr=file)

    def until(self, due: Callable[[list[Event]], Found | None]) -> Found:
        """Wait until the ledger holds what `due` looks for, and return it."""
        deadline = time.monotonic() + 120
        while (found := due(self.command.events())) is None:
            assert self.driver.poll() is None, f"the run has ended: {self.log.read_text()[-2000:]}"
            assert time.monotonic() < deadline, f"the ledger never came to the point: {self.log.read_text()[-2000:]}"
            time.sleep(0.02)
        return found

    def end(self) -> None:
        assert self.driver.wait(timeout=120) == 0, self.log.read_text()[-2000:]


@contextlib.contextmanager
def held(processes: Iterable[psutil.Process]) -> Iterator[None]:
    """Let processes stand still, and what they told before arrive."""
    processes = list(processes)
    for process in processes:
        process.suspend()
    try:
        time.sleep(SECONDS_UNDERWAY)
        yield
    finally:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):  # the run has failed: it says why
                process.resume()


def lose_the_worker(run: Run, cluster: Cluster) -> tuple[Event, list[psutil.Process]]:
    """Take the worker's link down in the middle of an epoch of a trial that has a checkpoint.

    Returns:
        The event with which the trial was given to the worker, and the worker's training processes.
    """
    run.until(lambda events: (first(events, "epoch") and working(cluster.head) and working(cluster.worker)) or None)
    with held(working(cluster.head)):  # so that whoever tells something is the worker
        since = time.time() * 1000
        while True:
            started = run.until(lambda events: gone_on(events, since))
            processes = working(cluster.worker)
            with held(processes):
                if all(is_training(process) for process in processes) and run.command.events()[-1] == started:
                    cluster.hosts.turn_link("down")
                    return started, processes


def gone_on(events: list[Event], since: float) -> Event | None:
    """Return the last event if a trial goes on with it from a checkpoint, in the slot of one that told an epoch."""
    epochs = [event for event in events if event["kind"] == "epoch"]
    last = events[-1]
    if last["kind"] != "started" or not any(event["timestamp_ms"] > since for event in epochs):
        return None
    return last if any(event["trial"] == last["trial"] for event in epochs) else None


def is_training(process: psutil.Process) -> bool:
    """Whether it is in a call of Tune's `train`, rather than about to be given the next trial."""
    return " ".join(process.cmdline()).strip().endswith(".train")


def is_alive(process: psutil.Process) -> bool:
    return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)


def first(events: Iterable[Event], kind: str) -> Event | None:
    return next((event for event in events if event["kind"] == kind), None)


def first_epoch_after(events: list[Event], earlier: Event) -> Event | None:
    """Return the next epoch of the trial that an event is about."""
    later = events[events.index(earlier) :]
    return first((event for event in later if event.get("trial") == earlier["trial"]), "epoch")


@pytest.mark.slow
def test_a_node_that_cannot_be_reached_changes_nothing_in_the_end(
    undisturbed: Command, elsewhere: Command, cluster: Cluster, tmp_path: Path
) -> None:
    run = Run(cluster, elsewhere, tmp_path / "driver.log")
    started, processes = lose_the_worker(run, cluster)
    lost = run.until(lambda events: first(events, "interrupted"))
    again = run.until(lambda events: first_epoch_after(events, lost))
    assert all(is_alive(process) for process in processes)
    assert (lost["trial"], lost["class"]) == (started["trial"], "node_lost")
    # What the unreachable process trained is not trained again: it was told from its checkpoint, with its own time.
    assert started["time_ms"] < again["timestamp_ms"] < lost["time_ms"]

    cluster.hosts.turn_link("up")
    run.end()
    _, left = psutil.wait_procs(processes, timeout=60)  # Ray ends a node that comes back after it was given up
    assert not left
    assert cluster.worker.process is not None and cluster.worker.process.wait(timeout=60) != 0

    events = elsewhere.events()
    assert [event["trial"] for event in events if event["kind"] == "interrupted"] == [started["trial"]]
    epochs = [(event["trial"], event["epoch"]) for event in events if event["kind"] == "epoch"]
    assert len(epochs) == len(set(epochs))
    ends = {event["trial"]: event["state"] for event in events if event["kind"] == "ended"}
    assert len(ends) == sum(event["kind"] == "ended" for event in events) == 6
    assert ends == {event["trial"]: event["state"] for event in undisturbed.events() if event["kind"] == "ended"}
    assert report(elsewhere) == report(undisturbed)
    found = runs(elsewhere)
    assert Counter(run.data.tags["radsweep.identity"] for run in found) == Counter(ends.keys())
    assert Counter(run.info.status for run in found) == Counter(run.info.status for run in runs(undisturbed))
    assert {run.info.status for run in runs(elsewhere, "study")} == {"FINISHED"}
    assert set(rows_per_metric(elsewhere)) == {1}


def test_a_late_report_of_an_attempt_that_was_given_up_is_not_heard(tmp_path: Path) -> None:
    search = Search({"only": [0.5, 0.6, 0.7, 0.8]})
    config = TrialConfig(
        dataset=DatasetConfig(name="d", source="d"), initialization="r", backbone="b", resolution=32, recipe={}
    )
    operation = Operation(data_root=tmp_path, cache=tmp_path, trial_folder=tmp_path)

    def order(assigned: Assignment) -> WorkOrder:
        return WorkOrder(trial=assigned.trial, config=config, operation=operation, until_epoch=4, told_epochs=0)

    def epoch(number: int, moment: int) -> dict[str, str]:
        told = EpochMetrics(epoch=number, timestamp_ms=moment, metrics={PRIMARY: 0.5})
        return {"epoch": told.model_dump_json()}

    dispatcher = Dispatcher(
        search.schedule, order=order, slot_of=lambda _: Slot(1), after_trial=lambda _: None, nodes=lambda: [{"CPU": 1}]
    )
    dispatcher.assign("first attempt")
    assert dispatcher.told("first attempt", epoch(1, 1), dict)
    dispatcher.lost("first attempt", "The actor died because its node has died.")
    assert not dispatcher.told("first attempt", epoch(2, 2), dict)
    dispatcher.assign("second attempt")
    assert not dispatcher.told("first attempt", epoch(2, 2), dict)
    assert not dispatcher.told("first attempt", {"failure": "late", "failure_kind": "bug"}, dict)
    dispatcher.left("first attempt")
    assert dispatcher.told("second attempt", epoch(2, 3), dict)
    told = [(e["epoch"], e["timestamp_ms"]) for e in search.events if e["kind"] == "epoch"]
    assert told == [(1, 1), (2, 3)]
    assert search.ends() == {"only": "None"}
