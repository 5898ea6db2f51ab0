"""What a trial's record says beside its metrics: what was built, what it cost."""

import resource
import sys
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from trainers.loop import Training
from trainers.material import Material
from trainers.micro_batch import has_batch_norm, has_dropout
from trainers.trial import TrialConfig


def at_start(config: TrialConfig, training: Training, material: Material, trial: dict[str, Any]) -> dict[str, Any]:
    """Return what is known before the first step.

    Args:
        config: of the trial.
        training: the network and its device.
        material: what is read.
        trial: the description written beside the weights.
    """
    plan = trial["plan"]
    return {
        "input_size": plan["input_size"],
        "size_rule": plan["size_rule"],
        "architecture": plan["architecture"],
        "weights": plan["tag"],
        "weights_source": trial["weights"],
        "licence": plan["licence"],
        "pooling": trial["pooling"],
        "trained_parameters": sum(p.numel() for p in training.network.parameters() if p.requires_grad),
        "parameters": sum(p.numel() for p in training.network.parameters()),
        "forward_flops_per_image": forward_flops(training.network, _one_input(material), training.device),
        "recipe": config.recipe.model_dump(mode="json"),
        "device": str(training.device),
        "torch": torch.__version__,
    }


def after_epoch(config: TrialConfig, training: Training, timing: dict[str, float]) -> dict[str, Any]:
    """Return what was found while training so far.

    Args:
        config: of the trial.
        training: its device and micro-batch.
        timing: seconds and images over all attempts.
    """
    seconds, micro = timing.get("train_seconds", 0.0), training.micro_batch
    evaluation = timing.get("evaluation_seconds", 0.0)
    batch = config.recipe.batch_size
    smaller = micro.size is not None and micro.size < batch
    record: dict[str, Any] = {
        "train_seconds": seconds,
        "evaluation_seconds": evaluation,
        "images_per_second": timing.get("train_images", 0.0) / seconds if seconds else None,
        "micro_batch": micro.size or batch,
        "activation_checkpointing": micro.checkpointing,
        "batch_norm_saw_micro_batches": (smaller or training.ranks.count > 1) and has_batch_norm(training.network),
        "dropout_saw_micro_batches": smaller and has_dropout(training.network),
        "processes": training.ranks.count,
        "peak_memory_bytes": peak_memory(training.device),
    }
    if training.device.type == "cuda":
        record["gpu_seconds"] = (seconds + evaluation) * training.ranks.count
    return record


def forward_flops(network: nn.Module, one: torch.Tensor, device: torch.device) -> int:
    """Return the floating-point operations (2 per multiply-accumulate) of one forward pass of one input.

    As torch's counter sees them: matrix products, convolutions and attention. Training costs about three times this.
    """
    was_training = network.training
    network.eval()
    # With gradients on: without them torch's counter breaks on networks that hand a parameter to a module.
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        network(one.to(device))
    network.train(was_training)
    return int(counter.get_total_flops())


def peak_memory(device: torch.device) -> int:
    """Return the largest memory in use, bytes: of the GPU's tensors since the trial began, or of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(largest if sys.platform == "darwin" else largest * 1024)


def _one_input(material: Material) -> torch.Tensor:
    images, _, _ = next(iter(material.partition("val")))
    kept: torch.Tensor = images[:1]
    return kept
