"""Gives the alias `champion` back to the version that had it before."""

from typing import Any

from mlflow_server import succession
from mlflow_server.errors import PromotionError
from mlflow_server.history import Entry, History
from mlflow_server.registry import Registry


def roll_back(name: str, *, registry: Registry, history: History) -> Entry:
    """Undo the promotion of the present champion.

    Args:
        name: of the registered model.
        registry: where the alias moves.
        history: with the registry, says which version was champion before; gets the entry.

    Returns:
        The new entry of the history.

    Raises:
        PromotionError: there is no champion, or none before it that is still there.
    """
    succession.settle(name, registry=registry, history=history)
    champion = registry.champion(name)
    if champion is None:
        raise PromotionError(f"{name}: there is no champion to roll back")
    entries = succession.told(name, registry=registry, history=history)
    before, seen = _before(entries, champion.version), {champion.version}
    while before is not None and before not in seen and not registry.has(before, name):
        seen.add(before)  # somebody deleted that version: the one before it
        before = _before(entries, before)
    if before is None or before in seen:
        gone = f" (deleted since: {', '.join(sorted(seen - {champion.version}))})" if len(seen) > 1 else ""
        raise PromotionError(
            f"{name}: no champion before version {champion.version} is on record and still there{gone}; promote another"
        )
    version = registry.find(f"models:/{name}/{before}")
    told = {"registered_model": name, "champion_before": champion.version}
    return succession.crown(
        version,
        instead_of=champion,
        action=succession.ROLLED_BACK,
        evidence=told,
        registry=registry,
        history=history,
    )


def _before(entries: list[dict[str, Any]], version: str) -> str | None:
    promotions = [e for e in entries if e["action"] == succession.PROMOTED and e["version"] == version]
    return promotions[-1]["champion_before"] if promotions else None
