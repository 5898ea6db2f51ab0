"""What the structure promises beyond the directions of imports, which import-linter holds."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "timm", "torchvision", "sklearn", "mlflow", "ray")


def loaded_by(code: str) -> set[str]:
    """Return the heavy packages that a fresh interpreter has after `code`."""
    report = f"import sys, json; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--help"], ["plan", "search/studies/dinov3_resolution.yaml", "--json"]])
def test_plan_and_help_import_nothing_heavy(words):
    code = f"from typer.testing import CliRunner; from search.cli import app; CliRunner().invoke(app, {words!r})"
    assert loaded_by(code) == set()


@pytest.mark.slow
def test_the_driver_never_imports_torch():
    assert loaded_by("import search.study, search.status, search.report") & {"torch", "timm", "sklearn"} == set()


def test_nothing_of_this_repository_is_installed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert settings["tool"]["setuptools"]["packages"] == []


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_no_dependency_brings_the_other_package_named_datasets(lock):
    pinned = [line.partition("==")[0].lower() for line in (ROOT / lock).read_text().splitlines() if "==" in line]
    assert "torch" in pinned
    assert "datasets" not in pinned
    assert all("@" not in line for line in (ROOT / lock).read_text().splitlines() if not line.startswith("#"))


def test_no_module_of_datasets_has_a_name_that_the_other_package_uses():
    theirs = {
        "arrow_dataset",
        "builder",
        "config",
        "dataset_dict",
        "features",
        "fingerprint",
        "info",
        "inspect",
        "load",
    }
    theirs |= {
        "combine",
        "download",
        "filesystems",
        "formatting",
        "io",
        "iterable_dataset",
        "keyhash",
        "naming",
        "splits",
    }
    theirs |= {"packaged_modules", "parallel", "search", "streaming", "table", "utils"}
    ours = {path.stem for path in (ROOT / "datasets").iterdir()}
    assert ours & theirs == set()


def test_datasets_exports_nothing():
    assert "import" not in (ROOT / "datasets" / "__init__.py").read_text().replace("an import", "")


def test_every_package_folder_says_what_it_is():
    for room in ("datasets", "trainers", "mlflow_server", "search", "scripts"):
        for init in (ROOT / room).rglob("__init__.py"):
            assert init.read_text().startswith('"""'), init


@pytest.mark.parametrize("room", ["search", "mlflow_server"])
def test_above_trainers_no_code_names_a_metric(room):
    """A task declares its own; the names that a paper's tables want are the exception."""
    named = {
        str(path.relative_to(ROOT))
        for path in (ROOT / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and re.fullmatch(r"(\w+/)?auroc(/\w+)?", str(node.value))
    }
    assert named == ({"search/report/files.py"} if room == "search" else set())
