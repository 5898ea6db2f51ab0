"""The container files, as far as they can be tried without a container engine."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mlflow_server import server_config

FOLDER = Path(__file__).parents[2] / "mlflow_server" / "deploy"
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
OBJECTS = list(yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text()))
WORKLOADS = [found for found in OBJECTS if found["kind"] == "StatefulSet"]
SERVICES = ("database", "objects", "server")


def test_compose_yaml_is_what_compose_reads():
    compose_spec = pytest.importorskip("compose_spec", reason="compose-spec is not installed: pip install '.[dev]'")
    # As Compose itself would have it: merge keys resolved and variables filled in.
    resolved = re.sub(r"\$\{RADSWEEP_USER:[^}]*\}", "1000:1000", json.dumps(COMPOSE))
    read = compose_spec.PyCompose.from_yaml(resolved)
    assert set(read.services) == set(SERVICES)


@pytest.mark.parametrize("found", OBJECTS, ids=lambda found: f"{found['kind']} {found['metadata']['name']}")
def test_every_object_is_what_kubernetes_reads(found):
    validate = pytest.importorskip("kubernetes_validate", reason="not installed: pip install '.[dev]'").validate
    validate(found, "1.31", strict=True)


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_confined_watched_and_pinned(name):
    service = COMPOSE["services"][name]
    assert service["user"].startswith("${RADSWEEP_USER:?")
    assert service["read_only"] and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["healthcheck"]["test"][0] == "CMD"
    assert service["volumes"]
    assert re.search(r":[\w.-]*\d[\w.-]*$", service["image"])


@pytest.mark.parametrize("found", WORKLOADS, ids=lambda found: found["metadata"]["name"])
def test_every_pod_is_confined_watched_and_pinned(found):
    pod = found["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
    assert not pod["automountServiceAccountToken"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
    assert container["image"] == COMPOSE["services"][found["metadata"]["name"]]["image"]
    assert found["spec"]["volumeClaimTemplates"]


def test_only_loopback_is_published_and_the_stores_are_not_reachable_at_all():
    published = {name: service.get("ports", []) for name, service in COMPOSE["services"].items()}
    assert published == {"database": [], "objects": [], "server": ["127.0.0.1:5000:5000"]}
    assert COMPOSE["networks"]["storage"] == {"internal": True}
    assert {found["spec"].get("type", "ClusterIP") for found in OBJECTS if found["kind"] == "Service"} == {"ClusterIP"}


def test_no_secret_is_in_a_file():
    for service in COMPOSE["services"].values():
        for name, value in service["environment"].items():
            if re.search("PASSWORD|SECRET|KEY|ROOT_USER", name):
                assert name.endswith("_FILE") and value.startswith("/run/secrets/")
    for workload in WORKLOADS:
        for variable in workload["spec"]["template"]["spec"]["containers"][0]["env"]:
            if re.search("PASSWORD|SECRET|KEY|ROOT_USER", variable["name"]):
                assert set(variable) == {"name", "valueFrom"}


def test_the_servers_file_is_good_and_fits_the_services():
    config = server_config.load(FOLDER / "server.yaml")
    assert config.authentication
    assert config.backend == "postgresql+psycopg://mlflow@database/mlflow"
    assert config.destination == "s3://mlflow/artifacts"
    assert {"server:5000", "127.0.0.1:5000"} <= set(config.hosts.split(","))
    assert str(config.folder) == COMPOSE["services"]["server"]["volumes"][1].partition(":")[2]


def test_secrets_are_made_once_for_their_owner_alone(tmp_path):
    def prepared():
        subprocess.run(["bash", FOLDER / "prepare.sh", tmp_path], check=True)
        return {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}

    made = prepared()
    assert prepared() == made
    assert set(made) == set(COMPOSE["secrets"])
    assert len(set(made.values())) == 3
    assert all(len(secret) >= 32 and secret.isalnum() for secret in made.values())
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "secrets").iterdir()} == {0o600}
    owner = (tmp_path / ".env").read_text().strip().removeprefix("RADSWEEP_USER=")
    assert not owner.startswith("0:")


def test_the_entrypoint_takes_secrets_from_files(tmp_path):
    (tmp_path / "password").write_text("of the $database; `id`\n")
    said = subprocess.run(
        [FOLDER / "entrypoint.sh", sys.executable, "-c", "import os; print(os.environ['PGPASSWORD'])"],
        env={**os.environ, "PGPASSWORD_FILE": str(tmp_path / "password")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said == "of the $database; `id`\n"


def test_neither_secrets_nor_data_get_into_an_image():
    ignored = (FOLDER.parents[1] / ".dockerignore").read_text().splitlines()
    assert {"**/deploy/secrets", "**/deploy/data", "storage", ".git"} <= set(ignored)
    assert set((FOLDER / ".gitignore").read_text().split()) == {".env", "secrets/", "data/"}


def test_the_image_holds_pinned_packages_and_an_ordinary_user():
    lines = (FOLDER / "Containerfile").read_text()
    assert re.search(r"^FROM python:3\.11\.\d+-slim-bookworm$", lines, re.MULTILINE)
    assert "--constraint requirements-dev.lock" in lines
    assert lines.index("USER 10001:10001") < lines.index("ENTRYPOINT")
    locked = (FOLDER.parents[1] / "requirements-dev.lock").read_text().lower()
    asked = re.search(r"lock \\\n\s+(.*)\n", lines)[1].replace('"', "").replace("[binary]", "").split()
    assert len(asked) == 10
    for name in asked:
        assert re.search(rf"^{name}==", locked, re.MULTILINE), name


@pytest.mark.slow
def test_the_commands_of_the_server_find_their_modules_in_the_image(tmp_path):
    copied = re.findall(r"^COPY (.+) (\S+)$", (FOLDER / "Containerfile").read_text(), re.MULTILINE)
    for names, target in copied:
        for source in (FOLDER.parents[1] / name for name in names.split()):
            place = tmp_path / target
            if source.is_dir():
                shutil.copytree(source, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                place.mkdir(exist_ok=True)
                shutil.copy(source, place)
    modules = ", ".join(f"mlflow_server.{name}" for name in ("__main__", "backup", "check", "garbage", "rollback"))
    surroundings = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", f"import {modules}"], cwd=tmp_path, env=surroundings, check=True)
