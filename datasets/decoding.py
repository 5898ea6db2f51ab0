"""Worker processes that decode files under limits; a file that kills its worker is one quarantined file."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from datasets.limits import Limits

_ROOT = Path(__file__).resolve().parents[1]
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True, slots=True)
class Task:
    """One file to decode to some squares."""

    row: int
    path: Path
    preprocessing: str
    resolutions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Decoded:
    """What became of a task: squares uint8 (R, R), one per resolution, or the reason there are none.

    `verbatim` says of each square that it is the file's own pixels, unchanged, and that a smaller square made of it is
    what the file would give; `again` of a reason that it lies with the disk or the machine (no access, out of time or
    memory) and may not hold the next time.
    """

    row: int
    sha256: str | None
    squares: tuple[np.ndarray, ...]
    reason: str | None
    verbatim: tuple[bool, ...] = ()
    again: bool = False


def decode_all(tasks: Iterable[Task], *, workers: int = 1, limits: Limits | None = None) -> Iterator[Decoded]:
    """Decode every task in `workers` processes; results come as they are done, in no order.

    A worker that exceeds its memory, time or mind is replaced, its file gets a reason, the others go on.
    Closing the iterator ends the workers; so does the death of this process, which closes their input.
    """
    limits = limits or Limits()
    todo, done = iter(tasks), queue.Queue[Decoded | BaseException | None](maxsize=4 * workers)
    lock, stop = threading.Lock(), threading.Event()

    def serve() -> None:
        worker = _Worker(limits)
        try:
            while not stop.is_set():
                with lock:
                    task = next(todo, None)
                if task is None:
                    break
                done.put(worker.decode(task))
        except BaseException as error:
            done.put(error)
        finally:
            worker.close()
            done.put(None)

    threads = [threading.Thread(target=serve, daemon=True) for _ in range(max(1, workers))]
    for thread in threads:
        thread.start()
    try:
        yield from _until_all_ended(done, len(threads))
    finally:
        stop.set()
        while any(thread.is_alive() for thread in threads):
            _drain(done)
            threads[0].join(0.01)


def _until_all_ended(done: "queue.Queue[Decoded | BaseException | None]", threads: int) -> Iterator[Decoded]:
    while threads:
        result = done.get()
        if result is None:
            threads -= 1
        elif isinstance(result, BaseException):
            raise result
        else:
            yield result


def _drain(done: "queue.Queue[Decoded | BaseException | None]") -> None:
    try:
        while True:
            done.get_nowait()
    except queue.Empty:
        pass


class _Worker:
    """One `datasets.decode_worker`, replaced whenever it dies."""

    def __init__(self, limits: Limits):
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None

    def decode(self, task: Task) -> Decoded:
        """Send one task and wait for its answer, or for the worker's end."""
        process = self._process = self._process or self._start()
        watchdog = threading.Timer(self._limits.wall_seconds, process.kill)
        watchdog.start()
        try:
            return self._ask(process, task)
        except (BrokenPipeError, EOFError, json.JSONDecodeError):
            process.kill()
            code, self._process = process.wait(), None
            out_of_time = -code in (signal.SIGPROF, signal.SIGKILL)
            return Decoded(task.row, None, (), self._epitaph(-code), again=out_of_time)
        finally:
            watchdog.cancel()

    def close(self) -> None:
        """End the worker."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _start(self) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            [sys.executable, "-m", "datasets.decode_worker", json.dumps(asdict(self._limits))],
            cwd=_ROOT,
            env={**os.environ, **_ONE_THREAD},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # decoders print what they read, and that may name a patient
        )
        if process.stdout is None or process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"a decoding worker does not start (exit code {process.wait()}): {sys.executable}")
        return process

    @staticmethod
    def _ask(process: "subprocess.Popen[bytes]", task: Task) -> Decoded:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("a decoding worker without pipes")
        request = {
            "path": str(task.path.absolute()),
            "preprocessing": task.preprocessing,
            "resolutions": list(task.resolutions),
        }
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        if "reason" in answer:
            return Decoded(task.row, None, (), answer["reason"], again=answer["again"])
        squares = []
        for resolution in task.resolutions:
            content = process.stdout.read(resolution * resolution)
            if len(content) < resolution * resolution:
                raise EOFError
            squares.append(np.frombuffer(content, np.uint8).reshape(resolution, resolution))
        return Decoded(task.row, answer["sha256"], tuple(squares), None, tuple(answer["verbatim"]))

    def _epitaph(self, code: int) -> str:
        if code == signal.SIGPROF:
            return f"needs more than {self._limits.seconds:g} s of processor time"
        if code == signal.SIGKILL:
            return f"gave no answer within {self._limits.wall_seconds:g} s, or the machine is out of memory"
        return f"ends its decoder (exit {-code})"
