"""`python -m scripts.faults [--kills 30] [--seed 0]`: kill -9 whatever a search rests on, again and again.

A study runs on two real Ray nodes against an MLflow server (with PostgreSQL where it is installed). At seeded random
moments its driver, a training process, a whole Ray node, the MLflow server and the database are killed in turn and
started again. When the study has ended it is held against one that ran undisturbed.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from scripts import services
from scripts.faults.examination import ROOT, Findings, Study, examine
from scripts.services import Service
from search.ledger import Event

STUDY = """
name: faults
axes:
  dataset: phantom
  initialization: random
  backbone: [test_convnext2, test_vit3]
  resolution: 32
search: {learning_rate: [1e-3, 3e-4, 1e-4, 3e-3]}
seeds: [0, 1]
data: {phantom: {patients: 96, size: 64}}
recipe: {epochs: 6, batch_size: 16, warmup_epochs: 0.5, augmentation: paper}
evaluation: {redraws: 200}
"""
SECONDS_BETWEEN_KILLS = (0.2, 5.0)
SECONDS_AWAY = (0.5, 3.0)
SECONDS_OF_A_STUDY = 900.0


@dataclass(slots=True)
class Surroundings:
    """What a study rests on.

    Attributes:
        folder: of everything.
        address: of the Ray head.
        environment: of every command.
        killable: services that are killed, by name.
        workers: Ray nodes, whose training processes are killed.
    """

    folder: Path
    address: str
    environment: dict[str, str]
    killable: dict[str, Service]
    workers: list[Service]

    def study(self, name: str) -> Study:
        """Lay down the study in a storage of its own."""
        folder = self.folder / name
        folder.mkdir()
        file = folder / "study.yaml"
        uri = self.environment["MLFLOW_TRACKING_URI"]
        file.write_text(f"{STUDY}tracking: {{uri: '{uri}', experiment: {name}}}\n")
        return Study(file, folder / "storage", name, self.environment)

    def driver(self, study: Study) -> "subprocess.Popen[bytes]":
        """Start a driver on the study."""
        words = study.command("run", "--progress", "lines", "--address", self.address)
        with (study.file.parent / "driver.log").open("ab") as log:
            return subprocess.Popen(words, cwd=ROOT, env=self.environment, stdout=log, stderr=log)


@contextlib.contextmanager
def surroundings() -> Iterator[Surroundings]:
    """Start Ray, MLflow and PostgreSQL, and end them with the block."""
    with contextlib.ExitStack() as ends:
        folder = Path(tempfile.mkdtemp(prefix="radsweep-faults-"))
        ends.callback(shutil.rmtree, folder, ignore_errors=True)
        try:
            database, uri = ends.enter_context(services.postgresql())
        except services.NoPostgresError:
            database, uri = None, None
        server, known = services.mlflow(folder / "server", uri)
        head, node, address, token = services.ray_nodes(folder)
        environment = {**os.environ, **known, **token, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
        environment |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
        for service in (server, head, node):
            ends.callback(service.kill)
            service.start()
        killable = {"Ray node": node, "MLflow server": server} | ({"PostgreSQL": database} if database else {})
        yield Surroundings(folder, address, environment, killable, [head, node])


@dataclass(slots=True)
class Disturbance:
    """Kills in turn, at seeded moments.

    Attributes:
        kills: how many in all.
        rng: of the moments.
        done: kills by target so far.
        acknowledged: epochs that a ledger held before a kill.
        saved: when each trial's checkpoint after an epoch was seen to be written; twice means it was trained twice.
    """

    around: Surroundings
    kills: int
    rng: np.random.Generator
    say: Any
    done: Counter[str] = field(default_factory=Counter)
    acknowledged: dict[tuple[str, int], Event] = field(default_factory=dict)
    saved: dict[tuple[str, str], set[int]] = field(default_factory=dict)

    @property
    def targets(self) -> list[str]:
        """What is killed, in turn."""
        return ["driver", "training process", *self.around.killable]

    @property
    def over(self) -> bool:
        """Whether all kills are done."""
        return self.done.total() >= self.kills

    def run(self, study: Study) -> None:
        """Run a study to its end, killing on the way.

        Raises:
            RuntimeError: a driver gave up that nobody had killed, or the study does not end.
        """
        self.acknowledged, self.saved = {}, {}
        deadline = time.monotonic() + SECONDS_OF_A_STUDY
        driver = self.around.driver(study)
        while driver.poll() is None:
            if time.monotonic() > deadline:
                services.kill_tree(driver.pid)
                raise RuntimeError(f"the study does not end: {_end_of(study)}")
            moment = time.monotonic() + self.rng.uniform(*SECONDS_BETWEEN_KILLS)
            while time.monotonic() < moment and driver.poll() is None:
                self._look(study)
                time.sleep(0.02)
            if not self.over and driver.poll() is None and self._searching(study):
                driver = self._kill(study, driver)
        if driver.returncode != 0:
            raise RuntimeError(f"a driver ended with {driver.returncode}: {_end_of(study)}")

    def _look(self, study: Study) -> None:
        with contextlib.suppress(FileNotFoundError):  # checkpoints come and go; the next look sees what stays
            for progress in study.trials.glob("*/last-*-000000*/progress.json"):
                trial, epoch = progress.parts[-3], progress.parts[-2].split("-")[1]
                self.saved.setdefault((trial, epoch), set()).add(progress.stat().st_mtime_ns)

    def _searching(self, study: Study) -> bool:
        events = study.events()
        return any(event["kind"] == "started" for event in events) and events[-1]["kind"] != "closed"

    def _kill(self, study: Study, driver: "subprocess.Popen[bytes]") -> "subprocess.Popen[bytes]":
        target = self.targets[self.done.total() % len(self.targets)]
        self.acknowledged |= {(e["trial"], e["epoch"]): e for e in study.events() if e["kind"] == "epoch"}
        if target == "driver":
            services.kill_tree(driver.pid)
            driver.wait()
            driver = self.around.driver(study)
        elif target == "training process":
            training = [process for node in self.around.workers for process in services.working(node)]
            if not training:
                return driver  # between two trials: later
            services.kill_tree(training[self.rng.integers(len(training))].pid)
        else:
            service = self.around.killable[target]
            service.kill()
            time.sleep(self.rng.uniform(*SECONDS_AWAY))
            service.start()
        self.done[target] += 1
        self.say(f"kill {self.done.total():>2}: {target}, after {len(self.acknowledged)} epochs")
        return driver


def _end_of(study: Study) -> str:
    return (study.file.parent / "driver.log").read_text(errors="replace")[-2000:]


def inflict(kills: int, seed: int, say: Any) -> list[Findings]:
    """Carry all kills out over as many studies as they take.

    Args:
        kills: how many.
        seed: of the moments.
        say: told of what happens.

    Returns:
        What the examination of each study found.
    """
    found: list[Findings] = []
    with surroundings() as around:
        quiet = Disturbance(around, 0, np.random.default_rng(seed), say)
        undisturbed = around.study("undisturbed")
        quiet.run(undisturbed)
        table = undisturbed.report()
        say(f"undisturbed: {sum(e['kind'] == 'epoch' for e in undisturbed.events())} epochs")
        disturbance = Disturbance(around, kills, np.random.default_rng(seed), say)
        while not disturbance.over:
            study = around.study(f"disturbed-{len(found) + 1}")
            disturbance.run(study)
            found.append(examine(study, table, disturbance.acknowledged, disturbance.saved))
            say(f"study {len(found)} ended; kills so far: {dict(disturbance.done)}")
    return found


def main(
    kills: Annotated[int, typer.Option(min=1, help="How many processes are killed.")] = 30,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
) -> None:
    """Kill driver, training processes, a Ray node, the MLflow server and PostgreSQL ; exit code 1 if it shows."""
    console = Console(highlight=False, soft_wrap=True)
    began = time.monotonic()
    found = inflict(kills, seed, console.print)
    for number, findings in enumerate(found, 1):
        for told in findings.checks:
            console.print(f"study {number}: ok     {told}")
        for told in findings.wrong:
            console.print(f"study {number}: WRONG  {told}")
    wrong = sum(len(findings.wrong) for findings in found)
    console.print(f"{kills} kills, {len(found)} studies, {wrong} wrong, {time.monotonic() - began:.0f} s")
    raise typer.Exit(1 if wrong else 0)


if __name__ == "__main__":
    typer.run(main)
