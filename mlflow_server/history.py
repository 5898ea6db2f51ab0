"""What was promoted, refused and rolled back: an append-only ledger for each registered model.

Every line carries the hash of the line before it, so that a changed line, or one missing between others, is noticed.
Lines that are missing at the end are noticed by what the registry mirrors of them (see `succession.lost`). A crash
leaves at most a torn last line: it was never acknowledged, is not read, and the next entry cuts it off.
"""

import getpass
import hashlib
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from datasets.whole_file import replacing, sync
from mlflow_server.errors import PromotionError

Entry = dict[str, Any]
START = "0" * 64
PROMOTIONS = "mlpromotions"
"""Folder of all ledgers in a storage folder."""
CLAIM = ".promotion"
"""Suffix of the registered model that stands for a promotion being carried out; the server makes each name once."""


class History:
    """The ledger of one registered model.

    Args:
        storage: folder of all studies.
        name: of the registered model; letters, digits, `_`, `.` and `-`.

    Raises:
        PromotionError: the name would lead elsewhere.
    """

    def __init__(self, storage: Path, name: str):
        if problem := problem_of(name):
            raise PromotionError(f"registered model {name!r}: {problem}")
        self._path = storage / PROMOTIONS / f"{name}.jsonl"
        self._intent = self._path.with_suffix(".intent")
        self._origin = self._path.with_suffix(".origin")
        self._lock = self._path.with_suffix(".promotion")
        self._name = name

    @contextmanager
    def alone(self, *, wait_seconds: float = 0) -> Iterator[None]:
        """Hold the right to change the champion; the system lets go of it when the process dies.

        Args:
            wait_seconds: for another process to let go of it.

        Raises:
            PromotionError: another process holds it.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._lock, timeout=wait_seconds)
        try:
            lock.acquire()
        except Timeout:
            raise PromotionError(
                f"{self._name}: another promotion or rollback is being carried out; run this again in a moment"
            ) from None
        try:
            yield
        finally:
            lock.release()

    def is_first(self) -> bool:
        """Say whether this model was never promoted in this storage folder, so that nothing can be under way there."""
        return not any(path.exists() for path in (self._path, self._intent, self._lock))

    def intend(self, action: str, evidence: Mapping[str, Any]) -> Entry:
        """Write down durably what is about to happen, so that it can be put on record after a crash.

        Returns:
            What `intended` gives until `forget`: action, evidence, time_ms, and an `intent` that names it.
        """
        intent = {"action": action, "evidence": _plain(evidence), "intent": secrets.token_hex(8), "time_ms": _now_ms()}
        with replacing(self._intent) as aside:
            aside.write_text(json.dumps(intent))
        return intent

    def intended(self) -> Entry | None:
        """Return what was begun and not put on record, or None.

        Raises:
            PromotionError: the file that says so is damaged.
        """
        try:
            intent: Entry = json.loads(self._intent.read_text())
            _ = intent["intent"], intent["action"], intent["evidence"]["version"]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            raise PromotionError(
                f"{self._intent} is damaged; move it away if no promotion of {self._name} is under way"
            ) from None
        return intent

    def record(self, intent: Entry) -> Entry:
        """Append, unless that was done, that what was intended has happened, and when; returns the entry."""
        told = [entry for entry in self.read() if entry.get("intent") == intent["intent"]]
        if told:
            return told[0]
        return self.append(
            intent["action"], {**intent["evidence"], "intent": intent["intent"]}, time_ms=intent.get("time_ms")
        )

    def forget(self) -> None:
        """Drop what was intended: it has not happened, or is on record."""
        self._intent.unlink(missing_ok=True)

    def append(self, action: str, evidence: Mapping[str, Any], *, time_ms: int | None = None) -> Entry:
        """Write an entry durably.

        Args:
            action: promoted, refused or rolled_back.
            evidence: what it rests on, as JSON.
            time_ms: when it happened, since 1970; None: now.

        Returns:
            The entry with action, time_ms, who, origin, previous and hash.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self._path}.lock", timeout=60):
            entries = self.read()
            if self.origin() is None:
                with replacing(self._origin) as aside:
                    aside.write_text(secrets.token_hex(8))
            entry: Entry = {
                **_plain(evidence),
                "action": action,
                "time_ms": _now_ms() if time_ms is None else time_ms,
                "who": who(),
                "origin": self.origin(),
                "previous": entries[-1]["hash"] if entries else START,
            }
            entry["hash"] = _hash(entry)
            with self._path.open("ab") as stream:
                stream.truncate(len(self._content()))
                stream.write(json.dumps(entry, sort_keys=True).encode() + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
            sync(self._path.parent)
        return entry

    def read(self) -> list[Entry]:
        """Return all entries, eldest first.

        Raises:
            PromotionError: a line was changed, or one is missing.
        """
        previous, entries = START, []
        for number, line in enumerate(self._content().splitlines(), 1):
            try:
                entry = json.loads(line)
                whole = entry["previous"] == previous and entry["hash"] == _hash(entry)
            except (ValueError, KeyError, TypeError):
                whole = False
            if not whole:
                raise PromotionError(
                    f"{self._path}: line {number} was changed, or one before it is missing; bring the file back from a "
                    "backup"
                )
            previous = entry["hash"]
            entries.append(entry)
        return entries

    def origin(self) -> str | None:
        """Return what all entries of this ledger bear, and those of no other; None before the first.

        Raises:
            PromotionError: the file that says so is damaged.
        """
        try:
            return self._origin.read_text() if self._origin.is_file() else None
        except UnicodeDecodeError:
            raise PromotionError(f"{self._origin} is damaged; each line of {self._path} names its origin") from None

    def _content(self) -> bytes:
        """Return the whole lines."""
        content = self._path.read_bytes() if self._path.is_file() else b""
        return content[: content.rfind(b"\n") + 1]


@contextmanager
def all_alone(storage: Path, *, wait_seconds: float) -> Iterator[None]:
    """Hold the right to change any champion that a storage folder has a ledger of.

    Args:
        storage: folder of all studies.
        wait_seconds: for those who hold one.

    Raises:
        PromotionError: one is held for longer.
    """
    names = sorted({path.stem for path in (storage / PROMOTIONS).glob("*.jsonl")})
    with ExitStack() as held:
        for name in names:
            if problem_of(name) is None:
                held.enter_context(History(storage, name).alone(wait_seconds=wait_seconds))
        yield


def problem_of(name: str) -> str | None:
    """Say why a registered model cannot bear a name, or None."""
    if not name or name.startswith(".") or not all(c.isalnum() or c in "_.-" for c in name):
        return "only letters, digits, `_`, `.` and `-` may be in a name, and no `.` at its beginning"
    return f"names that end in {CLAIM} stand for promotions being carried out" if name.endswith(CLAIM) else None


def who() -> str:
    """Return who acts: the user of the tracking server, or of this machine."""
    try:
        local = getpass.getuser()
    except (KeyError, OSError):
        local = f"uid {os.getuid()}"
    return f"{os.environ.get('MLFLOW_TRACKING_USERNAME') or local}@{socket.gethostname()}"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _plain(evidence: Mapping[str, Any]) -> Entry:
    """Return what JSON can hold; a number without a value (a class is absent) is null."""
    plain: Entry = json.loads(json.dumps(evidence, default=str), parse_constant=lambda _: None)
    return plain


def _hash(entry: Entry) -> str:
    content = {key: value for key, value in entry.items() if key != "hash"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def entry_of(value: str, version: str) -> dict[str, Any] | None:
    """Read a mirrored entry of the history; None: it is none of this version."""
    try:
        entry: dict[str, Any] = json.loads(value)
        whole = isinstance(entry["action"], str) and "who" in entry
        _ = datetime.fromtimestamp(entry["time_ms"] / 1000, UTC)
        _ = [(reason["condition"], reason["evidence"], reason["holds"]) for reason in entry.get("reasons", [])]
        return entry if whole and entry["version"] == version else None
    except (ValueError, KeyError, TypeError, OverflowError, OSError):
        return None
