"""Checkpoints: safetensors and JSON in a folder, written aside and renamed, the marker last.

A trial's folder holds at any moment at least one whole `last-EEEE-SSSSSS` (E epochs finished, S steps into the next
one) and, once an epoch had a value, a whole `best-EEEE`. What a killed process leaves, half written, half removed or
replaced but still there, the next attempt removes. An attempt whose node was given up may live on and write beside its
successor: neither takes from the other what that is writing or reading. Waiting for the disk (`settle`) is left to a
thread beside the training.
"""

import hashlib
import json
import os
import secrets
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from datasets.whole_file import sync
from trainers.checkpoint_files import MARKER, PROGRESS, complete, remove
from trainers.trial import EpochMetrics, TrialError, TrialState

DURABLE = "DURABLE"
NETWORK = "network.safetensors"
TRIAL = "trial.json"
Tensors = Mapping[str, torch.Tensor]
Found = TypeVar("Found")


class Progress(BaseModel):
    """How far a trial is: all that is not a tensor.

    Attributes:
        epoch: epochs finished.
        step: optimizer steps done within the next epoch: the sampler's position.
        loss_sum: training loss summed over that epoch's steps so far.
        loss_steps: its number of terms.
        timing: seconds and images so far, over every attempt; not compared between runs.
    """

    model_config = ConfigDict(extra="forbid")

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    loss_steps: int = 0
    history: list[EpochMetrics] = Field(default_factory=list)
    best_epoch: int | None = None
    best_value: float | None = None
    best_sha256: str | None = None
    state: TrialState = TrialState.PAUSED
    timing: dict[str, float] = Field(default_factory=dict)
    record: dict[str, Any] = Field(default_factory=dict)


def save_last(
    folder: Path,
    *,
    progress: Progress,
    tensors: Mapping[str, Tensors],
    trial: Mapping[str, Any],
    network: Path | None = None,
) -> Path:
    """Write the newest state of a trial and drop the one before.

    Args:
        folder: of the trial.
        progress: JSON part.
        tensors: by file stem, e.g. {"network": …, "optimizer": …}.
        trial: configuration and what is needed to rebuild the network.
        network: a file just written with the same network; linked instead of written again.

    Returns:
        The new folder.
    """
    target = folder / f"last-{progress.epoch:04d}-{progress.step:06d}"
    while target.exists():  # never take the only whole checkpoint away before its successor is whole
        target = target.with_name(f"{target.name}-again")
    texts = {PROGRESS: progress.model_dump_json(), TRIAL: _json(trial)}
    _write(target, tensors=tensors, texts=texts, network=network)
    return target


def settle(folder: Path, newest: Path, *, keep_best: int | None) -> None:
    """Bring the newest checkpoint to the disk for good, then drop those it replaces.

    May run beside the training: until it is done, a killed process goes on from the newest checkpoint (the operating
    system still has its pages), a machine that lost its power from the one before (it is still there).

    Args:
        folder: of the trial.
        newest: what `save_last` returned.
        keep_best: the best epoch at that moment.
    """
    best = None if keep_best is None else folder / f"best-{keep_best:04d}"
    for written in (newest, *([best] if best is not None and best.is_dir() else [])):
        for path in written.iterdir():
            sync(path)
        sync(written)
    sync(folder)
    (newest / DURABLE).touch()
    sync(newest)  # before what it replaces goes: without its mark it would not be trusted
    for other in complete(folder, "last-"):
        if other != newest and _order(other) < _order(newest):
            remove(other)
    for other in complete(folder, "best-"):
        if other != best and other.name < (best.name if best is not None else ""):
            remove(other)


def save_best(folder: Path, *, epoch: int, network: Tensors, trial: Mapping[str, Any]) -> Path:
    """Write the weights of the best epoch so far; `settle` drops the one before once this one counts."""
    target = folder / f"best-{epoch:04d}"
    _write(target, tensors={"network": network}, texts={TRIAL: _json({**trial, "epoch": epoch})})
    return target


def find_last(folder: Path) -> Path | None:
    """Return the newest whole checkpoint of a trial that can be trusted, or None.

    One that was not yet settled is whole only as long as the machine has run since: a crash of the machine may have
    lost pages of it.
    """
    found = [path for path in complete(folder, "last-") if (path / DURABLE).is_file() or _written_since_boot(path)]
    return max(found, key=_order, default=None)


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint that was read from beginning to end while it was whole."""

    name: str
    progress: Progress
    network: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]
    average: dict[str, torch.Tensor]


def load_last(folder: Path) -> Saved | None:
    """Read the newest whole checkpoint."""
    return _of_last(folder, _read)


def look_at_last(folder: Path) -> tuple[Path, Progress, dict[str, Any]] | None:
    """Return the newest whole checkpoint, how far it is, and the configuration beside its weights."""
    return _of_last(folder, lambda last: (last, read_progress(last), read_trial(last)))


def _of_last(folder: Path, read: Callable[[Path], Found]) -> Found | None:
    """Read of the newest whole checkpoint; of the next one if an attempt that was given up replaces it meanwhile."""
    while (last := find_last(folder)) is not None:
        try:
            found = read(last)
        except OSError:
            if (last / MARKER).is_file():
                raise
            continue
        if (last / MARKER).is_file():  # what goes first when a checkpoint is removed
            return found
    return None


def _read(last: Path) -> Saved:
    tensors = [read_tensors(last, stem) for stem in ("network", "optimizer", "average")]
    return Saved(last.name, read_progress(last), *tensors)


def read_progress(checkpoint: Path) -> Progress:
    """Read the JSON part of a checkpoint."""
    return Progress.model_validate_json((checkpoint / PROGRESS).read_text())


def read_trial(checkpoint: Path) -> dict[str, Any]:
    """Read the configuration written beside the weights."""
    trial: dict[str, Any] = json.loads((checkpoint / TRIAL).read_text())
    return trial


def read_tensors(checkpoint: Path, stem: str) -> dict[str, torch.Tensor]:
    """Read one safetensors file of a checkpoint, {} if it was not written.

    Raises:
        TrialError: kind "weights", it is damaged.
    """
    path = checkpoint / f"{stem}.safetensors"
    try:
        return load_file(path) if path.is_file() else {}
    except SafetensorError as problem:
        raise TrialError("weights", f"{path} is damaged ({problem}); bring it back, or train anew") from problem


def sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes, as hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_tensors(tensors: Tensors, path: Path) -> None:
    """Write tensors as safetensors, a file with the rights of any other.

    The library writes it for its owner alone: who may read a registered model's folder, or a copy of it in an image,
    could not read its weights.
    """
    path.touch()
    rights = stat.S_IMODE(path.stat().st_mode)
    save_file(apart(tensors), path)
    path.chmod(rights)


def apart(tensors: Tensors) -> dict[str, torch.Tensor]:
    """Return contiguous tensors that share no memory, as safetensors wants them.

    A module that a network uses in several places (CoaT's position encodings) stands in its state dict as often.
    """
    found: dict[str, torch.Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        value = tensor.detach().contiguous()
        place = value.untyped_storage().data_ptr()
        found[name] = value.clone() if place in taken else value
        taken.add(place)
    return found


def optimizer_tensors(optimizer: torch.optim.Optimizer | None, names: Mapping[int, str]) -> dict[str, torch.Tensor]:
    """Flatten an optimizer's state to `<parameter name>//<key>` tensors.

    Args:
        optimizer: whose parameters all have a name.
        names: by id of the parameter.
    """
    if optimizer is None:
        return {}
    return {
        f"{names[id(parameter)]}//{key}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if isinstance(value, torch.Tensor)
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer | None, tensors: Tensors, parameters: Mapping[str, torch.nn.Parameter]
) -> None:
    """Put back what `optimizer_tensors` flattened; group settings follow from the recipe and the step."""
    if optimizer is None:
        return
    for flat, value in tensors.items():
        name, key = flat.split("//")
        parameter = parameters[name]
        same = value.shape == parameter.shape  # then in the parameter's own memory format
        held = torch.empty_like(parameter, dtype=value.dtype).copy_(value) if same else value.to(parameter.device)
        optimizer.state[parameter][key] = held


def _write(
    target: Path, *, tensors: Mapping[str, Tensors], texts: Mapping[str, str], network: Path | None = None
) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.parent / f".writing-{target.name}-{secrets.token_hex(4)}"
    aside.mkdir()
    linked = network is not None and _link(network, aside / NETWORK)
    for stem, values in tensors.items():
        if linked and f"{stem}.safetensors" == NETWORK:
            continue
        if values:
            write_tensors(values, aside / f"{stem}.safetensors")
    for name, text in texts.items():
        (aside / name).write_text(text)
    (aside / MARKER).write_text(_boot())
    if target.exists():  # the same epoch written by an attempt that died before it counted
        remove(target)
    aside.rename(target)


def _link(source: Path, target: Path) -> bool:
    """Give a file a second name; False where the file system cannot."""
    try:
        os.link(source, target)
    except OSError:
        return False
    return True


def _order(last: Path) -> tuple[int, int, int]:
    """Return (epoch, step, attempt) of a `last-` folder."""
    numbers, *again = last.name.removeprefix("last-").split("-again")
    epoch, step = numbers.split("-")
    return int(epoch), int(step), len(again)


def _written_since_boot(folder: Path) -> bool:
    boot = _boot()
    with suppress(OSError):  # removed meanwhile
        return bool(boot) and (folder / MARKER).read_text() == boot
    return False


def _boot() -> str:
    """Return what identifies this run of this machine, or nothing where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=1, sort_keys=True)
