"""Moves the alias `champion` and puts that on record, so that a process killed at any moment leaves both or neither.

What is to happen is written down first. Whoever acts next finds it, sees in the registry whether it has happened, and
completes the record.
"""

from collections.abc import Mapping
from typing import Any

from mlflow_server.errors import PromotionError
from mlflow_server.history import Entry, History
from mlflow_server.registry import Registry, Version

PROMOTED, REFUSED, ROLLED_BACK = "promoted", "refused", "rolled_back"


def crown(
    version: Version,
    *,
    instead_of: Version | None,
    action: str,
    evidence: Mapping[str, Any],
    registry: Registry,
    history: History,
) -> Entry:
    """Make a version champion.

    Args:
        version: the new champion.
        instead_of: the one that the decision was about; None: there was none.
        action: promoted or rolled_back.
        evidence: what it rests on; says the `version`.
        registry: where the alias moves.
        history: gets the entry.

    Returns:
        The entry.

    Raises:
        PromotionError: somebody else is changing the champion, or has changed it meanwhile.
    """
    with history.alone():
        _settle(version.name, registry, history)
        history.read()  # a ledger that cannot be read refuses this before the alias moves
        intent = history.intend(action, {**evidence, "version": version.version})
        try:
            registry.crown(version, instead_of=instead_of, note=intent["intent"])
        except PromotionError:
            history.forget()
            raise
        return _record(version, intent, registry, history)


def told(name: str, *, registry: Registry, history: History) -> list[Entry]:
    """Return what happened to a model, eldest first: the ledger of this storage folder, and what others promoted.

    Entries of other storage folders are known from the registry, without the differences they rest on.
    """
    own, others = _own_and_others(name, registry, history)
    return sorted([*own, *others], key=lambda entry: entry["time_ms"])


def by_hand(champion: Version, *, registry: Registry, history: History) -> str | None:
    """Say that a champion got its alias from neither a promotion nor a roll-back, as far as is on record; or None."""
    runs = registry.runs(champion.name)
    entries = [e for e in told(champion.name, registry=registry, history=history) if is_of_now(e, runs)]
    last = next((entry for entry in reversed(entries) if entry["action"] in {PROMOTED, ROLLED_BACK}), None)
    if last is not None and last["version"] == champion.version:
        return None
    named = f"version {champion.version} was made champion by hand"
    if last is None:
        return f"{named}, and none is on record; take the alias away, and promote"
    back = f"`python -m mlflow_server rollback {champion.name}` gives it back"
    return f"{named}; the last one on record is version {last['version']}, {back}"


def is_of_now(entry: Mapping[str, Any], runs: Mapping[str, str]) -> bool:
    """Say whether an entry is of the version that bears its number now: a model made anew counts from 1 again.

    Args:
        entry: of the history; not all say their run.
        runs: of the versions that are there.
    """
    told = entry.get("run_id")
    return not told or runs.get(str(entry.get("version")), told) == told


def lost(name: str, *, registry: Registry, history: History) -> list[Entry]:
    """Return what this storage folder's ledger once held and holds no more, as the registry mirrors it, eldest first.

    An entry is its own if it bears the ledger's origin, or follows an entry of it.
    """
    own, others = _own_and_others(name, registry, history)
    origin, chain, found = history.origin(), {entry["hash"] for entry in own}, []
    for entry in others:
        if entry.get("previous") in chain or (origin is not None and entry.get("origin") == origin):
            chain.add(entry.get("hash"))
            found.append(entry)
    return found


def _own_and_others(name: str, registry: Registry, history: History) -> tuple[list[Entry], list[Entry]]:
    """Return the entries of a storage folder's ledger, and those that the registry alone has."""
    mirrored = registry.remembered(name)  # first: an entry is mirrored after it stands in the ledger
    own = history.read()
    known = {entry["hash"] for entry in own}
    return own, [entry for entry in mirrored if entry.get("hash") not in known]


def settle(name: str, *, registry: Registry, history: History) -> Entry | None:
    """Complete the record of a change that was interrupted; returns its entry if the change had happened.

    Raises:
        PromotionError: the change is still being carried out.
    """
    if history.is_first():  # the lock would make files for a misspelt model, and the folder of a misspelt storage
        return None
    with history.alone():
        return _settle(name, registry, history)


def _settle(name: str, registry: Registry, history: History) -> Entry | None:
    intent = history.intended()
    if intent is None:
        return None
    registry.release(name, intent["intent"])
    number, runs = intent["evidence"]["version"], registry.runs(name)
    # The number may be another's by now: of a model that was made anew, or of another registry.
    is_there = number in runs and is_of_now(intent["evidence"], runs)
    if not is_there or not _has_happened(name, number, intent, registry):
        history.forget()
        return None
    version = registry.find(f"models:/{name}/{number}")
    registry.no_challenger(version)
    return _record(version, intent, registry, history)


def _has_happened(name: str, number: str, intent: Entry, registry: Registry) -> bool:
    """Say whether a version became champion: it is, or somebody with another storage folder has replaced it since."""
    champion = registry.champion(name)
    if champion is not None and champion.version == number:
        return True
    since = intent.get("time_ms", float("inf"))
    later = [entry for entry in registry.remembered(name) if entry["time_ms"] >= since]
    return any(entry.get("champion_before") == number for entry in later)


def _record(champion: Version, intent: Entry, registry: Registry, history: History) -> Entry:
    entry = history.record(intent)
    registry.remember(champion, entry)
    history.forget()  # last: until then whoever comes after a crash does all of this again
    return entry
