"""What a benchmark reports."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of ours beside a peer's, from the same run.

    Attributes:
        benchmark: what was measured, with its unit.
        ours: our figure.
        peer: the peer's figure on the same input, after both gave the same result.
        ratio: how the two compare, in the sense of the goal.
        goal: what was aimed at, e.g. ">= 8".
        met: whether it was reached in this run.
    """

    benchmark: str
    ours: float
    peer: float
    ratio: float
    goal: str
    met: bool

    def as_json(self) -> dict[str, Any]:
        """Return the row under its fixed keys."""
        return asdict(self)
