"""The rules that watch label accuracy: from intervals to what a run should do, and why.

Pure, standard library only. The plan calls `judge` (R1 to R4, numbered as the method's description
does). It does not yet call the rules on probes, bands, agreement and paired scores (R5, R6).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from rzero_core.intervals import Interval, at_confidence, difference

ALPHA = 0.05
"""Chance of a false alarm of one rule in one iteration."""
LEAST_DROP = 0.05
"""A smaller loss is no drop, however certain it is."""
WIDEST = 0.12
"""A wider interval asks for a larger sample where no rule decides."""
LOOKS = 3
"""Largest number of samples, each an extension of the last, that one iteration is judged on."""
CANARY_ALPHA = 0.01
"""Of the paired test on known-answer probes, which runs beside everything else."""


class Outcome(StrEnum):
    """What the guardrail holds of an iteration."""

    HEALTHY = "Healthy"
    """The interval is narrow, and no rule is broken."""
    DROPPED = "Dropped"
    """R1: a significant loss since the previous or the best iteration."""
    BELOW_FLOOR = "BelowFloor"
    """R2: accuracy is below the floor, with confidence."""
    INCONCLUSIVE = "Inconclusive"
    """R3: the interval is too wide to tell."""
    UNKNOWN = "Unknown"
    """Nothing was audited, or only an upper bound is known."""


@dataclass(frozen=True)
class Audit:
    """Label accuracy of one iteration, as reported."""

    iteration: int
    accuracy: Interval
    """At 95 %."""
    auditor: str = ""
    """Identity of auditor, its model, prompt and answer equivalence: R4 compares only equals."""
    looks: int = 1
    """How many samples were drawn, each an extension of the last."""
    upper_bound: bool = False
    """Whether it only says how high accuracy can be; such an audit never decides."""


@dataclass(frozen=True)
class Verdict:
    """What the guardrail holds of the newest iteration, and why."""

    outcome: Outcome
    message: str
    """One sentence with the figures."""
    acts: bool = False
    """Whether onViolation applies: below the floor, or a drop of more than maxDrop."""
    enlarge: bool = False
    """Whether a larger sample is worth drawing."""
    since: int | None = None
    """Iteration that a drop is measured from."""
    loss: Interval | None = None
    """How much was lost since then, at the confidence that decided."""


def judge(audits: Sequence[Audit], floor: float = 0.60, max_drop: float = 0.10) -> Verdict:
    """Judges the last of the audits, in order of iterations, by R2, then R1, then R3.

    A drop needs certainty and a loss of `LEAST_DROP`; it calls for action where the loss is also
    more than `max_drop`. Each look of an iteration that may have several spends ALPHA / LOOKS.
    Raises ValueError where `floor` or `max_drop` is outside [0, 1].
    """
    for name, value in (("floor", floor), ("maxDrop", max_drop)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must lie from 0 to 1, not at {value}")
    if not audits:
        return Verdict(Outcome.UNKNOWN, "no iteration was audited")
    newest = audits[-1]
    if newest.upper_bound:
        return Verdict(
            Outcome.UNKNOWN,
            f"only an upper bound of accuracy is known, {newest.accuracy.upper:.3f}",
        )
    wide = newest.accuracy.width > WIDEST
    alpha = ALPHA / LOOKS if wide or newest.looks > 1 else ALPHA
    if below_floor(newest.accuracy, floor, alpha):
        return Verdict(Outcome.BELOW_FLOOR, _floor_message(newest.accuracy, floor), acts=True)
    dropped = drop(audits, alpha)
    if dropped is not None:
        since, loss = dropped
        # A loss of exactly max_drop, up to rounding, is not more than it.
        acts = loss.estimate > max_drop + 1e-9
        return Verdict(Outcome.DROPPED, _drop_message(since, loss), acts, since=since, loss=loss)
    if wide:
        more = newest.looks < LOOKS
        return Verdict(Outcome.INCONCLUSIVE, _wide_message(newest, more), enlarge=more)
    return Verdict(Outcome.HEALTHY, f"accuracy is {_shown(newest.accuracy)}")


def below_floor(accuracy: Interval, floor: float, alpha: float = ALPHA) -> bool:
    """R2: whether the upper bound is below the floor, at the one-sided level alpha."""
    return at_confidence(accuracy, 1 - 2 * alpha).upper < floor


def drop(audits: Sequence[Audit], alpha: float = ALPHA) -> tuple[int, Interval] | None:
    """R1: the largest certain loss since the previous or the best iteration, None without one.

    Gives the iteration and the interval of the loss. Certain means that the lower Newcombe bound is
    above 0 at a one-sided level, and the loss at least `LEAST_DROP`. Of alpha the previous
    iteration gets one half and the best of the E earlier ones the other, divided by E because it
    was chosen after the fact, so that the chance of a false alarm is at most alpha (Bonferroni,
    which is the first step of Holm's procedure, and an alarm needs no second). With one earlier
    iteration there is one comparison.
    """
    *earlier, newest = comparable(audits)
    if not earlier or newest is not audits[-1]:
        return None
    *others, previous = earlier
    levels = [(previous, alpha / 2 if others else alpha)]
    if others:
        best = max(others, key=lambda audit: audit.accuracy.estimate)
        levels.append((best, alpha / 2 / len(others)))
    found = []
    for base, level in levels:
        confidence = 1 - 2 * level
        before = at_confidence(base.accuracy, confidence)
        loss = difference(before, at_confidence(newest.accuracy, confidence))
        if loss.lower > 0 and loss.estimate >= LEAST_DROP:
            found.append((base.iteration, loss))
    return max(found, key=lambda item: item[1].estimate, default=None)


def comparable(audits: Sequence[Audit]) -> list[Audit]:
    """R4: the audits that the last one can be compared with, and itself, in their order.

    A series is comparable for one auditor, prompt and answer equivalence; the first audit after a
    change has nothing to be compared with, and only the floor watches it.
    """
    newest = audits[-1]
    return [audit for audit in audits if audit.auditor == newest.auditor and not audit.upper_bound]


def canary(probes_p_value: float) -> bool:
    """R5: whether McNemar's test of the probes of two iterations says that the Solver changed."""
    return probes_p_value < CANARY_ALPHA


def outside_band(value: float, history: Sequence[float], standard_error: float = 0.0) -> bool:
    """R5: whether a figure left its control band, three sigma around the median of its history.

    Sigma is the larger of the figure's own standard error (sqrt(p(1-p)/n) for a share) and of
    1.4826 times the median absolute deviation of the history. Without either there is no band.
    """
    if not history:
        return False
    center = median(history)
    spread = 1.4826 * median([abs(past - center) for past in history])
    sigma = max(standard_error, spread)
    return sigma > 0 and abs(value - center) > 3 * sigma


def confidently_wrong(agreement_before: float, agreement_after: float, loss: Interval) -> bool:
    """R6: the signature of a rotting run: agreement grows while accuracy certainly falls."""
    return agreement_after > agreement_before and loss.lower > 0


def worse_on_held_out(lost: int, gained: int, alpha: float = ALPHA) -> bool:
    """R6: whether a checkpoint is worse on the same held-out questions, which decides promotion.

    `lost` questions were right only before, `gained` only after: one-sided exact McNemar. Label
    accuracy alone does not decide: Solvers were seen to improve on labels of which half were right.
    """
    n = lost + gained
    tail = sum(math.comb(n, k) for k in range(lost, n + 1))
    return lost > gained and tail / (1 << n) < alpha


def _shown(interval: Interval) -> str:
    return f"{interval.estimate:.3f} [{interval.lower:.3f}, {interval.upper:.3f}]"


def _floor_message(accuracy: Interval, floor: float) -> str:
    return f"accuracy is {_shown(accuracy)}, below the floor of {floor:.2f}"


def _drop_message(since: int, loss: Interval) -> str:
    return f"accuracy fell by {_shown(loss)} since iteration {since}"


def _wide_message(newest: Audit, more: bool) -> str:
    end = "a larger sample is due" if more else f"even after {LOOKS} samples"
    return f"accuracy is {_shown(newest.accuracy)}, too wide to tell: {end}"
