"""The study's durable truth: an append-only file of events, one JSON object a line, each with its checksum.

An event is acknowledged once it is on disk; only then do Optuna, MLflow and the terminal hear of it. Events that are
appended together are there together or not at all: each says how many follow it. A crash leaves at most a torn last
record or a part of such a batch, which the next open cuts off; whatever was acknowledged stays.
"""

import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from datasets import whole_file
from search.errors import StudyError

ROOM = 256 * 1024
"""Bytes that are kept free ahead of the end."""

_sync = getattr(os, "fdatasync", os.fsync)

MORE = "more"
"""Key under which a record says how many of its batch follow."""

CRC = "crc"
"""Key under which a record has its checksum."""

Event = dict[str, Any]
"""A JSON object with a key `kind`; see study_state.py for the kinds."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a ledger file holds."""

    events: tuple[Event, ...]
    end: int
    """Bytes up to the end of the last whole batch; anything beyond was never acknowledged."""


class Ledger:
    """The writing end. One process holds it (see `study_folder.lock`)."""

    def __init__(self, path: Path):
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        contents = read(path)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self._end = contents.end
        os.ftruncate(self._file, self._end)
        os.lseek(self._file, self._end, os.SEEK_SET)
        self._reserved = self._end
        whole_file.sync(path.parent)
        self.events = contents.events
        """What the file held when it was opened."""

    def append(self, *events: Event) -> None:
        """Write events durably, all of them or none.

        Raises:
            StudyError: the disk refused; the file is as it was before.
            ValueError: an event has a key that is the record's own, or a number that is not finite; nothing is written.
        """
        record = b"".join(_encode(event, more) for more, event in zip(range(len(events))[::-1], events, strict=True))
        try:
            self._reserve(len(record))
            _write_all(self._file, record)
            _sync(self._file)
        except OSError as problem:
            self._undo()
            raise StudyError(
                f"{self._path}: cannot write ({problem.strerror or problem}). Nothing acknowledged is lost; "
                "make room and run the study again, it goes on where it stood"
            ) from problem
        self._end += len(record)

    def close(self) -> None:
        """Give the file back, without the room that was kept free."""
        os.ftruncate(self._file, self._end)
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _reserve(self, length: int) -> None:
        # Syncing a record into blocks that the file already has is several times faster than growing the file by it,
        # and blocks that hold zeros are faster than reserved ones, which a file system must mark as written first.
        # Zeros are no record; close() and the next open cut them off.
        if self._end + length > self._reserved:
            written = os.pwrite(self._file, bytes(length + ROOM), self._end)
            _sync(self._file)
            self._reserved = self._end + written

    def _undo(self) -> None:
        # A half-written record would be cut off at the next open anyway; cutting it now keeps this writer usable.
        os.ftruncate(self._file, self._end)
        os.lseek(self._file, self._end, os.SEEK_SET)
        self._reserved = self._end


def read(path: Path, *, start: int = 0, stop: int | None = None) -> Contents:
    """Read the whole batches of a ledger between two bytes, by default all; an absent file holds none.

    Raises:
        StudyError: a broken record stands before a whole one, which no crash leaves behind.
    """
    if not path.exists():
        return Contents((), start)
    with path.open("rb") as file:
        file.seek(start)
        content = file.read(-1 if stop is None else stop - start)
    events: list[Event] = []
    batch: list[Event] = []
    end = at = 0
    for record in _records(content):
        event = _decode(record)
        at += len(record)
        if event is None:
            _refuse_if_broken_inside(path, content, start, at)
            break
        batch.append(event)
        if not event.pop(MORE, 0):
            events += batch
            batch, end = [], at
    return Contents(tuple(events), start + end)


def first(path: Path) -> Event | None:
    """Return the first event of a ledger; None: it has none yet."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        event = _decode(file.readline())
    if event is not None:
        event.pop(MORE, None)
    return event


def _records(content: bytes) -> Iterator[bytes]:
    yield from content.splitlines(keepends=True)


def _refuse_if_broken_inside(path: Path, content: bytes, start: int, after: int) -> None:
    if any(_decode(record) is not None for record in _records(content[after:])):
        raise StudyError(
            f"{path}: the record that ends at byte {start + after} is damaged, but whole records follow it. "
            "A crash does not do this; restore the file from a backup"
        )


def _encode(event: Event, more: int) -> bytes:
    if own := {MORE, CRC} & event.keys():
        raise ValueError(f"an event has the key {min(own)!r}, which is the record's own; call it otherwise: {event}")
    text = json.dumps({**event, MORE: more} if more else event, separators=(",", ":"), allow_nan=False)
    return f'{text[:-1]},"{CRC}":"{zlib.crc32(text.encode()):08x}"}}\n'.encode()


_SUFFIX = len(f',"{CRC}":"00000000"}}\n')


def _decode(record: bytes) -> Event | None:
    if len(record) <= _SUFFIX or not record.endswith(b'"}\n'):
        return None
    text = record[:-_SUFFIX] + b"}"
    if record[-_SUFFIX:] != f',"{CRC}":"{zlib.crc32(text):08x}"}}\n'.encode():
        return None
    event: Event = json.loads(text)
    return event


def _write_all(file: int, record: bytes) -> None:
    view = memoryview(record)
    while view:
        view = view[os.write(file, view) :]
