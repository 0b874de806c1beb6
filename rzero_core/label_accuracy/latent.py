"""Upper bounds of label accuracy without anybody who knows answers: agreement of several raters.

Raters are the Solver's majority, the Challenger's own answer, the base model's majority. They err
together, being of one family, which both estimators take for being right: **upper bounds only**.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rzero_core.intervals import CONFIDENCE, Interval

REPLICATES = 1000
"""Of the bootstrap."""
WRONG_ANSWERS = 100
"""Equally likely wrong answers of a question: two wrong raters collide once in as many cases."""
STEPS = 200
"""Of expectation maximization, at most."""
TOLERANCE = 1e-6
"""Change of every accuracy at which it has converged."""

Floats = NDArray[np.float64]


def triplet(agreements: ArrayLike, confidence: float = CONFIDENCE, seed: int = 0) -> Interval:
    """Upper bound of the first rater's accuracy, from how often three raters agree in pairs.

    `agreements` (n, 3) of 0 and 1, per question: first = second, first = third, second = third.
    Independent raters whose errors rarely collide agree with probability a_i a_j, so a_1 =
    sqrt(P_12 P_13 / P_23) (Joglekar et al. 2013, KDD; Ratner et al. 2019), at most 1. Interval:
    percentile bootstrap over questions (Efron 1979). Raises ValueError where the second and third
    never agree, which leaves nothing to divide by.
    """
    pairs = np.asarray(agreements)
    if pairs.ndim != 2 or pairs.shape[1:] != (3,) or not len(pairs):
        raise ValueError(f"agreements must have shape (n, 3) with n >= 1, not {pairs.shape}")
    if not np.all((pairs == 0) | (pairs == 1)):
        raise ValueError("agreements must be 0 or 1")
    if not pairs[:, 2].any():
        raise ValueError("the second and third rater never agree: the first cannot be judged")
    patterns, counts = np.unique(pairs, axis=0, return_counts=True)
    n = len(pairs)
    return _bootstrap(lambda weights: _triplets(weights @ patterns / n), counts, confidence, seed)


def _triplets(shares: Floats) -> Floats:
    """(B, 3) shares of questions with agreement -> (B,) accuracies of the first rater."""
    ratios: Floats = shares[:, 0] * shares[:, 1] / np.maximum(shares[:, 2], 1e-9)
    return np.sqrt(ratios)


def dawid_skene(answers: ArrayLike, confidence: float = CONFIDENCE, seed: int = 0) -> Interval:
    """Upper bound of the first rater's accuracy, from the answers of three raters or more.

    `answers` (n, raters): within a question equal numbers are equivalent answers, -1 abstains. One
    accuracy per rater, wrong answers spread evenly over `WRONG_ANSWERS`, fitted by expectation
    maximization (Dawid and Skene 1979, Applied Statistics 28, in its one-coin form); the truth may
    be an answer that nobody gave. Interval: percentile bootstrap over questions. Raises ValueError
    with fewer than three raters, who cannot tell a good one from a bad one.
    """
    table = np.asarray(answers, dtype=np.int64)
    if table.ndim != 2 or table.shape[1] < 3 or not len(table):
        raise ValueError(f"answers must have shape (n, raters >= 3) with n >= 1, not {table.shape}")
    if np.all(table[:, 0] < 0):
        raise ValueError("the first rater abstains everywhere: there is no label to judge")
    present = table >= 0
    # The place of the first rater who gave the same answer names it, so few patterns remain.
    same = (table[:, :, None] == table[:, None, :]) & present[:, :, None] & present[:, None, :]
    names = np.where(present, same.argmax(axis=2), -1)
    patterns, counts = np.unique(names, axis=0, return_counts=True)
    return _bootstrap(lambda weights: _one_coin(patterns, weights), counts, confidence, seed)


def _one_coin(patterns: NDArray[np.int64], weights: Floats) -> Floats:
    """Accuracy of the first rater, (B,), from P patterns with (B, P) weights."""
    raters = patterns.shape[1]
    present = patterns >= 0
    # Candidate r is the answer that rater r was the first to give.
    candidates = patterns == np.arange(raters)
    agrees = (patterns[:, None, :] == np.arange(raters)[None, :, None]) & candidates[:, :, None]
    unseen = np.log(np.maximum(1, WRONG_ANSWERS + 1 - candidates.sum(axis=1)))
    accuracy = np.full((len(weights), raters), 0.7)
    for _ in range(STEPS):
        right, wrong = np.log(accuracy), np.log((1 - accuracy) / WRONG_ANSWERS)
        nobody = wrong @ present.T
        gain = np.einsum("bj,prj->bpr", right - wrong, agrees.astype(np.float64))
        scores = np.where(candidates, nobody[:, :, None] + gain, -np.inf)
        scores = np.concatenate([scores, (nobody + unseen)[:, :, None]], axis=2)
        scores = np.exp(scores - scores.max(axis=2, keepdims=True))
        posterior = (scores / scores.sum(axis=2, keepdims=True))[:, :, :-1]
        hits = np.einsum("bp,bpr,prj->bj", weights, posterior, agrees.astype(np.float64))
        updated = (hits + 1) / (weights @ present + 2)
        moved = float(np.abs(updated - accuracy).max())
        accuracy = updated
        if moved < TOLERANCE:
            break
    return accuracy[:, 0]


def _bootstrap(
    statistic: Callable[[Floats], Floats],
    counts: NDArray[np.int64],
    confidence: float,
    seed: int,
) -> Interval:
    """Percentile interval of a statistic of weighted patterns; it maps (B, P) weights to (B,)."""
    total = int(counts.sum())
    weights = np.random.default_rng(seed).multinomial(total, counts / total, REPLICATES)
    estimate = min(1.0, float(statistic(counts[None, :].astype(np.float64))[0]))
    drawn = np.minimum(1.0, statistic(weights.astype(np.float64)))
    tail = (1 - confidence) / 2
    lower, upper = (float(bound) for bound in np.quantile(drawn, [tail, 1 - tail]))
    return Interval(estimate, min(lower, estimate), max(upper, estimate))
