"""Turns votes and likeness into rewards: what TrainChallenger and TrainSolver learn from.

A Challenger's reward is a sum of terms, one array each, so that a further term is one more entry.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rzero_core import bleu
from rzero_core.run import RewardForm, Similarity


@dataclass(frozen=True)
class ChallengerReward:
    """The rewards of a batch of B questions, and what they are made of."""

    total: NDArray[np.float64]
    """(B,) what GRPO learns from."""
    terms: Mapping[str, NDArray[np.float64]]
    """(B,) each, signed: rewards above 0, penalties below."""
    valid: NDArray[np.bool_]
    """(B,) whether the completion held a question."""


def challenger_reward(
    questions: Sequence[str | None],
    agreements: ArrayLike,
    form: RewardForm = RewardForm.PAPER,
    *,
    repetition_weight: float = 1.0,
    repetition_threshold: float = 0.5,
    similarity: Similarity = Similarity.SACREBLEU,
) -> ChallengerReward:
    """Rewards a whole generation batch, over all ranks: the repetition penalty counts in it.

    `questions` (B,), None where the completion held none; `agreements` (B,) in [0, 1], of any value
    where there is no question. Paper (section 3.2): max(0, 1 - 2|p - 1/2| - lambda |C|/B), and 0
    for a malformed question. Reference: min(p, 1 - p) - lambda |C|/B, a malformed one 1 less.
    Raises ValueError when an agreement is not a share.
    """
    valid = np.array([question is not None for question in questions], dtype=bool)
    shares = np.where(valid, np.asarray(agreements, dtype=np.float64), 0.0)
    clusters = _repetition_clusters(questions, repetition_threshold, similarity)
    terms = {
        "uncertainty": uncertainty(shares) / (2 if form == RewardForm.REFERENCE else 1),
        "repetition": -repetition(clusters, repetition_weight),
        "format": np.where(valid, 0.0, -1.0 if form == RewardForm.REFERENCE else 0.0),
    }
    total = np.sum(list(terms.values()), axis=0)
    if form == RewardForm.PAPER:
        total = np.where(valid, np.maximum(total, 0.0), 0.0)
    return ChallengerReward(total, terms, valid)


def uncertainty(agreement: ArrayLike) -> NDArray[np.float64]:
    """1 - 2|p - 1/2|, in [0, 1] and largest where half of the votes agree (section 3.2).

    The published code's min(p, 1 - p) is half of it. Raises ValueError when p is not a share.
    """
    p = np.asarray(agreement, dtype=np.float64)
    if not np.all((p >= 0) & (p <= 1)):
        raise ValueError("agreement must be a share of votes, from 0 to 1")
    return 1.0 - 2.0 * np.abs(p - 0.5)


def repetition(cluster_ids: ArrayLike, weight: float = 1.0) -> NDArray[np.float64]:
    """The penalty lambda |C|/B of each of B questions, (B,), above 0: subtract it (section 3.2).

    `cluster_ids` (B,): questions of the same id repeat one another; C is the cluster of a question.
    """
    ids = np.asarray(cluster_ids, dtype=np.int64)
    if not len(ids):
        return np.zeros(0)
    _, inverse, sizes = np.unique(ids, return_inverse=True, return_counts=True)
    return weight * sizes[inverse] / len(ids)


def solver_reward(
    matches: ArrayLike, formatted: ArrayLike, format_weight: float = 0.0
) -> NDArray[np.float64]:
    """(1 - w) [the answer matches the label] + w [the answer has the asked form], (N,) in [0, 1].

    The paper's reward is binary, w = 0; the published code's w is 0.1.
    """
    matched = np.asarray(matches, dtype=np.float64)
    return (1 - format_weight) * matched + format_weight * np.asarray(formatted, dtype=np.float64)


def _repetition_clusters(
    questions: Sequence[str | None], threshold: float, similarity: Similarity
) -> NDArray[np.int64]:
    """Cluster ids (B,). What is no question repeats nothing: each is a cluster of its own."""
    ids = np.arange(len(questions)) + len(questions)
    places = [place for place, question in enumerate(questions) if question is not None]
    texts = [question for question in questions if question is not None]
    ids[places] = bleu.clusters(texts, threshold, similarity)
    return ids
