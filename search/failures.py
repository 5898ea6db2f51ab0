"""How a trial can fail, and what is done about each way.

A trial that fails in its own code tells its kind (`trainers.trial.TrialError`); a process that dies cannot, and the
backend says what it saw. Memory that runs out on a GPU is first met inside the trial, by smaller micro-batches and
recomputed activations (`trainers.micro_batch`); it comes here when not even one image fits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from search.ledger import Event


@dataclass(frozen=True, slots=True)
class Policy:
    """What follows a failure.

    Attributes:
        retries: times that the trial goes on from its last checkpoint; None: always.
        stops_cell: whether the trials of its cell that have not begun are not begun.
        meaning: in words, for `status`.
        stops_study: whether nothing else can go on either, until somebody does something.
    """

    retries: int | None
    stops_cell: bool
    meaning: str
    stops_study: bool = False


POLICIES: dict[str, Policy] = {
    "node_lost": Policy(None, False, "its node went away or was preempted; goes on from its checkpoint, not counted"),
    "process_died": Policy(3, False, "its process died; goes on from its checkpoint, three times at most"),
    "host_memory": Policy(3, False, "the host ran out of memory; goes on from its checkpoint, three times at most"),
    "disk_full": Policy(None, False, "its disk is full; the study stops, make room and run it again", stops_study=True),
    "out_of_memory": Policy(0, False, "it does not fit on the GPU, image by image; not tried again"),
    "data": Policy(0, True, "its data cannot be read; the cell stops"),
    "non_finite": Policy(0, False, "its loss is not finite; recorded, not tried again"),
    "weights": Policy(0, False, "its pretrained weights are missing or do not fit; not tried again"),
    "configuration": Policy(0, False, "it cannot be built as configured; not tried again"),
    "bug": Policy(0, False, "an error in the code; not tried again"),
}


WORDS = {
    "no space left on device": "disk_full",
    "disk quota exceeded": "disk_full",
    "cannot allocate memory": "host_memory",
    "can't allocate memory": "host_memory",
}
"""Of the system and of torch on the host, which libraries pass on in exceptions of their own."""
NAMES = {"OutOfMemoryError": "out_of_memory", "MemoryError": "host_memory", "LostProcessError": "process_died"}
"""Of exceptions, by name, since nothing here imports torch: torch's, Python's and that of `trainers.parallel`."""


def class_of(failure: BaseException) -> str:
    """Return the class of an exception that no code of a trial expected."""
    told: BaseException | None = failure
    while told is not None:
        said = str(told).lower()
        by_words = [kind for words, kind in WORDS.items() if words in said]
        by_name = [NAMES[one.__name__] for one in type(told).__mro__ if one.__name__ in NAMES]
        if found := by_words + by_name:
            return found[0]
        told = told.__cause__ or told.__context__
    return "bug"


def class_of_loss(said: str) -> tuple[str, str]:
    """Return the class of a lost process (a key of `POLICIES`) and what happened in one line.

    Args:
        said: Ray's message; its errors of lost actors differ by their text alone.
    """
    lowered = said.lower()
    if "outofmemoryerror" in lowered or "running low on memory" in lowered:
        return "host_memory", "Ray ended its process, since the host was running out of memory"
    if any(word in lowered for word in ("node died", "node has died", "node is dead", "preempted", "node failure")):
        return "node_lost", "its node went away"
    if (
        "actor is temporarily unavailable" in lowered
    ):  # where a process alone died its node would have told within a second
        return "node_lost", "its node does not answer any more"
    return "process_died", "its process died"


def stops_cell(reason: str) -> bool:
    """Say whether a trial that failed for a reason, which begins with its class, ends its cell."""
    policy = POLICIES.get(reason.partition(":")[0])
    return policy is not None and policy.stops_cell


def may_go_on(interruptions: Sequence[Event]) -> bool:
    """Say whether a trial gets another attempt after these interruptions, the last of which just happened."""
    last = interruptions[-1]["class"]
    retries = POLICIES[last].retries
    return retries is None or sum(event["class"] == last for event in interruptions) <= retries
