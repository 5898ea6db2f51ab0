"""Where the trials of a race stand at a rung, and what follows for each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

UNTAUGHT = "value and slope"
TAUGHT = "what other groups taught"


@dataclass(frozen=True, slots=True)
class Field:
    """Where the live trials of a group stand at a rung, by trial number.

    Attributes:
        values: at the rung, as they were told.
        places: 1 for the leader, by the expected end; in this order. Seeds share a place.
        ends: where each is expected to end, the mean over its seeds.
        improvements: what each place is expected to improve on those ahead of it, from the leader on; infinite where
            nothing says how sure the ends are.
        way: in which the ends were reckoned.
        quota: how many go on whatever their distance.
        margin: distance to the leader from where on the others stop.
        hopeless: distance to the leader beyond which every trial stops.
        least: improvement below which a trial stops.
    """

    values: Mapping[int, float]
    places: Mapping[int, int]
    ends: Mapping[int, float]
    improvements: Sequence[float]
    way: str
    quota: int
    margin: float
    hopeless: float
    least: float

    def verdict(self, trial: int, rung: int) -> tuple[bool, str]:
        """Say whether a trial stops, and why in one line."""
        leader, place = next(iter(self.places)), self.places[trial]
        gap = self.ends[leader] - self.ends[trial]
        improvement = self.improvements[place - 1]
        too_far = gap > self.hopeless or (place > self.quota and gap >= self.margin)
        stops = place > 1 and (too_far or improvement < self.least)
        seeds = list(self.places.values()).count(place)
        over_seeds = f" over {seeds} seeds" if seeds > 1 else ""
        return stops, (
            f"{'stops' if stops else 'goes on'} at epoch {rung}: value {self.values[trial]:.4f}, place {place} of "
            f"{max(self.places.values())} ({self.quota} go on), {gap:.4f} behind by {self.way}{over_seeds}, "
            f"margin {self.margin:.4f}"
            + (f", expected to improve on those ahead by {improvement:.4f}" if place > 1 and self.way == TAUGHT else "")
        )
