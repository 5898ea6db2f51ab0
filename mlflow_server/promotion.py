"""Whether a challenger replaces the champion: a decision with its evidence, made of stored scores alone."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from trainers.evaluation.case_scores import CaseScores
from trainers.evaluation.comparison import compare
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
    """

    rule: Rule
    margin: float
    metric: str
    bootstrap: Bootstrap

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


def judge(challenger: CaseScores, champion: CaseScores | None, policy: Policy) -> PromotionDecision:
    """Compare a challenger with the champion on the test cases of both.

    Args:
        challenger: test scores.
        champion: test scores of the champion; None if there is none yet.
        policy: of the study.

    Returns:
        The decision; scores that cannot be paired refuse the promotion and say why.
    """
    if champion is None:
        return PromotionDecision(True, (Reason("there is no champion yet", True, "the first model is promoted"),))
    try:
        comparison = compare(challenger, champion, metric=policy.metric, bootstrap=policy.bootstrap)
    except ValueError as problem:
        reason = Reason("challenger and champion were measured on the same test cases", False, str(problem))
        return PromotionDecision(False, (reason,))
    found = comparison.macro.difference
    low = found.low
    holds = low is not None and low > policy.bound
    evidence = (
        "the difference is undefined: no pathology has both classes"
        if found.value is None or low is None or found.high is None
        else f"challenger minus champion {found.value:+.4f}, interval {low:+.4f} to {found.high:+.4f} "
        f"({policy.bootstrap.redraws} paired redraws of {policy.bootstrap.unit}s)"
    )
    condition = (
        f"{policy.rule}: the lower bound of the paired difference in macro {policy.metric} is above {policy.bound:+g}"
    )
    rows = tuple({str(k): v for k, v in row.items()} for row in comparison.table().to_dict(orient="records"))
    return PromotionDecision(holds, (Reason(condition, holds, evidence),), rows)
