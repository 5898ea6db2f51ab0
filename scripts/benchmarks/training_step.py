"""A training step of our loop against a bare PyTorch loop with the same network, batches, loss and optimizer.

Both start from the same seeded network; after the last step all parameters and counters are equal to the bit.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from scripts.benchmarks._agreement import check_equal
from scripts.benchmarks.row import Row
from trainers import assembly, backbones, initializations, optim, tasks
from trainers.loop import Training
from trainers.micro_batch import MicroBatch
from trainers.network import Network
from trainers.network_plan import NetworkPlan
from trainers.recipes import Recipe

BATCH, LABELS, RESOLUTION = 32, 14, 96
NETWORKS = ("vit_tiny", "convnext_atto", "tf_efficientnet_lite0")
RECIPE = Recipe(batch_size=BATCH, schedule="constant", warmup_epochs=0)  # a bare loop has no schedule


def run(*, quick: bool) -> list[Row]:
    """Measure on one thread; the two loops take turns step by step, so that a busy machine slows both alike.

    Seconds are the processor's, for the same reason: on one thread of an idle machine they are those of the clock.
    """
    torch.set_num_threads(1)
    return [_compare(name, steps=6 if quick else 30) for name in NETWORKS]


def _compare(backbone: str, *, steps: int) -> Row:
    networks = _network(backbone), _network(backbone)
    ours, bare = _our_step(networks[0]), _bare_step(networks[1])
    batches = [_batch(index) for index in range(4)]
    seconds: dict[str, list[float]] = {"ours": [], "bare": []}
    for index in range(steps + 2):
        images, labels = batches[index % len(batches)]
        order = (("ours", ours), ("bare", bare)) if index % 2 else (("bare", bare), ("ours", ours))
        for name, step in order:
            started = time.process_time()
            step(images, labels, index)
            if index >= 2:  # the first steps allocate
                seconds[name].append(time.process_time() - started)
    _check_same_weights(backbone, *networks)
    speed = {name: BATCH / statistics.median(taken) for name, taken in seconds.items()}
    ratio = speed["ours"] / speed["bare"]
    return Row(
        f"training step: {backbone} at {RESOLUTION} px, images/s",
        speed["ours"],
        speed["bare"],
        ratio,
        "≥ 0.97",
        ratio >= 0.97,
    )


def _check_same_weights(backbone: str, ours: nn.Module, bare: nn.Module) -> None:
    trained, expected = ours.state_dict(), bare.state_dict()
    for name in expected:
        check_equal(f"training step: {backbone}, {name}", trained[name], expected[name])


def _network(backbone: str) -> nn.Module:
    torch.manual_seed(0)
    plan = initializations.resolve("random", backbone, RESOLUTION)
    if not isinstance(plan, NetworkPlan):
        raise ValueError(plan.reason)
    encoder = backbones.build(plan)
    head = nn.Linear(encoder.width, LABELS)
    network = Network(encoder, head, plan=plan, normalise=True, pooling="family")
    return assembly.Place(torch.device("cpu")).put(network)


def _our_step(network: nn.Module) -> Callable[[Tensor, Tensor, int], object]:
    task = tasks.load("multilabel")
    training = Training(
        network=network,
        optimizer=optim.build_optimizer(network, RECIPE),
        task=task,
        loss=task.loss(np.zeros((1, LABELS)), RECIPE),
        recipe=RECIPE,
        device=torch.device("cpu"),
        steps_per_epoch=100,
        seed=0,
        micro_batch=MicroBatch(guarded=False),
    )
    return lambda images, labels, index: training.step(images, labels, epoch=0, index=index)


def _bare_step(network: nn.Module) -> Callable[[Tensor, Tensor, int], object]:
    matrices = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": RECIPE.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RECIPE.learning_rate, fused=True)

    def step(images: Tensor, labels: Tensor, _: int) -> float:
        network.train()
        optimizer.zero_grad()
        # Not reduction="mean": it rounds otherwise than our sum, and batch normalisation lets that grow.
        loss = binary_cross_entropy_with_logits(network(images), labels, reduction="sum") / labels.numel()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        return float(loss.detach())

    return step


def _batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (BATCH, 1, RESOLUTION, RESOLUTION), dtype=torch.uint8, generator=generator)
    return images, torch.randint(0, 2, (BATCH, LABELS), generator=generator).float()
