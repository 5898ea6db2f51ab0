"""Fills a folder with pretrained weights on a machine with access; converts what was pickled."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch

from datasets.whole_file import replacing
from trainers import initializations, pretrained
from trainers.checkpoint import sha256, write_tensors
from trainers.network_plan import NetworkPlan, Refusal
from trainers.trial import TrialError

ANY_RESOLUTION = 448  # fits patch 14 and 16; weights do not depend on it


def cells_in(plan: Any) -> list[tuple[str, str]]:
    """Return all (initialization, backbone) pairs in a JSON value: a study's plan, a list of trials.

    Axes give the product of their values; pairs for which there are no weights at all are left out.
    """
    found = dict.fromkeys(_pairs(plan))
    return [pair for pair in found if isinstance(initializations.resolve(*pair, ANY_RESOLUTION), NetworkPlan)]


def _pairs(value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        yield from product(_names(value.get("initialization")), _names(value.get("backbone")))
        for key, inner in value.items():
            if key != "refused":
                yield from _pairs(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _pairs(inner)


def _names(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []


def fetch(cells: Sequence[tuple[str, str]], *, to: Path, tell: Callable[[str], None]) -> list[Path]:
    """Download the weights of cells; what is there already is not fetched again.

    Args:
        cells: (initialization, backbone) pairs.
        to: folder; gets `<tag>.safetensors`, the published configuration beside it, and `manifest.json` with
            checksums and licences.
        tell: told of each file.

    Returns:
        The files.

    Raises:
        TrialError: kind "weights", if the hub does not answer or refuses.
        ValueError: a cell that cannot exist.
    """
    to.mkdir(parents=True, exist_ok=True)
    listing = to / "manifest.json"
    known = _listed(listing)
    files = []
    for initialization, backbone in cells:
        plan = initializations.resolve(initialization, backbone, ANY_RESOLUTION)
        if isinstance(plan, Refusal):
            raise ValueError(plan.reason)
        if plan.tag is None or plan.tag.startswith(("file:", "package:")):
            tell(f"{initialization} × {backbone}: nothing to fetch")
            continue
        target = to / pretrained.file_name(plan.tag)
        if not target.is_file():
            source = pretrained.locate(plan, weights=None)
            _copy(source, target)
            _copy_configuration(source, target)
        known[target.name] = {"tag": plan.tag, "licence": plan.licence, "sha256": sha256(target)}
        with replacing(listing) as aside:
            aside.write_text(json.dumps(known, indent=1, sort_keys=True))
        tell(f"{initialization} × {backbone}: {target.name}, licence {plan.licence}")
        files.append(target)
    return files


def _listed(listing: Path) -> dict[str, Any]:
    try:
        known = json.loads(listing.read_text()) if listing.is_file() else {}
    except ValueError:
        known = None
    if not isinstance(known, dict):
        raise TrialError(
            "weights", f"{listing} is no list of weights; take it away and fetch again: no file is fetched twice"
        )
    return known


def convert(file: Path, *, to: Path, key: str | None = None, strip_prefix: str = "") -> int:
    """Read a pickled state dict with torch's restricted unpickler and write it as safetensors.

    Args:
        file: .pth, .pt, .bin or .safetensors.
        to: a .safetensors file.
        key: entry of the pickled dictionary that holds the state dict; None takes `model` or `state_dict` if there.
        strip_prefix: taken away from the beginning of every name; names without it are dropped and counted against.

    Returns:
        How many tensors were written.

    Raises:
        TrialError: kind "weights": not readable without running code, or no tensors under these names.
    """
    if to.suffix != ".safetensors":
        raise TrialError("weights", f"{to.name}: the target must end in .safetensors")
    state = _state_of(file, key)
    chosen = {
        name.removeprefix(strip_prefix): value
        for name, value in state.items()
        if isinstance(value, torch.Tensor) and name.startswith(strip_prefix)
    }
    if not chosen:
        entries = ", ".join(sorted(map(str, state))[:20])
        raise TrialError("weights", f"{file.name}: no tensors under these names; its entries: {entries}")
    with replacing(to) as aside:
        write_tensors(chosen, aside)
    return len(chosen)


def _state_of(file: Path, key: str | None) -> dict[str, Any]:
    if not file.is_file():
        raise TrialError("weights", f"{file}: no such file")
    if file.suffix == ".safetensors":
        return pretrained.read(file)
    try:
        content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise TrialError(
            "weights", f"{file.name}: cannot be read without running code from it ({type(error).__name__}); refused"
        ) from error
    _check_named(content, file.name)
    keys = [key] if key else [name for name in ("model", "state_dict") if name in content][:1]
    for name in keys:
        if name not in content:
            raise TrialError("weights", f"{file.name}: no entry {name!r}; entries: {', '.join(map(str, content))}")
        content = content[name]
        _check_named(content, f"{file.name}: entry {name!r}")
    return dict(content)


def _check_named(content: Any, where: str) -> None:
    if not isinstance(content, Mapping):
        raise TrialError("weights", f"{where} is no state dict (tensors by name) but of type {type(content).__name__}")


def _copy(source: Path, target: Path) -> None:
    with replacing(target) as aside:
        shutil.copyfile(source, aside)


def _copy_configuration(source: Path, target: Path) -> None:
    """Keep the configuration published beside the weights: it may say mean and standard deviation."""
    configuration = source.with_name("config.json")
    if configuration.is_file():
        _copy(configuration, target.with_suffix(".json"))
