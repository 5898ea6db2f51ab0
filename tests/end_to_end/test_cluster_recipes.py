"""The recipes of scripts/cluster, as far as one machine can carry them out: real Ray nodes, made-up Slurm commands."""

import os
import signal
import stat
import subprocess
import sys
import time
from importlib.metadata import metadata
from pathlib import Path

import psutil
import pytest
import yaml

from scripts.services import free_port
from tests.end_to_end.conftest import ROOT, Command, environment

RECIPES = ROOT / "scripts" / "cluster"
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/usr/bin/env bash
if [ "$1" = show ]; then printf 'one\\ntwo\\n'; else echo "$@" >>"$FAKE_SLURM/told"; fi
"""
HOSTNAME = """#!/usr/bin/env bash
echo 127.0.0.1
"""


@pytest.mark.parametrize("script", ["slurm.sbatch", "hosts.sh"])
def test_scripts_are_well_formed(script):
    subprocess.run(["bash", "-n", RECIPES / script], check=True)


@pytest.fixture
def slurm(tmp_path, elsewhere):
    """An environment in which Slurm's commands act on this machine, as two nodes of one CPU each."""
    commands = tmp_path / "commands"
    commands.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("hostname", HOSTNAME)):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    venv = Path(sys.executable).parents[1]
    return {
        **environment(),
        "PATH": f"{commands}:{os.environ['PATH']}",
        "FAKE_SLURM": str(tmp_path),
        "RADSWEEP_VENV": str(venv),
        "RADSWEEP_STORAGE": str(elsewhere.storage),
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_JOB_ID": str(free_port()),
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_CPUS_PER_TASK": "1",
        "SLURM_GPUS_ON_NODE": "0",
    }


@pytest.mark.slow
def test_a_slurm_job_that_is_preempted_asks_for_another_turn_and_then_finishes(slurm, elsewhere, tmp_path):
    words = ["bash", str(RECIPES / "slurm.sbatch"), str(elsewhere.study)]
    with (tmp_path / "log").open("wb") as log:
        job = subprocess.Popen(words, env=slurm, stdout=log, stderr=log)
        deadline = time.monotonic() + 200
        while not any(event["kind"] == "epoch" for event in elsewhere.events()):
            assert job.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()[-2000:]
            time.sleep(0.05)
        token = next(elsewhere.storage.glob(".ray-token-*"))
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        job.send_signal(signal.SIGUSR1)
        assert job.wait(timeout=120) == 0
        assert (tmp_path / "told").read_text() == f"requeue {slurm['SLURM_JOB_ID']}\n"
        assert elsewhere.events()[-1] == {**elsewhere.events()[-1], "kind": "closed", "status": "KILLED"}
        second = {**slurm, "SLURM_JOB_ID": str(free_port())}
        assert subprocess.run(words, env=second, stdout=log, stderr=log, timeout=280, check=False).returncode == 0
    assert {e["state"] for e in elsewhere.events() if e["kind"] == "ended"} == {"COMPLETE", "PRUNED"}
    assert not list(elsewhere.storage.glob(".ray-token-*"))


@pytest.mark.slow
def test_named_hosts_are_started_closed_by_a_token_and_stopped(tmp_path):
    deadline = time.monotonic() + 60  # nodes of the tests before may still be leaving
    while any(process.info["name"] == "raylet" for process in psutil.process_iter(["name"])):
        if time.monotonic() > deadline:
            pytest.skip("`ray stop` would end the Ray that runs on this machine")
        time.sleep(0.5)
    surroundings = {
        **environment(),
        "RADSWEEP_VENV": str(Path(sys.executable).parents[1]),
        "RADSWEEP_PORT": str(free_port()),
        "RADSWEEP_TOKEN": str(tmp_path / "token"),
        "RADSWEEP_RAY_OPTIONS": "--num-cpus=1",
    }

    def hosts(action: str) -> str:
        words = ["bash", str(RECIPES / "hosts.sh"), action, "localhost", "localhost"]
        done = subprocess.run(words, env=surroundings, capture_output=True, text=True, timeout=120, check=True)
        return done.stdout

    told = hosts("start")
    try:
        address = told.split("--address ")[1].strip()
        known = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": surroundings["RADSWEEP_TOKEN"]}
        assert f"RAY_AUTH_TOKEN_PATH={known['RAY_AUTH_TOKEN_PATH']}" in told
        code = f"import ray; ray.init('{address}'); print(len([n for n in ray.nodes() if n['Alive']]))"
        counted = subprocess.run(
            [sys.executable, "-c", code], env={**surroundings, **known}, capture_output=True, text=True, check=True
        )
        assert counted.stdout.strip().endswith("2")
        (tmp_path / "wrong").write_text("0" * 64)
        stranger = Command(tmp_path)
        wrong = {**surroundings, **known, "RAY_AUTH_TOKEN_PATH": str(tmp_path / "wrong")}
        refused = subprocess.run(
            [*stranger.words("run"), "--address", address],
            cwd=ROOT,
            env=wrong,
            capture_output=True,
            text=True,
            check=False,
        )
        assert refused.returncode == 2
        assert "Traceback" not in refused.stderr
    finally:
        hosts("stop")
    assert not (tmp_path / "token").exists()


def test_the_kubernetes_manifest_is_closed_and_shares_what_must_be_shared():
    job = yaml.safe_load((RECIPES / "kuberay.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    lock = (ROOT / "requirements.lock").read_text().splitlines()
    assert f"ray=={cluster['rayVersion']}" in lock
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for spec in (group["template"]["spec"] for group in groups):
        assert spec["securityContext"]["runAsNonRoot"] is True
        (container,) = spec["containers"]
        assert not container["image"].endswith(":latest")
        assert ":" in container["image"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["resources"]["limits"] == container["resources"]["requests"]
        mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
        assert set(mounts) == {volume["name"] for volume in spec["volumes"]}
        assert mounts["data"]["readOnly"] is True
        assert "value" not in next(e for e in container["env"] if e["name"] == "MLFLOW_TRACKING_PASSWORD")
    assert groups[1]["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "4"
    assert "--address auto --storage /storage" in job["spec"]["entrypoint"]


def test_the_image_holds_what_a_search_needs():
    copied = [line.split()[-2] for line in (RECIPES / "Containerfile").read_text().splitlines() if "COPY" in line]
    assert {"datasets", "trainers", "mlflow_server", "search"} <= set(copied)


def test_the_image_answers_kuberays_probes_and_takes_its_jobs():
    lines = (RECIPES / "Containerfile").read_text().splitlines()
    (system,) = (line for line in lines if "apt-get install" in line)
    assert "wget" in system.split()
    (packages,) = (line for line in lines if "pip install" in line)
    assert packages.endswith('--requirement requirements.lock "ray[default]"')  # without a version: the lock's holds
    assert "default" in (metadata("ray").get_all("Provides-Extra") or [])
    user = lines.index("USER 1000")
    assert not [line for line in lines[user:] if line.startswith("RUN")]
    assert not [line for line in lines if line.startswith("USER ") and line != "USER 1000"]
