"""Canaries: figures of an iteration that left the band of those before (rule R5). Pure.

A canary never acts on a run. It says where to look: a curriculum may change for the better, too.
"""

from collections.abc import Iterator
from math import sqrt
from statistics import median
from typing import NamedTuple

from rzero_core.run import Stage
from rzero_core.status import LONGEST_CANARY, IterationStatus, RunStatus, StageState

FEWEST = 5
"""Iterations before that a band needs. With five of them a figure that only varies by chance leaves
it in 5 of 100 iterations, with ten in 2 (`benchmarks.coverage`)."""
ALPHA = 0.01
"""Of the paired test on probes."""

READ = frozenset(
    {"valid", "questions", "abstained", "votes", "duplicates", "nearDuplicates"}
    | {"probeDuplicates", "kept", "agreementSum"}
)
"""Metrics of earlier iterations that bands are made of."""


class Share(NamedTuple):
    """A share of questions, or a mean of shares over them."""

    value: float
    questions: float


def found(status: RunStatus, iteration: int) -> list[str]:
    """What is unusual about an iteration, a sentence for each figure; mostly nothing.

    The probes' answers against those of the iteration before, and every figure of `_figures` that
    is more than three sigma from the median of the earlier iterations. Sigma is the larger of the
    figure's standard error and of their standard deviation around the median.
    """
    by_number = {group.iteration: group for group in status.iterations}
    earlier = [_figures(group) for number, group in by_number.items() if 0 < number < iteration]
    told = [*_probes(by_number[iteration])]
    for name, share in _figures(by_number[iteration]).items():
        history = [figures[name].value for figures in earlier if name in figures]
        band = _band(history, share.questions)
        if band is not None and not band[0] <= share.value <= band[1]:
            lower, upper = max(0.0, band[0]), min(1.0, band[1])
            shown = f"{name}: {share.value:.3f}, outside the band from {lower:.3f} to {upper:.3f}"
            told.append(f"{shown} of {len(history)} iterations before")
    return [line[:LONGEST_CANARY] for line in told]


def mean_agreement(group: IterationStatus) -> Share | None:
    """Of the distinct questions of an iteration, None before its curriculum is built."""
    built = _built(group)
    distinct = sum(built.get(name, 0.0) * sign for name, sign in _DISTINCT)
    if "agreementSum" not in built or distinct <= 0:
        return None
    return Share(built["agreementSum"] / distinct, distinct)


_DISTINCT = (("questions", 1), ("duplicates", -1), ("probeDuplicates", -1))


def _figures(group: IterationStatus) -> dict[str, Share]:
    """What is watched of an iteration, as far as its stages reported it."""
    drawn = _sums(group, Stage.GENERATE_QUESTIONS)
    voted = _sums(group, Stage.LABEL_QUESTIONS)
    built = _built(group)
    shares = {}
    for name, metrics, parts, whole in (
        ("valid questions", drawn, ("valid",), "questions"),
        ("votes without an answer", voted, ("abstained",), "votes"),
        ("repeated questions", built, ("duplicates", "nearDuplicates"), "questions"),
        ("questions kept", built, ("kept",), "questions"),
    ):
        if metrics.get(whole) and all(part in metrics for part in parts):
            value = sum(metrics[part] for part in parts) / metrics[whole]
            # Votes on one question are alike, so that they count as one.
            shares[name] = Share(value, metrics.get("questions", metrics[whole]))
    agreement = mean_agreement(group)
    shares |= {"mean agreement": agreement} if agreement is not None else {}
    # Who edits a status, or reports a result, may write any numbers.
    return {n: s for n, s in shares.items() if 0 <= s.value <= 1 and s.questions >= 1}


def _band(history: list[float], questions: float) -> tuple[float, float] | None:
    if len(history) < FEWEST:
        return None
    center = median(history)
    variance = sum((past - center) ** 2 for past in history) / (len(history) - 1)
    # As of a share of right and wrong; a mean of shares varies less.
    sigma = sqrt(max(variance, center * (1 - center) / questions))
    return (center - 3 * sigma, center + 3 * sigma) if sigma else None


def _probes(group: IterationStatus) -> Iterator[str]:
    """Whether probes were lost for certain; that more are right than before is no reason to warn.

    The p-value is of the exact two-sided test on the same probes (McNemar).
    """
    built = _built(group)
    if built.get("probesPValue", 1.0) < ALPHA:
        lost, gained = built.get("probesLost", 0.0), built.get("probesGained", 0.0)
        if lost > gained:
            chance = f"p = {built['probesPValue']:.4f}"
            yield f"probes: {lost:.0f} are no longer right, {gained:.0f} now are ({chance})"


def _built(group: IterationStatus) -> dict[str, float]:
    """Metrics of the last curriculum; it holds the questions of all rounds."""
    rounds = {
        entry.round: entry.metrics
        for entry in group.stages
        if entry.stage is Stage.BUILD_CURRICULUM and entry.state is StageState.DONE
    }
    return {name: float(value) for name, value in rounds[max(rounds)].items()} if rounds else {}


def _sums(group: IterationStatus, stage: Stage) -> dict[str, float]:
    """Metrics of all rounds of a stage together."""
    sums: dict[str, float] = {}
    for entry in group.stages:
        if entry.stage is stage and entry.state is StageState.DONE:
            for name, value in entry.metrics.items():
                sums[name] = sums.get(name, 0.0) + float(value)
    return sums
