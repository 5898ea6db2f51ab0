"""Puts a trial's parts together: plan, network, material, training. Also rebuilds a network from its checkpoint."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from datasets import preprocessing
from trainers import adaptations, backbones, cells, checkpoint, seeding, tasks
from trainers.network import Network
from trainers.network_plan import NetworkPlan, Refusal
from trainers.trial import Operation, TrialConfig, TrialError


def plan_network(config: TrialConfig) -> NetworkPlan:
    """Return the plan of a trial's network.

    Raises:
        TrialError: kind "configuration", for names that do not exist and cells that cannot.
    """
    try:
        plan = cells.resolve(config.initialization, config.backbone, config.resolution, config.adaptation)
    except ValueError as error:
        raise TrialError("configuration", str(error)) from error
    if isinstance(plan, Refusal):
        raise TrialError("configuration", plan.reason)
    return plan


def build_network(
    config: TrialConfig, pathologies: Sequence[str], *, weights: Path | None, load: bool = True
) -> Network:
    """Build a trial's network, adapted, its random parts drawn from the trial's seed.

    Args:
        config: of the trial.
        pathologies: the outputs, in order.
        weights: file or folder of pretrained weights; None asks the hub.
        load: False leaves the encoder untrained because a checkpoint follows.

    Raises:
        TrialError: kind "configuration" or "weights".
    """
    plan = plan_network(config)
    task, adaptation = tasks.load(config.task), adaptations.load(config.adaptation)
    with seeding.draws_at(config.seed, "network"):
        encoder = _encoder(plan, weights=weights, load=load)
        if not adaptation.on_features and not any(parameter.requires_grad for parameter in encoder.parameters()):
            raise TrialError(
                "configuration",
                f"{config.adaptation}: weights as large as those of {config.backbone} are loaded frozen, in bfloat16, "
                "and would not learn; choose the adaptation probe",
            )
        head = task.head(encoder.width, pathologies, dropout=config.recipe.dropout)
        network = Network(
            encoder,
            adaptation.head(head, width=encoder.width, outputs=len(pathologies)),
            plan=plan,
            normalise=preprocessing.resolve(config.dataset.preprocessing).normalization == "backbone",
            pooling=pooling_of(plan, config.recipe.pooling),
        )
        adaptation.adapt(network)
    return network


def _encoder(plan: NetworkPlan, *, weights: Path | None, load: bool) -> Any:
    if load:
        return backbones.build(plan, weights=weights)
    from trainers.timm_networks import build

    return build(plan, load=False)


def pooling_of(plan: NetworkPlan, asked: str) -> str:
    """Return how features are pooled: `paper` means what the paper's code did for this initialization."""
    return plan.paper_pooling if asked == "paper" else asked


def describe(config: TrialConfig, network: Network, pathologies: Sequence[str], fingerprint: str) -> dict[str, Any]:
    """Return what is written beside the weights: enough to rebuild and feed the network."""
    return {
        "trial": config.model_dump(mode="json"),
        "plan": plan_network(config).description(),
        "pathologies": list(pathologies),
        "fingerprint": fingerprint,
        "pooling": network.pooling,
        "mean": list(network.encoder.mean),
        "std": list(network.encoder.std),
        "preprocessing": preprocessing.resolve(config.dataset.preprocessing).description(),
        "weights": network.encoder.source,
    }


def load_network(
    checkpoint_folder: Path, *, weights: Path | None = None
) -> tuple[Network, TrialConfig, tuple[str, ...]]:
    """Rebuild a trained network from a checkpoint alone, in evaluation mode on the CPU.

    Args:
        checkpoint_folder: with `network.safetensors` and `trial.json`.
        weights: pretrained weights for adaptations whose checkpoint holds the head alone; None asks the hub.

    Returns:
        The network ((B, 1, R, R) uint8 or [0, 1] to outputs), its trial and its pathologies.

    Raises:
        TrialError: kind "weights" if the checkpoint does not fit its own configuration or the pretrained weights.
    """
    trial = checkpoint.read_trial(checkpoint_folder)
    config = TrialConfig.model_validate(trial["trial"])
    head_alone = adaptations.load(config.adaptation).on_features
    network = build_network(config, trial["pathologies"], weights=weights, load=head_alone)
    if head_alone:
        check_encoder(network.encoder.source, trial)
    feed_as_trained(network, trial)
    state = checkpoint.read_tensors(checkpoint_folder, "network")
    load_state(network.head if head_alone else network, state, name=checkpoint_folder.name)
    return network.eval(), config, tuple(trial["pathologies"])


def check_encoder(source: Mapping[str, Any], trial: Mapping[str, Any]) -> None:
    """Refuse to put a head on another encoder than it was trained on: its weights file may have been overwritten.

    Args:
        source: what is known of the weights at hand; see `pretrained.source`.
        trial: description written beside the head's weights.

    Raises:
        TrialError: kind "weights", naming both checksums.
    """
    found, trained = source.get("sha256"), trial["weights"].get("sha256")
    if found and trained and found != trained:
        raise TrialError(
            "weights",
            f"{source['file']} is not the file that this head was trained on: sha256 {found[:12]}…, "
            f"was {trained[:12]}…; bring that file back, or train anew",
        )


def feed_as_trained(network: Network, trial: dict[str, Any]) -> None:
    """Take pooling, mean and std from a checkpoint: what `paper` means, and what the hub brings, may change."""
    network.pooling = trial["pooling"]
    network.encoder.mean, network.encoder.std = tuple(trial["mean"]), tuple(trial["std"])
    if trial["preprocessing"]["normalization"] == "backbone":
        network.mean.copy_(torch.tensor(trial["mean"]).view(3, 1, 1))
        network.std.copy_(torch.tensor(trial["std"]).view(3, 1, 1))


def load_state(network: nn.Module, state: dict[str, torch.Tensor], *, name: str) -> None:
    """Load a checkpoint's state dict, all of it or none.

    Raises:
        TrialError: kind "weights", naming what is left over on either side.
    """
    wanted = network.state_dict().keys()
    if missing := sorted(wanted - state.keys()):
        raise TrialError("weights", f"{name}: not in the checkpoint: {', '.join(missing)}")
    if left := sorted(state.keys() - wanted):
        raise TrialError("weights", f"{name}: not in the network: {', '.join(left)}")
    network.load_state_dict(state)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a trial computes."""

    device: torch.device

    @property
    def cuda(self) -> bool:
        """Tell whether it is a GPU."""
        return self.device.type == "cuda"

    def put(self, network: nn.Module) -> nn.Module:
        """Move a network there, channels last.

        Convolutions then use tensor cores on CUDA; on a CPU a step of EfficientNet-Lite0 becomes 1.5 to 1.7 times as
        fast (measured at 64 and 128 px, torch 2.13).
        """
        placed: nn.Module = network.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return placed


def take_place(operation: Operation, *, precision: str = "bf16") -> Place:
    """Set this process's threads and choose its device.

    Args:
        operation: threads and device.
        precision: "fp32" also keeps convolutions on CUDA from computing in TensorFloat-32, as strict FP32 demands.

    Raises:
        TrialError: kind "configuration" if CUDA is asked for and not there.
    """
    torch.set_num_threads(operation.threads)
    os.environ["OMP_NUM_THREADS"] = str(operation.threads)  # for processes that this one starts
    return choose_place(operation.device, precision=precision)


def choose_place(wanted: str, *, precision: str) -> Place:
    """Choose this process's device (auto, cpu or cuda) and its arithmetic; see `take_place`."""
    torch.backends.cudnn.allow_tf32 = precision != "fp32"
    torch.set_float32_matmul_precision("highest")
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise TrialError("configuration", "device is cuda, but this process sees no GPU")
    return Place(torch.device(wanted if wanted != "auto" else ("cuda" if available else "cpu")))
