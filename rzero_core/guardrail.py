"""The rules that watch label accuracy: from intervals to what a run should do, and why.

Pure, standard library only. These are R1 to R4, numbered as the method's description does: what can
be said of label accuracy alone. The plan adds what other figures say (R5, R6).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from rzero_core.intervals import Interval, Uncorrected, at_confidence, difference, wilson

ALPHA = 0.05
"""Chance of a false alarm of one rule in one iteration."""
LEAST_DROP = 0.05
"""A smaller loss is no drop, however certain it is."""
WIDEST = 0.12
"""A wider interval asks for a larger sample where no rule decides."""
LOOKS = 3
"""Largest number of samples, each an extension of the last, that one iteration is judged on."""


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
    """What judged, of an oracle its model, prompt and answer equivalence: R4 compares equals."""
    looks: int = 1
    """How many samples were drawn, each an extension of the last."""
    upper_bound: bool = False
    """Whether it only says how high accuracy can be; such an audit never decides."""
    again: bool = False
    """Whether labels that another auditor had judged were judged again by this one."""
    judged: int = 0
    """Labels that were judged; 0 where nobody says."""
    certain: bool = False
    """Whether the interval reaches from the worst case to the best: the same at any confidence."""
    uncorrected: Uncorrected | None = None
    """Where the auditor's own errors were corrected."""


@dataclass(frozen=True)
class Verdict:
    """What the guardrail holds of the newest iteration, and why."""

    outcome: Outcome
    message: str
    """One sentence with the figures."""
    acts: bool = False
    """Whether onViolation applies: below the floor, or a drop of more than maxDrop."""
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
    if below_floor(newest.accuracy, floor, alpha, newest.certain):
        return Verdict(Outcome.BELOW_FLOOR, _floor_message(newest.accuracy, floor), acts=True)
    dropped = drop(audits, alpha)
    if dropped is not None:
        since, loss = dropped
        # A loss of exactly max_drop, up to rounding, is not more than it.
        acts = loss.estimate > max_drop + 1e-9
        message = f"accuracy fell by {_shown(loss)} since iteration {since}{_judged_again(audits)}"
        return Verdict(Outcome.DROPPED, message, acts, since=since, loss=loss)
    if wide:
        return Verdict(Outcome.INCONCLUSIVE, _wide_message(newest))
    return Verdict(Outcome.HEALTHY, f"accuracy is {_shown(newest.accuracy)}{_judged_again(audits)}")


def below_floor(
    accuracy: Interval, floor: float, alpha: float = ALPHA, certain: bool = False
) -> bool:
    """R2: whether the upper bound is below the floor, at the one-sided level alpha."""
    return at_confidence(accuracy, 1 - 2 * alpha, certain).upper < floor


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
        loss = _loss(base, newest, confidence)
        if loss.lower > 0 and loss.estimate >= LEAST_DROP:
            found.append((base.iteration, loss))
    return max(found, key=lambda item: item[1].estimate, default=None)


def _loss(base: Audit, newest: Audit, confidence: float) -> Interval:
    """How much less right the Solver's labels are, of all questions like those of the curricula.

    A curriculum is one draw of such questions: also where all its labels were judged, its accuracy
    varies as a sample of so many does.

    An oracle that errs the same way each time agrees with fewer labels exactly if fewer are right:
    q1 - q2 = (p1 - p2)(s + c - 1). So how well probes tell s and c does not matter for whether
    there is a loss, and little for how large it is.
    """
    if base.uncorrected is not None and newest.uncorrected is not None:
        skill = (base.uncorrected.skill + newest.uncorrected.skill) / 2
        fewer = _loss(_as_said(base), _as_said(newest), confidence)
        return Interval(*(min(1.0, max(-1.0, end / skill)) for end in fewer))
    # What is comparable has one auditor, so that both bounds are certain, or neither.
    before, now = (at_confidence(a.accuracy, confidence, a.certain) for a in (base, newest))
    loss = difference(before, now, newest.certain)
    if not (base.judged and newest.judged):
        return loss
    drawn = difference(_drawn(base, confidence), _drawn(newest, confidence))
    below, above = loss.estimate - drawn.lower, drawn.upper - loss.estimate
    if newest.certain:
        return Interval(loss.estimate, loss.lower - below, loss.upper + above)
    return Interval(loss.estimate, min(loss.lower, drawn.lower), max(loss.upper, drawn.upper))


def _as_said(audit: Audit) -> Audit:
    """The audit as if its auditor never erred."""
    if audit.uncorrected is None:
        return audit
    return replace(audit, accuracy=audit.uncorrected.agreed, uncorrected=None)


def _drawn(audit: Audit, confidence: float) -> Interval:
    """The interval if the labels that were judged were all that could tell."""
    return wilson(audit.accuracy.estimate * audit.judged, audit.judged, confidence)


def comparable(audits: Sequence[Audit]) -> list[Audit]:
    """R4: the audits that the last one can be compared with, and itself, in their order.

    A series is comparable for one auditor, prompt and answer equivalence. The first audit after a
    change has a series where the new auditor judged earlier labels again; else only the floor
    watches it.
    """
    newest = audits[-1]
    return [audit for audit in audits if audit.auditor == newest.auditor and not audit.upper_bound]


def _shown(interval: Interval) -> str:
    return f"{interval.estimate:.3f} [{interval.lower:.3f}, {interval.upper:.3f}]"


def _floor_message(accuracy: Interval, floor: float) -> str:
    return f"accuracy is {_shown(accuracy)}, below the floor of {floor:.2f}"


def _judged_again(audits: Sequence[Audit]) -> str:
    """What the auditor found of the iteration before, where that had another auditor."""
    *earlier, _ = comparable(audits)
    if not earlier or not earlier[-1].again:
        return ""
    before = earlier[-1]
    return f"; iteration {before.iteration}, judged again, had {_shown(before.accuracy)}"


def _wide_message(newest: Audit) -> str:
    after = f" after {newest.looks} samples" if newest.looks > 1 else ""
    return f"accuracy is {_shown(newest.accuracy)}, too wide to tell{after}"
