"""Label accuracy from vote shares, alone (an upper estimate) or beside a checked sample."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression

from rzero_core.intervals import CONFIDENCE, Interval, wilson

SMALLEST_TUNED = 100
"""With fewer checked questions the predictions' weight cannot be tuned, and is 0."""
FOLDS = 10
"""Of the cross-fit."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Calibration:
    """How often a label with k of m votes was right, fitted on questions with known answers."""

    probability: Floats
    """(m + 1,), not decreasing in k."""
    variance: Floats
    """(m + 1,) of each probability."""

    def estimate(self, counts: ArrayLike, confidence: float = CONFIDENCE) -> Interval:
        """Accuracy of a curriculum with `counts` (m + 1,) questions per vote count.

        A = sum pi_k a_k, V = sum pi_k^2 Var(a_k), and Wilson's interval on n_eff = A(1 - A)/V.
        An **upper estimate**: probes are well posed, so it stays where it is while questions get
        harder or wrong. Never decide on it alone. Raises ValueError where the counts do not fit.
        """
        sizes = np.asarray(counts, dtype=np.float64)
        if sizes.shape != self.probability.shape or np.any(sizes < 0) or sizes.sum() <= 0:
            raise ValueError(
                f"counts must be {len(self.probability)} numbers of questions, 0 votes first"
            )
        shares = sizes / sizes.sum()
        accuracy = float(shares @ self.probability)
        variance = float(shares**2 @ self.variance)
        n = accuracy * (1 - accuracy) / variance
        return wilson(accuracy * n, n, confidence)


def calibrate(votes: ArrayLike, right: ArrayLike, most: int) -> Calibration:
    """Fits P(label right | k of `most` votes) on probes: `votes` (n,) counts, `right` (n,) of 0, 1.

    Jeffreys' a_k = (right_k + 1/2)/(n_k + 1) with its Beta variance (Brown, Cai and DasGupta 2001,
    Statistical Science 16), then isotonic regression in k with weights n_k + 1 (Barlow et al. 1972;
    `scipy.optimize.isotonic_regression`). Raises ValueError where votes are outside 0..`most`.
    """
    counts, labels = _votes(votes, most), _labels(right)
    if counts.shape != labels.shape:
        raise ValueError(f"votes {counts.shape} and right {labels.shape} must have one length")
    asked = _sums(counts, np.ones(len(counts)), most)
    rights = _sums(counts, labels, most)
    rates = (rights + 0.5) / (asked + 1)
    return Calibration(_isotonic(rights, asked), rates * (1 - rates) / (asked + 2))


def ppi(
    labels: ArrayLike,
    predictions: ArrayLike,
    unlabelled: ArrayLike,
    confidence: float = CONFIDENCE,
    *,
    finite: bool = False,
) -> Interval:
    """PPI++: a checked sample whose error is reduced by predictions for all questions.

    `labels` (n,) of 0 and 1 (label right), `predictions` (n,) for the same questions and
    `unlabelled` (N,) for the others, in [0, 1], fitted on other data. A = mean(y) + l (mean(F) -
    mean(f)), l = Cov(y, f)/((1 + n/N) Var f) within [0, 1], V = Var(y - l f)/n + l^2 Var(F)/N
    (Angelopoulos, Duchi and Zrnic 2311.01453). With `finite` the sample is a part of the curriculum
    and the target is exactly the n + N questions: A is the same, and V = (1 - n/(n + N))
    Var(y - l' f)/n with l' = Cov(y, f)/Var f, the regression estimator's (Cochran 1977, chapter 7).
    The interval is Wilson's on n_eff = A(1 - A)/V instead of the normal one, which covers 86 %
    where almost all labels are right; V/(Var(y)/n) is shrunk to 1 by two pseudo-checks. l = 0,
    hence Wilson's own, where n < 100 (2505.20178, 2411.12665 on PPI with few labels).
    Raises ValueError where a prediction is no probability, a label not 0 or 1, or n is 0.
    """
    y, f, others = _labels(labels), _probabilities(predictions), _probabilities(unlabelled)
    n, rest = len(y), len(others)
    if f.shape != y.shape:
        raise ValueError(f"predictions {f.shape} and labels {y.shape} must have one length")
    population = n + rest if finite else None
    spread = float(np.var(np.concatenate([f, others]), ddof=1)) if n + rest > 1 else 0.0
    if n < SMALLEST_TUNED or rest == 0 or spread == 0:
        return wilson(float(y.sum()), n, confidence, population)
    slope = min(1.0, max(0.0, float(np.cov(y, f)[0, 1]) / spread))
    weight = slope * rest / (n + rest)
    estimate = float(y.mean() + weight * (others.mean() - f.mean()))
    if finite:
        variance = rest / (n + rest) * np.var(y - slope * f, ddof=1) / n
    else:
        variance = np.var(y - weight * f, ddof=1) / n + weight**2 * np.var(others, ddof=1) / rest
    return _score_interval(estimate, float(variance), y, confidence)


def ppi_cross_fit(
    labels: ArrayLike,
    votes: ArrayLike,
    unlabelled_votes: ArrayLike,
    most: int,
    confidence: float = CONFIDENCE,
    *,
    finite: bool = False,
    seed: int = 0,
) -> Interval:
    """PPI++ whose predictions are fitted on the checked sample itself, by vote counts.

    `votes` (n,) and `unlabelled_votes` (N,) count the votes of each label, 0..`most`. A question's
    prediction comes from the other folds, an unlabelled one's is the mean of all folds' (Zrnic and
    Candes 2309.16598, cross-prediction). Otherwise `ppi`, which it equals in errors.
    """
    y, checked, others = _labels(labels), _votes(votes, most), _votes(unlabelled_votes, most)
    if checked.shape != y.shape:
        raise ValueError(f"votes {checked.shape} and labels {y.shape} must have one length")
    fold = np.random.default_rng(seed).permutation(len(y)) % FOLDS
    predictions, levels = np.zeros(len(y)), np.zeros(most + 1)
    for index in range(FOLDS):
        held = fold == index
        kept = checked[~held]
        rates = _isotonic(_sums(kept, y[~held], most), _sums(kept, np.ones(len(kept)), most))
        predictions[held] = rates[checked[held]]
        levels += rates / FOLDS
    return ppi(y, predictions, levels[others], confidence, finite=finite)


def _sums(votes: Ints, values: Floats, most: int) -> Floats:
    """Sum of the values per vote count, (m + 1,)."""
    return np.asarray(np.bincount(votes, values, minlength=most + 1), dtype=np.float64)


def _isotonic(rights: Floats, asked: Floats) -> Floats:
    """Jeffreys' rates, made not to decrease; (m + 1,)."""
    fitted = isotonic_regression((rights + 0.5) / (asked + 1), weights=asked + 1).x
    return np.clip(np.asarray(fitted, dtype=np.float64), 0.0, 1.0)


def _score_interval(estimate: float, variance: float, y: Floats, confidence: float) -> Interval:
    """Wilson's interval on the size of the simple random sample that knows as much."""
    n = len(y)
    rate = (y.sum() + 1) / (n + 2)
    pseudo = 2 * rate * (1 - rate)
    design_effect = (n * n * variance + pseudo) / (n * np.var(y, ddof=1) + pseudo)
    size = float(n / design_effect)
    return wilson(min(1.0, max(0.0, estimate)) * size, size, confidence)


def _labels(values: ArrayLike) -> Floats:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or len(found) == 0 or not np.all((found == 0) | (found == 1)):
        raise ValueError("labels must be a list of 0 (wrong) and 1 (right) with at least one entry")
    return found


def _probabilities(values: ArrayLike) -> Floats:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or not np.all((found >= 0) & (found <= 1)):
        raise ValueError("predictions must be a list of probabilities, from 0 to 1")
    return found


def _votes(values: ArrayLike | Sequence[int], most: int) -> Ints:
    found = np.asarray(values)
    counts = found.astype(np.int64)
    if found.ndim != 1 or np.any(counts != found) or np.any((counts < 0) | (counts > most)):
        raise ValueError(f"votes must be a list of whole numbers from 0 to {most}")
    return counts
