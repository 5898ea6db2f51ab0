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
    told = succession.told(name, registry=registry, history=history)
    before = _line([entry for entry in told if _of_now(entry, name, registry)], champion.version)[:-1]
    gone = [version for version in before if not registry.has(version, name)]
    there = [version for version in before if version not in {*gone, champion.version}]
    if not there:
        deleted = f" (deleted since: {', '.join(sorted(set(gone)))})" if gone else ""
        raise PromotionError(
            f"{name}: no champion before version {champion.version} is on record and still there{deleted}; promote "
            "another"
        )
    version = registry.find(f"models:/{name}/{there[-1]}")
    evidence = {"registered_model": name, "champion_before": champion.version}
    return succession.crown(
        version,
        instead_of=champion,
        action=succession.ROLLED_BACK,
        evidence=evidence,
        registry=registry,
        history=history,
    )


def _of_now(entry: dict[str, Any], name: str, registry: Registry) -> bool:
    """Say whether an entry is of the version that bears its number now: a model made anew counts from 1 again."""
    version = entry.get("version")
    if not entry.get("run_id") or version is None or not registry.has(version, name):
        return True
    return registry.find(f"models:/{name}/{version}").run_id == str(entry["run_id"])


def _line(entries: list[dict[str, Any]], champion: str) -> list[str]:
    """Return the champions that lead to the present one, eldest first: a promotion adds one, a roll-back takes away."""
    line: list[str] = []

    def back_to(version: str) -> None:
        if version not in line:  # it was made champion by hand
            line.append(version)
        while line[-1] != version:
            line.pop()

    for entry in entries:
        if entry["action"] == succession.PROMOTED:
            if (before := entry.get("champion_before")) and line[-1:] != [before]:
                line.append(before)  # it was made champion by hand, or by what is no more on record
            line.append(entry["version"])
        elif entry["action"] == succession.ROLLED_BACK:
            back_to(entry["version"])
    back_to(champion)
    return line
