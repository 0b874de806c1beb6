"""Label accuracy from a random sample of the curriculum that was checked question by question."""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

from rzero_core.intervals import CONFIDENCE, Interval, quantile, wilson

AT_LEAST = 20
"""Questions checked per stratum, where the sample allows it."""
SHRINKAGE = 2.0
"""Pseudo-checks that pull a stratum's rate toward the common one, for its variance only."""


@dataclass(frozen=True)
class Stratum:
    """Questions of the curriculum with one vote count, of which some were checked."""

    size: int
    """How many there are."""
    checked: int
    """How many were drawn, at random and without replacement."""
    right: int
    """How many of these have a right label."""


def allocate(sizes: Sequence[int], n: int, at_least: int = AT_LEAST) -> list[int]:
    """How many of n questions to check in each stratum: in proportion, but `at_least` everywhere.

    Gives a count for each of `sizes`, at most the size, which sum to min(n, sum of sizes). Where n
    is too small for `at_least` everywhere, the minimum is n divided by the number of strata.
    Raises ValueError where a size is negative or n cannot reach every stratum.
    """
    filled = [place for place, size in enumerate(sizes) if size > 0]
    if any(size < 0 for size in sizes):
        raise ValueError(f"stratum sizes are counts, not {list(sizes)}")
    if n < len(filled):
        raise ValueError(
            f"a sample of {n} cannot reach {len(filled)} strata: enlarge it, or merge strata"
        )
    counts = [0] * len(sizes)
    for place in filled:
        counts[place] = min(sizes[place], at_least, n // len(filled))
    # The next question goes to the stratum of which the smallest share is drawn.
    heap = [((counts[p] + 1) / sizes[p], p) for p in filled if counts[p] < sizes[p]]
    heapq.heapify(heap)
    for _ in range(n - sum(counts)):
        if not heap:
            break
        _, place = heapq.heappop(heap)
        counts[place] += 1
        if counts[place] < sizes[place]:
            heapq.heappush(heap, ((counts[place] + 1) / sizes[place], place))
    return counts


def stratified(strata: Sequence[Stratum], confidence: float = CONFIDENCE) -> Interval:
    """The share of right labels in all strata together, with finite population correction.

    A = sum W_h p_h and V = sum W_h^2 (1 - n_h/N_h) p_h (1 - p_h) / (n_h - 1) (Cochran 1977,
    Sampling Techniques, section 5.6); the interval is Wilson's on n_eff = A(1 - A)/V (Kott and Carr
    1997, Journal of Official Statistics 13; recommended by Franco et al. 2019, Journal of Survey
    Statistics and Methodology 7). So that a small stratum without a single wrong label does not
    pass for one without variance, V uses rates shrunk to the common rate (nA + 1)/(n + 2) by
    `SHRINKAGE` pseudo-checks, and so does A(1 - A).
    Raises ValueError where a stratum of the curriculum was not checked, or counts contradict.
    """
    estimate, n = effective_sample(strata)
    if math.isinf(n):
        return Interval(estimate, estimate, estimate)
    return wilson(estimate * n, n, confidence)


def effective_sample(strata: Sequence[Stratum], finite: bool = True) -> tuple[float, float]:
    """The share of right labels, and the size of the simple random sample that knows as much.

    The size is infinite where all was checked. Without `finite` the curriculum counts as a sample.
    """
    filled = [stratum for stratum in strata if stratum.size > 0]
    for stratum in filled:
        if not 0 <= stratum.right <= stratum.checked <= stratum.size or stratum.checked < 1:
            raise ValueError(
                f"{stratum} must hold right <= checked <= size and checked >= 1: check a question "
                f"of it, or merge it with its neighbor"
            )
    if not filled:
        raise ValueError("there is no stratum with questions, so their accuracy is unknown")
    total, n = sum(s.size for s in filled), sum(s.checked for s in filled)
    estimate = min(1.0, sum(s.size / total * s.right / s.checked for s in filled))
    common = (n * estimate + 1) / (n + 2)
    variance = smooth = 0.0
    for s in filled:
        weight, rate = s.size / total, (s.right + SHRINKAGE * common) / (s.checked + SHRINKAGE)
        left = 1 - s.checked / s.size if finite else 1.0
        variance += weight**2 * left * rate * (1 - rate) / max(1, s.checked - 1)
        smooth += weight * rate
    return estimate, smooth * (1 - smooth) / variance if variance > 0 else math.inf


def rogan_gladen(
    agreed: float,
    n: float,
    right_agreed: int,
    right_n: int,
    wrong_disagreed: int,
    wrong_n: int,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Label accuracy from an auditor that errs itself, as probes with known answers showed.

    The auditor agreed with `agreed` of n labels. Of `right_n` probes with a right label it agreed
    with `right_agreed` (sensitivity s), of `wrong_n` with a wrong one it disagreed with
    `wrong_disagreed` (specificity c). Estimate (q + c - 1)/(s + c - 1), within [0, 1] (Rogan and
    Gladen 1978, American Journal of Epidemiology 107). Interval: all t in [0, 1] with
    (q - t s - (1-t)(1-c))^2 <= z^2 (Var q + t^2 Var s + (1-t)^2 Var c) (Fieller 1954, JRSS B 16),
    where q has z^2/2 successes in z^2 checks added and s and c have 1 in 2 (Lang and Reiczigel
    2014, Preventive Veterinary Medicine 113). Theirs is the first-order form of this one, which
    also stays honest where s + c - 1 is small: it grows to [0, 1] instead of breaking. Where the
    auditor agreed more often than even right labels explain, or less often than wrong ones, t is
    put to that end, and the interval is at least z sd(q - t s - (1-t)(1-c)) / (s + c - 1) wide:
    such counts are no proof that all labels are right, or none.
    n may be an effective size. Raises ValueError where counts contradict, without probes of either
    kind, and where s + c <= 1: then agreement says nothing about labels.
    """
    for name, count, of in (
        ("agreed", agreed, n),
        ("right_agreed", right_agreed, right_n),
        ("wrong_disagreed", wrong_disagreed, wrong_n),
    ):
        if not 0 <= count <= of or of <= 0:
            raise ValueError(f"{name} must lie from 0 to its total, above 0, not {count} of {of}")
    q, s, c = agreed / n, right_agreed / right_n, wrong_disagreed / wrong_n
    if s + c <= 1:
        raise ValueError(
            f"sensitivity {s:.3f} + specificity {c:.3f} must be above 1: the auditor is unusable"
        )
    estimate = min(1.0, max(0.0, (q + c - 1) / (s + c - 1)))
    z2 = quantile(confidence) ** 2
    q, s, c = (
        (agreed + z2 / 2) / (n + z2),
        (right_agreed + 1) / (right_n + 2),
        (wrong_disagreed + 1) / (wrong_n + 2),
    )
    variances = q * (1 - q) / (n + z2), s * (1 - s) / (right_n + 2), c * (1 - c) / (wrong_n + 2)
    top, bottom = q + c - 1, s + c - 1
    lower, upper = _fieller(top, bottom, variances, z2)
    if not 0 <= top <= bottom:
        vq, vs, vc = variances
        half = math.sqrt(z2 * (vq + (vs if top > bottom else vc))) / bottom
        lower, upper = (min(lower, 1 - half), 1.0) if top > bottom else (0.0, max(upper, half))
    return Interval(estimate, max(0.0, min(lower, estimate)), min(1.0, max(upper, estimate)))


def _fieller(
    top: float, bottom: float, variances: tuple[float, float, float], z2: float
) -> tuple[float, float]:
    """Hull of all t in [0, 1] with (top - t bottom)^2 <= z2 (Vq + t^2 Vs + (1-t)^2 Vc)."""
    vq, vs, vc = variances
    # a t^2 + b t + c <= 0
    a = bottom * bottom - z2 * (vs + vc)
    b = -2 * (top * bottom - z2 * vc)
    c = top * top - z2 * (vq + vc)
    discriminant = b * b - 4 * a * c
    if a == 0 or discriminant <= 0:
        # A parabola that opens upward always has roots: it is not above 0 at top / bottom.
        return 0.0, 1.0
    first, second = sorted((-b + sign * math.sqrt(discriminant)) / (2 * a) for sign in (-1, 1))
    if a > 0:
        return min(1.0, max(0.0, first)), max(0.0, min(1.0, second))
    # All but what lies between the roots.
    return (second if first < 0 <= second <= 1 else 0.0), (
        first if second > 1 >= first >= 0 else 1.0
    )
