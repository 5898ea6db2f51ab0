"""What one file may cost: a bound on declared pixels, inflated bytes, memory and time."""

import resource
import signal
from dataclasses import dataclass


class Unreadable(Exception):  # noqa: N818 - a verdict on a file, not a fault of the program
    """An image that is quarantined, with the reason; the reason never holds text from the file."""


class NotRead(Unreadable):
    """An image that could not be read this time: a verdict on the disk or the machine, so it is tried again."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on one file.

    Attributes:
        pixels: declared in its header; the largest radiographs have 17 million, mammograms 25 million.
        inflated: bytes that a deflated file may grow to.
        memory: bytes that a decoding process may hold (data segment and anonymous mappings); with the code
            of its libraries it stays below 512 MB.
        seconds: of processor time for decoding; waiting for a slow disk does not count.
        wall_seconds: in all, against a disk that never answers.
    """

    pixels: int = 36_000_000
    inflated: int = 96_000_000
    memory: int = 440 * 2**20
    seconds: float = 2.0
    wall_seconds: float = 60.0


def bound_memory(limits: Limits) -> None:
    """Let this process fail an allocation beyond the limit, rather than take the machine's memory."""
    resource.setrlimit(resource.RLIMIT_DATA, (limits.memory, limits.memory))


def start_clock(seconds: float) -> None:
    """Have the kernel end this process after so much processor time from now; 0 stops the clock.

    A default disposition is used on purpose: a Python handler would not run inside a decoder's C code.
    """
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, seconds)
