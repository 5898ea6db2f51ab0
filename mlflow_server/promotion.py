"""Whether a challenger replaces the champion: a decision with its evidence, made of stored scores alone."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from trainers.evaluation.calibration import expected_calibration_error
from trainers.evaluation.case_scores import CaseScores
from trainers.evaluation.comparison import Comparison, compare
from trainers.evaluation.redraws import Bootstrap

Rule = Literal["superiority", "non_inferiority"]


@dataclass(frozen=True, slots=True)
class Policy:
    """When a challenger is good enough.

    Attributes:
        rule: superiority asks that the lower bound of the paired difference lies above +margin,
            non_inferiority that it lies above -margin.
        margin: in units of the metric.
        metric: what is compared, e.g. auroc.
        bootstrap: of the paired difference.
        per_pathology: no pathology may be worse by more than this with its whole interval; None does not ask.
        calibration: the largest expected calibration error, mean over the pathologies; None does not ask.
        minimum_positives: test cases that every pathology must have of either class.
    """

    rule: Rule
    margin: float
    metric: str
    bootstrap: Bootstrap
    per_pathology: float | None = None
    calibration: float | None = None
    minimum_positives: int = 0

    @property
    def bound(self) -> float:
        """What the interval must lie above."""
        return self.margin if self.rule == "superiority" else -self.margin


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


def judge(
    challenger: CaseScores, champion: CaseScores | None, policy: Policy, *, checks: Sequence[Reason] = ()
) -> PromotionDecision:
    """Compare a challenger with the champion on the test cases of both.

    Args:
        challenger: test scores.
        champion: test scores of the champion; None if there is none yet.
        policy: of the study.
        checks: what was found about the files themselves (hashes, reload); each has to hold as well.

    Returns:
        The decision with every condition, those that hold and those that do not; scores that cannot be paired
        refuse the promotion and say why.
    """
    alone = (*_enough_cases(challenger, policy), *_calibrated(challenger, policy), *checks)
    if champion is None:
        first = Reason("there is no champion yet", True, "the first model needs to be better than none")
        return _decided((first, *alone))
    try:
        comparison = compare(challenger, champion, metric=policy.metric, bootstrap=policy.bootstrap)
    except ValueError as problem:
        reason = Reason("challenger and champion were measured on the same test cases", False, str(problem))
        return _decided((reason, *alone))
    rows = tuple({str(k): v for k, v in row.items()} for row in comparison.table().to_dict(orient="records"))
    return _decided((_better(comparison, policy), *_none_worse(comparison, policy), *alone), rows)


def _decided(reasons: tuple[Reason, ...], differences: tuple[dict[str, Any], ...] = ()) -> PromotionDecision:
    return PromotionDecision(all(reason.holds for reason in reasons), reasons, differences)


def _better(comparison: Comparison, policy: Policy) -> Reason:
    found = comparison.macro.difference
    low = found.low
    evidence = (
        "the difference is undefined: no pathology has both classes"
        if found.value is None or low is None or found.high is None
        else f"challenger minus champion {found.value:+.4f}, interval {low:+.4f} to {found.high:+.4f} "
        f"({policy.bootstrap.redraws} paired redraws of {policy.bootstrap.unit}s)"
    )
    condition = (
        f"{policy.rule}: the lower bound of the paired difference in macro {policy.metric} is above {policy.bound:+g}"
    )
    return Reason(condition, low is not None and low > policy.bound, evidence)


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
    found = [expected_calibration_error(labels[:, i], scores[:, i]) for i in range(scores.shape[1])]
    defined = [value for value in found if value is not None]
    if not defined:
        return (Reason(condition, False, "undefined: no label is given"),)
    mean = float(np.mean(defined))
    return (Reason(condition, mean <= policy.calibration, f"{mean:.4f} over {len(defined)} pathologies"),)
