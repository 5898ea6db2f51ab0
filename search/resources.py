"""What a trial occupies on a cluster: from the study file where it says so, else from the trial's memory footprint."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search.errors import StudyError
from search.study_sections import Amounts, Resources
from trainers.gpu_memory import FILL, Footprint

GIGABYTE = 1e9
MOST_TRIALS_PER_GPU = 4
"""More would wait for each other's arithmetic."""
DEFAULT_GPU_GB = 16.0
PROCESS_GB = 3.0
"""Main memory of a process that trains on a GPU, whatever it trains: Python, torch, CUDA's context, pinned batches."""
GPU_GB: Mapping[str, float] = {
    "V100": 16,
    "P100": 16,
    "T4": 16,
    "P4": 8,
    "K80": 12,
    "A10": 24,
    "A10G": 24,
    "L4": 24,
    "L40S": 48,
    "A100": 40,
    "A100-40G": 40,
    "A100-80G": 80,
    "H100": 80,
    "H200": 141,
    "B200": 180,
}
"""Memory by Ray's `accelerator_type`, the smallest version sold, from the makers' data sheets."""
ACCELERATOR = "accelerator_type:"
MOST_NODES_TOLD = 4


@dataclass(frozen=True, slots=True)
class Slot:
    """What one trial occupies."""

    cpus: int
    gpus: float = 0.0
    memory_gb: float | None = None
    """Host memory to reserve."""
    gpu_type: str | None = None
    """Ray's name of the GPU that it must be."""

    def as_ray(self) -> dict[str, float]:
        """Write it as Ray's resource dictionary."""
        asked = {"CPU": float(self.cpus)}
        if self.gpus:
            asked["GPU"] = float(self.gpus)
        if self.memory_gb:
            asked["memory"] = self.memory_gb * GIGABYTE
        if self.gpu_type:
            asked[f"{ACCELERATOR}{self.gpu_type}"] = 0.001
        return asked

    @property
    def processes(self) -> int:
        """Processes that share the trial's batches, one per whole GPU."""
        return _processes(self.gpus)


Node = Mapping[str, float]
"""Ray's resources of one node."""


def slot_for(
    resources: Resources, setting: Mapping[str, Any], want: Footprint | None, nodes: Sequence[Node], *, images: int = 0
) -> Slot:
    """Decide what a trial occupies on this cluster.

    Args:
        resources: the study's section.
        setting: the trial's axes and searched values, for overrides.
        want: its memory; None where the cluster has no GPU.
        nodes: of the cluster.
        images: of its data set, as far as they are known.

    Raises:
        StudyError: no node could ever hold it; with the numbers.
    """
    asked = resources.for_setting(setting)
    gpus, kind = asked.gpus, asked.gpu_type
    if gpus is None and want is not None:
        gpus, kind = _gpus_for(want, asked, setting, nodes)
    elif gpus is None:
        # Who names a GPU wants one, and is told by `check_fit` that a cluster without any has none.
        gpus = float(kind is not None)
    cpus, memory_gb = asked.cpus or _processes(gpus), asked.memory_gb
    if memory_gb is None and want is not None and gpus and any("memory" in node for node in nodes):
        memory_gb = host_gb(want, 1 if want.shared else _processes(gpus), images)
    slot = Slot(cpus, gpus, memory_gb, kind if gpus else None)
    check_fit(slot, nodes, _named(setting) or "a trial")
    return slot


def _named(setting: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in setting.items())


def _processes(gpus: float) -> int:
    return max(1, int(gpus))


def host_gb(want: Footprint, processes: int, images: int) -> float:
    """Return the main memory of a trial in whole gigabytes, so that trials nearly alike use each other's processes."""
    return float(math.ceil(processes * (PROCESS_GB + want.host / GIGABYTE) + images * want.stored / GIGABYTE))


def check_fit(slot: Slot, nodes: Sequence[Node], who: str = "a trial") -> None:
    """Refuse a trial that could never start.

    Args:
        slot: of the trial.
        nodes: of the cluster.
        who: the trial in words.

    Raises:
        StudyError: with what the trial asks for and what the nodes have.
    """
    if (problem := misfit(slot, nodes, who)) is not None:
        raise StudyError(problem)


def misfit(slot: Slot, nodes: Sequence[Node], who: str = "a trial") -> str | None:
    """Say why no node could ever hold a slot, were it empty; None where one could. See `check_fit`."""
    asked = slot.as_ray()
    if any(all(node.get(name, 0) >= amount - 1e-9 for name, amount in asked.items()) for node in nodes):
        return None
    return (
        f"resources: {who} asks for {_told(asked)}, but no node of this cluster has that; "
        f"{_told_of_nodes(nodes, asked)}. Set lower resources.cpus, gpus or memory_gb, or another gpu_type"
    )


def _told(amounts: Mapping[str, float]) -> str:
    """Write amounts of Ray's resources for people."""
    words = [f"{amounts.get('CPU', 0):g} CPU"]
    if "GPU" in amounts:
        kinds = [name.removeprefix(ACCELERATOR) for name in amounts if name.startswith(ACCELERATOR)]
        words.append(f"{amounts['GPU']:g} GPU" + (f" of type {kinds[0]}" if kinds else ""))
    if "memory" in amounts:
        words.append(f"{amounts['memory'] / GIGABYTE:.4g} GB of memory")
    return ", ".join(words)


def _told_of_nodes(nodes: Sequence[Node], asked: Mapping[str, float]) -> str:
    """Write what the largest nodes have of what is asked for, each kind of node once."""
    ordered = sorted(nodes, key=lambda node: [-node.get(name, 0) for name in ("GPU", "CPU", "memory")])
    unasked = set() if "memory" in asked else {"memory"}
    kinds = [{"GPU": 0.0} | {name: node[name] for name in node if name not in unasked} for node in ordered]
    told = list(dict.fromkeys(_told(kind) for kind in kinds))
    others = "; others less" if len(told) > MOST_NODES_TOLD else ""
    return f"the largest has {'; another one '.join(told[:MOST_NODES_TOLD])}{others}" if told else "it has no node"


def gpus_of(want: Footprint, gpu_gb: float) -> float:
    """Return the GPUs that a trial needs: a share, one, or several; infinity if no number of them helps."""
    room = FILL * gpu_gb * GIGABYTE
    for share in range(MOST_TRIALS_PER_GPU, 1, -1):
        if want.fixed + want.batch <= room / share and not want.shared:
            return 1.0 / share
    if want.fixed <= room:
        return 1.0  # smaller micro-batches, and recomputed activations if need be
    return float(math.ceil(want.fixed / room)) if want.shared else math.inf


def _gpus_for(
    want: Footprint, asked: Amounts, setting: Mapping[str, Any], nodes: Sequence[Node]
) -> tuple[float, str | None]:
    """Return the GPUs that a trial needs, and of which type; None: it fits on the smallest there is, and so on all."""
    typed = [node for node in nodes if asked.gpu_type is None or f"{ACCELERATOR}{asked.gpu_type}" in node]
    most = max([1.0, *(node.get("GPU", 0.0) for node in typed)])  # where there is none `check_fit` says so
    kinds = _kinds(asked, nodes)
    for place, (gpu_gb, kind) in enumerate(kinds):
        gpus = gpus_of(want, gpu_gb)
        if not math.isinf(gpus):
            gpus = min(gpus, most) if want.shared else gpus  # a frozen encoder is offloaded where GPUs are too few
            return gpus, kind if place else asked.gpu_type
    raise StudyError(
        f"resources: {_named(setting)}: weights, gradients and optimizer state take {want.fixed / GIGABYTE:.1f} GB, "
        f"the largest GPU here has {kinds[-1][0]:g} GB ({FILL:.0%} usable). Use a smaller backbone, adaptation lora or "
        "probe, or name a larger GPU in resources.gpu_type"
    )


def _kinds(asked: Amounts, nodes: Sequence[Node]) -> list[tuple[float, str | None]]:
    """Return memory in GB and type of the GPUs that a trial may use, the smallest first."""
    if asked.gpu_memory_gb is not None:
        return [(asked.gpu_memory_gb, asked.gpu_type)]
    if asked.gpu_type is not None:
        return [(GPU_GB.get(asked.gpu_type, DEFAULT_GPU_GB), asked.gpu_type)]
    types = {name.removeprefix(ACCELERATOR) for node in nodes for name in node if name.startswith(ACCELERATOR)}
    known = sorted((GPU_GB.get(kind, DEFAULT_GPU_GB), kind) for kind in types)
    nameless = any(node.get("GPU") and not any(name.startswith(ACCELERATOR) for name in node) for node in nodes)
    first: list[tuple[float, str | None]] = [(DEFAULT_GPU_GB, None)] if nameless or not known else []
    return sorted([*first, *known], key=lambda kind: kind[0])
