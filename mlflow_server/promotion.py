"""Whether a challenger replaces the champion: a decision with its evidence, made of stored scores alone."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from trainers.evaluation.calibration import expected_calibration_error
from trainers.evaluation.case_scores import CaseScores
from trainers.evaluation.comparison import Comparison, compare
from trainers.evaluation.ranked import FEWEST_UNITS
from trainers.evaluation.redraws import Bootstrap

Rule = Literal["superiority", "non_inferiority"]


@dataclass(frozen=True, slots=True)
class Bound:
    """What the lower end of a paired difference's interval must lie above.

    Attributes:
        rule: superiority asks that it lies above +margin, non_inferiority that it lies above -margin.
        margin: in units of the metric.
    """

    rule: Rule
    margin: float

    @property
    def value(self) -> float:
        """The bound itself."""
        return self.margin if self.rule == "superiority" else -self.margin


@dataclass(frozen=True, slots=True)
class Policy:
    """When a challenger is good enough.

    Attributes:
        bound: of the macro mean on the study's own test partition.
        metric: what is compared, e.g. auroc.
        bootstrap: of the paired difference.
        per_pathology: no pathology may be worse by more than this with its whole interval; None does not ask.
        calibration: the largest expected calibration error, mean over the pathologies with both classes; None does
            not ask.
        minimum_positives: test cases that every pathology must have of either class.
        external: by data set, the bound of the macro mean on its test partition.
    """

    bound: Bound
    metric: str
    bootstrap: Bootstrap
    per_pathology: float | None = None
    calibration: float | None = None
    minimum_positives: int = 0
    external: Mapping[str, Bound] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Measured:
    """Test scores to judge by.

    Attributes:
        test: of the study's own data set.
        external: by data set; one that was not measured is not in it.
    """

    test: CaseScores
    external: Mapping[str, CaseScores] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reason:
    """One condition, whether it holds, and the figures."""

    condition: str
    holds: bool
    evidence: str


@dataclass(frozen=True, slots=True)
class PromotionDecision:
    """What is to happen, and every reason for and against."""

    promoted: bool
    reasons: tuple[Reason, ...]
    differences: tuple[dict[str, Any], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


FIRST = ("there is no champion yet", "the first model needs to be better than none")
MEASURED_SINCE = ("this model is the champion, and was measured anew since", "it is no rival of its own")
"""Conditions that stand in place of a comparison, and what is told of them."""


def judge(
    challenger: Measured,
    champion: Measured | None,
    policy: Policy,
    *,
    checks: Sequence[Reason] = (),
    without_rival: tuple[str, str] = FIRST,
) -> PromotionDecision:
    """Compare a challenger with the champion on the test cases of both.

    Args:
        challenger: its scores.
        champion: scores of the champion; None if there is none to compare with.
        policy: of the study.
        checks: what was found about the files themselves (hashes, reload); each has to hold as well.
        without_rival: why there is none to compare with, and what that asks for.

    Returns:
        The decision with every condition, those that hold and those that do not; scores that cannot be paired
        refuse the promotion and say why.
    """
    alone = (*_enough_cases(challenger.test, policy), *_calibrated(challenger.test, policy), *checks)
    external = tuple(_external(name, challenger, champion, policy) for name in policy.external)
    if champion is None:
        return _decided((_known(challenger.test, *without_rival), *external, *alone))
    try:
        comparison = compare(challenger.test, champion.test, metric=policy.metric, bootstrap=policy.bootstrap)
    except ValueError as problem:
        reason = Reason("challenger and champion were measured on the same test cases", False, str(problem))
        return _decided((reason, *external, *alone))
    rows = tuple(comparison.rows())
    own = (_above(comparison, policy.bound, policy), *_none_worse(comparison, policy))
    return _decided((*own, *external, *alone), rows)


def _known(challenger: CaseScores, condition: str, told: str) -> Reason:
    """Judge what needs to be better than nothing: something must be known of it."""
    known = bool(_with_both_classes(challenger).any())
    return Reason(
        condition, known, told if known else f"{told}, and nothing is known of it: no pathology has both classes"
    )


def _with_both_classes(measured: CaseScores) -> np.ndarray:
    """Return bool (P,): which pathologies have both classes among the test cases."""
    both: np.ndarray = (measured.labels == 1).any(axis=0) & (measured.labels == 0).any(axis=0)
    return both


def _external(name: str, challenger: Measured, champion: Measured | None, policy: Policy) -> Reason:
    """Judge on another data set; what was not measured does not pass."""
    bound, own = policy.external[name], challenger.external.get(name)
    condition = _condition(bound, policy, place=f"on {name}, ")
    if own is None:
        return Reason(condition, False, "the challenger was not measured on it; see evaluation.external")
    if champion is None:
        return Reason(condition, True, f"nothing to compare with; measured on {len(own.table)} cases")
    other = champion.external.get(name)
    if other is None:
        told = "the champion was not measured on it before it was registered; promote its study again once it was"
        return Reason(condition, False, told)
    try:
        comparison = compare(own, other, metric=policy.metric, bootstrap=policy.bootstrap)
    except ValueError as problem:
        return Reason(condition, False, f"not the same test cases: {problem}")
    return _above(comparison, bound, policy, place=f"on {name}, ")


def _decided(reasons: tuple[Reason, ...], differences: tuple[dict[str, Any], ...] = ()) -> PromotionDecision:
    return PromotionDecision(all(reason.holds for reason in reasons), reasons, differences)


def _above(comparison: Comparison, bound: Bound, policy: Policy, *, place: str = "") -> Reason:
    low = comparison.macro.difference.low
    holds = low is not None and low > bound.value
    return Reason(_condition(bound, policy, place=place), holds, _evidence(comparison, policy))


def _evidence(comparison: Comparison, policy: Policy) -> str:
    found = comparison.macro.difference
    if found.value is None:
        return "the difference is undefined: no pathology has both classes"
    told = f"challenger minus champion {found.value:+.4f}"
    if found.low is None or found.high is None:
        single = comparison.differences[:-1]
        without = [f.pathology for f in single if f.difference.value is not None and f.difference.low is None]
        unit = policy.bootstrap.unit
        return f"{told}, without an interval: fewer than {FEWEST_UNITS} {unit}s of a class for {', '.join(without)}"
    redrawn = f"{policy.bootstrap.redraws} paired redraws of {policy.bootstrap.unit}s"
    return f"{told}, interval {found.low:+.4f} to {found.high:+.4f} ({redrawn})"


def _condition(bound: Bound, policy: Policy, *, place: str) -> str:
    above = f"the lower bound of the paired difference in macro {policy.metric} is above {bound.value:+g}"
    return f"{place}{bound.rule}: {above}"


def _none_worse(comparison: Comparison, policy: Policy) -> tuple[Reason, ...]:
    """Return whether some pathology's whole interval lies below the allowed loss.

    The intervals are not corrected for being many: a correction would let a real loss pass more easily.
    """
    if policy.per_pathology is None:
        return ()
    single = [found for found in comparison.differences[:-1] if found.difference.high is not None]
    worse = [found for found in single if (found.difference.high or 0.0) < -policy.per_pathology]
    condition = f"no pathology is significantly worse by more than {policy.per_pathology:g}"
    told = "; ".join(
        f"{f.pathology} {f.difference.value:+.4f} ({f.difference.low:+.4f} to {f.difference.high:+.4f})" for f in worse
    )
    undefined = len(comparison.differences) - 1 - len(single)
    left = f", {undefined} undefined" if undefined else ""
    return (Reason(condition, not worse, told or f"none of {len(single)} is{left}"),)


def _enough_cases(challenger: CaseScores, policy: Policy) -> tuple[Reason, ...]:
    least = policy.minimum_positives
    if not least:
        return ()
    labels = challenger.labels
    short = [
        f"{name} {int(positives)} positive, {int(negatives)} negative"
        for name, positives, negatives in zip(
            challenger.pathologies, (labels == 1).sum(axis=0), (labels == 0).sum(axis=0), strict=True
        )
        if min(positives, negatives) < least
    ]
    condition = f"every pathology has at least {least} positive and {least} negative test cases"
    return (Reason(condition, not short, "; ".join(short) or f"all {len(challenger.pathologies)} have"),)


def _calibrated(challenger: CaseScores, policy: Policy) -> tuple[Reason, ...]:
    if policy.calibration is None:
        return ()
    condition = f"the mean expected calibration error is at most {policy.calibration:g}"
    scores, labels = challenger.scores, challenger.labels
    if scores.min() < 0 or scores.max() > 1:
        return (Reason(condition, False, "the scores are no probabilities: some lie outside 0 to 1"),)
    # The pathologies that the model card's mean is over: those with both classes among the test cases.
    defined = np.flatnonzero(_with_both_classes(challenger))
    if not len(defined):
        return (Reason(condition, False, "undefined: no pathology has both classes"),)
    mean = float(np.mean([expected_calibration_error(labels[:, i], scores[:, i]) for i in defined]))
    told = f"{mean:.4f} over {len(defined)} of {labels.shape[1]} pathologies"
    return (Reason(condition, mean <= policy.calibration, told),)
