"""The recipes of scripts/cluster, as far as one machine can carry them out: real Ray nodes, made-up Slurm commands."""

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
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
case "$1 $2" in
"show hostnames") printf 'one\\ntwo\\n' ;;
"show job") echo "JobState=${FAKE_STATE:-RUNNING} Reason=None" ;;
*) echo "$@" >>"$FAKE_SLURM/told" ;;
esac
"""
HOSTNAME = """#!/usr/bin/env bash
echo 127.0.0.1
"""
RAY = """#!/usr/bin/env bash
echo "${FAKE_HOST:-localhost}: $1 $2" >>"$FAKE_RAY"
"""
SSH = """#!/usr/bin/env bash
[ "$3" != dead ] || exit 255
FAKE_HOST=$3 exec bash -c "$4"
"""
GETENT = """#!/usr/bin/env bash
case $2 in head) echo "10.0.0.7 STREAM head" ;; alone) echo "127.0.1.1 STREAM alone" ;; *) exit 2 ;; esac
"""


@pytest.mark.parametrize("script", ["slurm.sbatch", "hosts.sh"])
def test_scripts_are_well_formed(script):
    subprocess.run(["bash", "-n", RECIPES / script], check=True)


def made_up(folder: Path, **commands: str) -> Path:
    """A folder of executables, for a PATH."""
    folder.mkdir(parents=True)
    for name, text in commands.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture
def slurm(tmp_path, elsewhere):
    """An environment in which Slurm's commands act on this machine, as two nodes of one CPU each."""
    commands = made_up(tmp_path / "commands", srun=SRUN, scontrol=SCONTROL, hostname=HOSTNAME)
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
    text = elsewhere.study.read_text().replace("[test_convnext2, test_vit3]", "test_vit3")
    elsewhere.study.write_text(text.replace("[1e-3, 1e-4, 3e-3]", "[1e-3, 3e-3]"))
    words = ["bash", str(RECIPES / "slurm.sbatch"), str(elsewhere.study)]
    with (tmp_path / "log").open("wb") as log:
        job = subprocess.Popen(words, env=slurm, stdout=log, stderr=log)
        deadline = time.monotonic() + 400
        while not any(event["kind"] == "epoch" for event in elsewhere.events()):
            assert job.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()[-2000:]
            time.sleep(0.05)
        token = next(elsewhere.storage.glob(".ray-token-*"))
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        job.send_signal(signal.SIGUSR1)
        assert job.wait(timeout=240) == 0
        assert (tmp_path / "told").read_text() == f"requeue {slurm['SLURM_JOB_ID']}\n"
        assert elsewhere.events()[-1] == {**elsewhere.events()[-1], "kind": "closed", "status": "KILLED"}
        second = {**slurm, "SLURM_JOB_ID": str(free_port())}
        assert subprocess.run(words, env=second, stdout=log, stderr=log, timeout=500, check=False).returncode == 0
    assert {e["state"] for e in elsewhere.events() if e["kind"] == "ended"} == {"COMPLETE", "PRUNED"}
    assert not list(elsewhere.storage.glob(".ray-token-*"))


@pytest.mark.parametrize(
    ("sent", "state", "told"),
    [
        (signal.SIGTERM, "PREEMPTED", ["requeue"]),
        (signal.SIGUSR1, "RUNNING", ["requeue"]),
        (signal.SIGTERM, "CANCELLED", []),
    ],
)
def test_a_slurm_job_asks_for_another_turn_unless_it_was_cancelled(slurm, tmp_path, sent, state, told):
    """Ray and the driver are made up here: what counts is what becomes of the job."""
    python = (
        f'#!/usr/bin/env bash\n[ "$1" = -c ] && exec {sys.executable} "$@"\n: >"$FAKE_SLURM/drives"\nexec sleep 60\n'
    )
    made_up(tmp_path / "venv" / "bin", python=python, ray="#!/usr/bin/env bash\nexec sleep 60\n")
    job_id = next(job for job in range(20_000) if is_free(20_000 + job))
    surroundings = {**slurm, "RADSWEEP_VENV": str(tmp_path / "venv"), "SLURM_JOB_ID": str(job_id), "FAKE_STATE": state}
    with socket.create_server(("127.0.0.1", 20_000 + job_id)):  # where the recipe waits for its head
        job = subprocess.Popen(["bash", str(RECIPES / "slurm.sbatch"), "study.yaml"], env=surroundings)
        while not (tmp_path / "drives").exists():
            assert job.poll() is None
            time.sleep(0.02)
        job.send_signal(sent)
        assert job.wait(timeout=30) == 0
    requests = (tmp_path / "told").read_text().split() if (tmp_path / "told").exists() else []
    assert requests[:1] == told


def is_free(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) != 0


class NamedHosts:
    """Runs hosts.sh where Ray only writes down what it is told, and ssh reaches every host but `dead`."""

    def __init__(self, folder: Path):
        self.token = folder / "a folder" / "token"
        self._told = folder / "told"
        commands = made_up(folder / "commands", ssh=SSH, getent=GETENT)
        made_up(folder / "a venv" / "bin", ray=RAY, python=f'#!/usr/bin/env bash\nexec {sys.executable} "$@"\n')
        self._environment = {
            **environment(),
            "PATH": f"{commands}:{os.environ['PATH']}",
            "FAKE_RAY": str(self._told),
            "RADSWEEP_VENV": str(folder / "a venv"),
            "RADSWEEP_TOKEN": str(self.token),
        }

    def __call__(self, *words: str, code: int = 0) -> str:
        script = ["bash", str(RECIPES / "hosts.sh"), *words]
        done = subprocess.run(script, env=self._environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == code, done.stderr
        return done.stderr if code else done.stdout

    def told(self) -> list[str]:
        """What Ray was told since this was asked last."""
        lines = self._told.read_text().splitlines() if self._told.exists() else []
        self._told.unlink(missing_ok=True)
        return lines


@pytest.fixture
def named_hosts(tmp_path) -> NamedHosts:
    return NamedHosts(tmp_path)


def test_a_running_clusters_token_is_not_replaced(named_hosts):
    named_hosts("start", "head", "worker")
    assert named_hosts.told() == ["head: start --head", "worker: start --address=10.0.0.7:6379"]
    token = named_hosts.token.read_text()
    refusal = named_hosts("start", "localhost", code=2)
    assert f"{named_hosts.token} is there" in refusal
    assert "hosts.sh stop HEAD [WORKER …]" in refusal
    assert (named_hosts.told(), named_hosts.token.read_text()) == ([], token)
    named_hosts("stop", "head", "worker")
    named_hosts("start", "localhost")
    assert len(token) == len(named_hosts.token.read_text()) == 64
    assert named_hosts.token.read_text() != token
    assert stat.S_IMODE(named_hosts.token.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("hosts", "told"),
    [
        (["haed"], "no address for haed"),
        (["localhost", "worker"], "localhost is 127.0.0.1, where worker does not reach it"),
        (["alone", "localhost", "worker"], "alone is 127.0.1.1, where worker does not reach it"),
    ],
)
def test_a_head_that_its_workers_would_not_find_leaves_no_token_behind(named_hosts, hosts, told):
    assert told in named_hosts("start", *hosts, code=2)
    assert (named_hosts.told(), named_hosts.token.exists()) == ([], False)


def test_the_token_to_search_with_can_be_pasted_into_a_shell(named_hosts):
    (command,) = (line for line in named_hosts("start", "localhost").splitlines() if "search run" in line)
    assert command.endswith(" python -m search run STUDY.yaml --address 127.0.0.1:6379")
    pasted = command.replace("python -m search", "printenv RAY_AUTH_TOKEN_PATH #")
    done = subprocess.run(["bash", "-c", pasted], capture_output=True, text=True, check=True)
    assert done.stdout == f"{named_hosts.token}\n"


@pytest.mark.parametrize(
    ("hosts", "stopped"),
    [
        (["head", "dead", "worker"], ["worker: stop --force", "head: stop --force"]),
        (["dead", "worker"], ["worker: stop --force"]),
    ],
)
def test_hosts_that_are_not_reached_keep_no_others_from_being_stopped(named_hosts, hosts, stopped):
    named_hosts("start", "head", "worker")
    named_hosts.told()
    assert named_hosts("stop", *hosts, code=1).rstrip().endswith(" on: dead")
    assert (named_hosts.told(), named_hosts.token.exists()) == (stopped, False)


@pytest.fixture
def own_processes() -> Iterator[list[str]]:
    """Words before a command that sees none of this machine's processes but those started likewise.

    `ray stop` ends every Ray that it sees.
    """
    if sys.platform != "linux":
        pytest.skip("namespaces of processes are a thing of Linux")
    if os.geteuid() != 0:
        pytest.skip("only root can make a namespace of processes")
    unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    reaper = ["bash", "-c", "sleep infinity & wait"]  # of what is orphaned in there: its first process must do that
    with subprocess.Popen([*unshare, *reaper]) as holder:
        try:
            while not (first := psutil.Process(holder.pid).children()) or first[0].name() != "bash":
                assert holder.poll() is None, "this machine makes no namespace of processes"
                time.sleep(0.01)
            yield ["nsenter", f"--target={first[0].pid}", "--pid", "--mount", f"--wd={ROOT}"]
        finally:
            holder.kill()


@pytest.mark.slow
def test_named_hosts_are_started_closed_by_a_token_and_stopped(own_processes, tmp_path):
    surroundings = {
        **environment(),
        "RADSWEEP_VENV": str(Path(sys.executable).parents[1]),
        "RADSWEEP_PORT": str(free_port()),
        "RADSWEEP_TOKEN": str(tmp_path / "token"),
        "RADSWEEP_RAY_OPTIONS": "--num-cpus=1",
    }

    def run(*words: str, code: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
        environment = {**surroundings, **more}
        command = [*own_processes, *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == code, done.stderr
        return done

    def hosts(action: str) -> str:
        return run("bash", str(RECIPES / "hosts.sh"), action, "localhost", "localhost").stdout

    told = hosts("start")
    try:
        address = told.split("--address ")[1].strip()
        known = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": surroundings["RADSWEEP_TOKEN"]}
        assert f"RAY_AUTH_TOKEN_PATH={known['RAY_AUTH_TOKEN_PATH']}" in told
        code = f"import ray; ray.init('{address}'); print(len([n for n in ray.nodes() if n['Alive']]))"
        assert run(sys.executable, "-c", code, **known).stdout.strip().endswith("2")
        (tmp_path / "wrong").write_text("0" * 64)
        wrong = known | {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "wrong")}
        refused = run(*Command(tmp_path).words("run"), "--address", address, code=2, **wrong)
        assert "Traceback" not in refused.stderr
    finally:
        hosts("stop")
    assert not (tmp_path / "token").exists()
    assert run("pgrep", "raylet", code=1).stdout == ""


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
    assert "--address auto --storage /storage --weights /weights" in job["spec"]["entrypoint"]


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
