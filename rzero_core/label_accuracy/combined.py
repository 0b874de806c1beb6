"""What an iteration reports of an oracle's verdicts: strata and the oracle's errors together."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from rzero_core.intervals import CONFIDENCE, Interval, Uncorrected
from rzero_core.label_accuracy.sampled import (
    Stratum,
    effective_sample,
    rogan_gladen,
    stratified,
)

LEAST_PROBES = 10
"""Probes with a right label, and as many with a wrong one, that correct an oracle's errors."""
LEAST_SKILL = 0.3
"""Sensitivity + specificity - 1 below which an oracle is unusable."""


class Method(StrEnum):
    """How label accuracy was found."""

    STRATIFIED = "stratified"
    """An oracle checked a sample, and counts as faultless."""
    ROGAN_GLADEN = "roganGladen"
    """An oracle checked a sample, and its own errors on probes are corrected."""


@dataclass(frozen=True)
class AuditedStratum:
    """Verdicts on a random sample of the questions with one vote count."""

    size: int
    """Questions of the curriculum with this vote count."""
    right: int
    """Labels that the auditor agreed with."""
    wrong: int
    """Labels that it disagreed with."""
    abstained: int = 0
    """Drawn questions that it gave no verdict on."""


@dataclass(frozen=True)
class Probes:
    """Verdicts of an oracle on labels that are known to be right or wrong."""

    right_agreed: int
    right_n: int
    wrong_disagreed: int
    wrong_n: int


@dataclass(frozen=True)
class Estimate:
    """Label accuracy with everything that belongs to the number."""

    accuracy: Interval
    method: Method
    sample_size: int
    """Questions with a verdict."""
    abstained: int = 0
    """Drawn questions without one."""
    uncorrected: Uncorrected | None = None
    """Where the oracle's errors were corrected: what it said itself."""


class AuditorUnusableError(ValueError):
    """The oracle can hardly tell right labels from wrong ones: use a stronger model."""


def audited(
    strata: Sequence[AuditedStratum], probes: Probes | None = None, confidence: float = CONFIDENCE
) -> Estimate:
    """Label accuracy from an oracle's verdicts on a stratified sample of the curriculum.

    The estimate drops abstentions. The interval's lower bound counts them as wrong labels, its
    upper bound drops them: it allows for an oracle that abstains from wrong labels more often than
    from right ones, not for the contrary. With `LEAST_PROBES` of each kind the
    oracle's errors are corrected (`rogan_gladen`), on the effective size without finite population
    correction, since an oracle errs at random even on a complete curriculum. A stratum without a
    verdict is judged together with its neighbor.
    Raises ValueError without any verdict, and AuditorUnusableError where s + c - 1 < 0.3.
    """
    verdicts = sum(s.right + s.wrong for s in strata)
    if not verdicts:
        raise ValueError("the oracle gave no verdict: label accuracy is unknown")
    merged = _merged(strata)
    dropped = [Stratum(s.size, s.right + s.wrong, s.right) for s in merged]
    counted = [Stratum(s.size, s.right + s.wrong + s.abstained, s.right) for s in merged]
    abstained = sum(s.abstained for s in strata)
    agreed = _from_to(stratified(counted, confidence), stratified(dropped, confidence))
    if probes is None or min(probes.right_n, probes.wrong_n) < LEAST_PROBES:
        return Estimate(agreed, Method.STRATIFIED, verdicts, abstained)
    skill = _skill(probes)
    low, high = (_corrected(part, probes, confidence) for part in (counted, dropped))
    said = Uncorrected(agreed, skill)
    return Estimate(_from_to(low, high), Method.ROGAN_GLADEN, verdicts, abstained, said)


def _from_to(low: Interval, high: Interval) -> Interval:
    """Abstentions are wrong labels for the lower bound, and dropped for the rest."""
    return Interval(high.estimate, min(low.lower, high.lower), high.upper)


def _corrected(strata: list[Stratum], probes: Probes, confidence: float) -> Interval:
    agreement, n = effective_sample(strata, finite=False)
    return rogan_gladen(
        agreement * n,
        n,
        probes.right_agreed,
        probes.right_n,
        probes.wrong_disagreed,
        probes.wrong_n,
        confidence,
    )


def _skill(probes: Probes) -> float:
    """Sensitivity + specificity - 1. Raises AuditorUnusableError where it is under 0.3."""
    sensitivity = probes.right_agreed / probes.right_n
    specificity = probes.wrong_disagreed / probes.wrong_n
    skill = sensitivity + specificity - 1
    if skill < LEAST_SKILL:
        raise AuditorUnusableError(
            f"oracle unusable: it agrees with {sensitivity:.0%} of right labels and disagrees with "
            f"{specificity:.0%} of wrong ones; name a stronger model in labelAccuracy.auditor"
        )
    return skill


def _merged(strata: Sequence[AuditedStratum]) -> list[AuditedStratum]:
    """The strata, each without a verdict joined to its neighbor."""
    found: list[AuditedStratum] = []
    for s in strata:
        last = found[-1] if found else None
        if last is not None and 0 in (s.right + s.wrong, last.right + last.wrong):
            found[-1] = AuditedStratum(
                last.size + s.size,
                last.right + s.right,
                last.wrong + s.wrong,
                last.abstained + s.abstained,
            )
        else:
            found.append(s)
    return found
