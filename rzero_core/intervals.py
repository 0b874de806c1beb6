"""Intervals of shares and of their differences: what auditors report and the guardrail weighs.

Standard library only, so that the operator's image can hold it.
"""

import math
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

CONFIDENCE = 0.95
"""Of every interval that is reported; `at_confidence` gives the others."""
_NARROWEST = 1e-7
"""Reported ends have six digits, so that no interval is narrower but a point."""


class Interval(NamedTuple):
    """A share, or a difference of two, with the bounds of its confidence interval."""

    estimate: float
    lower: float
    upper: float

    @property
    def width(self) -> float:
        """Distance of the bounds."""
        return self.upper - self.lower


class Uncorrected(NamedTuple):
    """What an oracle said of labels, before its own errors were corrected."""

    agreed: Interval
    """Share of labels that it agreed with, at 95 %."""
    skill: float
    """Sensitivity + specificity - 1, above 0: by how much more right labels than wrong ones it
    agrees with, as probes showed."""


def wilson(
    successes: float, n: float, confidence: float = CONFIDENCE, population: float | None = None
) -> Interval:
    """Wilson's score interval of x/n.

    Center (p + z^2/2n) / (1 + z^2/n), half-width z sqrt(p(1-p)/n + z^2/4n^2) / (1 + z^2/n), with
    z the normal quantile of 1 - alpha/2 (Wilson 1927, JASA 22). Where `population`, the number of
    questions that n were drawn from without replacement, is given, n is replaced by
    n (N-1)/(N-n), and a complete check leaves no doubt. x and n may be fractions: effective sizes.
    Raises ValueError where n is 0, x is outside [0, n], or the population is smaller than n.
    """
    _check_counts(successes, n)
    successes, n = float(successes), float(n)
    p = successes / n
    if population is not None:
        if population < n:
            raise ValueError(f"population is {population}, less than the sample of n = {n}")
        if population == n:
            return Interval(p, p, p)
        n *= (population - 1) / (population - n)
    z = quantile(confidence)
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # Rounding must not put the bound of a certain side beside it.
    lower = 0.0 if p == 0 else max(0.0, center - half)
    upper = 1.0 if p == 1 else min(1.0, center + half)
    return Interval(p, min(lower, p), max(upper, p))


def newcombe(
    x1: float, n1: float, x2: float, n2: float, confidence: float = CONFIDENCE
) -> Interval:
    """Newcombe's interval of p1 - p2, from the Wilson interval of each.

    lower = d - sqrt((p1-l1)^2 + (u2-p2)^2), upper = d + sqrt((u1-p1)^2 + (p2-l2)^2) (Newcombe 1998,
    Statistics in Medicine 17, method 10). Raises ValueError as `wilson` does.
    """
    return difference(wilson(x1, n1, confidence), wilson(x2, n2, confidence))


def difference(first: Interval, second: Interval, certain: bool = False) -> Interval:
    """The interval of first - second, both independent and of one confidence.

    Newcombe's rule for any two intervals: the method of variance estimates recovery (Zou and Donner
    2008, Statistics in Medicine 27). Of `certain` bounds both worst cases may come together, so
    that their margins add up.
    """
    if certain:
        estimate = first.estimate - second.estimate
        return Interval(estimate, first.lower - second.upper, first.upper - second.lower)
    return weighted_sum([(1.0, first), (-1.0, second)])


def weighted_sum(parts: list[tuple[float, Interval]]) -> Interval:
    """The interval of a sum of independent estimates with known weights (Zou and Donner 2008).

    A margin of the sum is the root of the sum of squared weighted margins on that side, where a
    negative weight swaps the sides.
    """
    estimate = below = above = 0.0
    for weight, part in parts:
        left, right = part.estimate - part.lower, part.upper - part.estimate
        if weight < 0:
            left, right = right, left
        estimate += weight * part.estimate
        below += (weight * left) ** 2
        above += (weight * right) ** 2
    return Interval(estimate, estimate - math.sqrt(below), estimate + math.sqrt(above))


def at_confidence(interval: Interval, confidence: float, certain: bool = False) -> Interval:
    """A reported (95 %) interval of a share, at another confidence.

    Exact for Wilson's, whose n the width gives away: with u = z^2/n it solves
    (w^2-1)/4 u^2 + (w^2/2 - p(1-p)) u + w^2/4 = 0. The margins of any other interval shrink or grow
    as those of the Wilson interval of the same width do, which holds for sampling error alone.
    Bounds that are `certain`, the worst case and the best, are the same at every confidence.
    """
    p, width = interval.estimate, interval.width
    # A width of rounding alone gives no n away: the quadratic formula has no digits left for it.
    if certain or confidence == CONFIDENCE or width < _NARROWEST or width >= 1:
        return interval
    a, b, c = (width * width - 1) / 4, width * width / 2 - p * (1 - p), width * width / 4
    u = (-b - math.sqrt(b * b - 4 * a * c)) / (2 * a)
    n = quantile(CONFIDENCE) ** 2 / u
    old, new = wilson(p * n, n), wilson(p * n, n, confidence)
    below, above = p - interval.lower, interval.upper - p
    if old.lower < p:
        below *= (p - new.lower) / (p - old.lower)
    if old.upper > p:
        above *= (new.upper - p) / (old.upper - p)
    return Interval(p, max(0.0, p - below), min(1.0, p + above))


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided p-value of McNemar's exact test on the same items, checked twice.

    With b right only at first and c only at second, p = min(1, 2 P[Bin(b + c, 1/2) <= min(b, c)])
    (McNemar 1947, Psychometrika 12; exact form). 1 where b + c is 0. Raises ValueError below 0.
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f"discordant pairs are counts, not {only_first} and {only_second}")
    n = only_first + only_second
    tail = sum(math.comb(n, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / (1 << n))


@lru_cache(maxsize=256)
def quantile(confidence: float) -> float:
    """z of a two-sided confidence: 1.96 for 0.95. Raises ValueError outside (0, 1)."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, for example 0.95, not {confidence}")
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _check_counts(successes: float, n: float) -> None:
    if not 0 < n < math.inf:
        raise ValueError(
            f"n is {n}: nothing was checked, and an accuracy that nobody checked is unknown"
        )
    if not 0 <= successes <= n:
        raise ValueError(f"successes must lie from 0 to n = {n}, not at {successes}")
