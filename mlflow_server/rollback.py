"""Gives the alias `champion` back to the version that had it before."""

from typing import Any

from mlflow_server import succession
from mlflow_server.errors import PromotionError
from mlflow_server.history import Entry, History
from mlflow_server.registry import Registry, Version


def roll_back(name: str, *, registry: Registry, history: History) -> Entry:
    """Undo the promotion of the present champion, or give the alias back where it was lost.

    Args:
        name: of the registered model.
        registry: where the alias moves.
        history: with the registry, says which version was champion before; gets the entry.

    Returns:
        The new entry of the history.

    Raises:
        PromotionError: there is no champion, or none before it that is still there; or its files were changed.
    """
    succession.settle(name, registry=registry, history=history)
    champion = registry.champion(name)
    there, gone = before(name, champion, registry=registry, history=history)
    if not there:
        if champion is None:
            raise PromotionError(f"{name}: there is no champion to roll back")
        deleted = f" (deleted since, they or their files: {', '.join(sorted(set(gone)))})" if gone else ""
        raise PromotionError(
            f"{name}: no champion before version {champion.version} is on record and still there{deleted}; promote "
            "another"
        )
    try:
        registry.check_files(name, there[-1])
    except PromotionError as problem:
        raise PromotionError(
            f"{problem}. The champion stays; bring the files back from a backup, or delete version {there[-1]} of "
            f"{name} and roll back again"
        ) from None
    version = registry.find(f"models:/{name}/{there[-1]}")
    evidence = {
        "registered_model": name,
        "champion_before": champion.version if champion else None,
        "run_id": version.run_id,
    }
    return succession.crown(
        version,
        instead_of=champion,
        action=succession.ROLLED_BACK,
        evidence=evidence,
        registry=registry,
        history=history,
    )


def before(name: str, champion: Version | None, *, registry: Registry, history: History) -> tuple[list[str], list[str]]:
    """Return the versions that were champion before the present one, eldest first.

    Args:
        name: of the registered model.
        champion: the present one; None: nothing bears the alias, though something may have.
        registry: says which versions are there, and which have their files.
        history: with the registry, says which were champion.

    Returns:
        Those that are still there, and those that were deleted since, they or their files.
    """
    told, runs = succession.told(name, registry=registry, history=history), registry.runs(name)
    present = champion.version if champion else None
    line = [
        version
        for version in _line([entry for entry in told if succession.is_of_now(entry, runs)])
        if version != present
    ]
    gone = [version for version in line if version not in runs or not registry.is_packaged(name, version)]
    return [version for version in line if version not in gone], gone


def _line(entries: list[dict[str, Any]]) -> list[str]:
    """Return the champions up to the last one on record, eldest first: a promotion adds one, a roll-back takes away.

    The last one on record need not be the present one: the alias may be lost, or given to another by hand.
    """
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
    return line
