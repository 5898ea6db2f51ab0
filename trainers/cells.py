"""Can this cell exist: initialization, backbone, resolution and adaptation together. Imports no torch."""

from trainers import adaptations, backbones, initializations
from trainers.network_plan import NetworkPlan, Refusal


def resolve(initialization: str, backbone: str, resolution: int, adaptation: str) -> NetworkPlan | Refusal:
    """Return a cell's network plan, or why there is no such cell.

    Args:
        initialization: a name in `trainers/initializations`, or `file:PATH`.
        backbone: a name in `trainers/backbones`, or any timm name.
        resolution: asked side of the input, pixels.
        adaptation: a name in `trainers/adaptations`.

    Raises:
        UnknownNameError: a name that does not exist; lists those that do.
    """
    way = adaptations.load(adaptation)
    plan = initializations.resolve(initialization, backbone, resolution)
    if isinstance(plan, Refusal):
        return plan
    if backbones.find(backbone).frozen and not way.on_features:
        return Refusal(f"{adaptation} × {backbone}: only its frozen features are of use; choose the adaptation probe")
    return way.refusal(plan.family) or plan
