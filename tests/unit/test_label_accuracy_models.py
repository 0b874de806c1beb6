"""Tests of label accuracy from votes: calibration, PPI++, and raters without a known answer."""

import json
import subprocess
import sys

import numpy as np
import pytest

from rzero_core import label_accuracy as la


def curriculum(seed: int, n: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Votes of 10 and whether the label is right, which grows with the votes."""
    rng = np.random.default_rng(seed)
    votes = rng.integers(3, 8, n)
    return votes, (rng.random(n) < votes / 10 + 0.15).astype(float)


def test_calibrated_probabilities_never_fall_with_votes_and_are_near_the_truth() -> None:
    votes, right = curriculum(0)
    found = la.calibrate(votes, right, most=10)
    assert np.all(np.diff(found.probability) >= 0)
    truth = np.arange(3, 8) / 10 + 0.15
    np.testing.assert_allclose(found.probability[3:8], truth, atol=0.06)


def test_a_calibration_estimates_the_pool_it_is_asked_about() -> None:
    votes, right = curriculum(1)
    counts = np.zeros(11)
    counts[7] = 500
    found = la.calibrate(votes, right, most=10).estimate(counts)
    assert found.lower < 0.85 < found.upper
    assert found.lower <= found.estimate <= found.upper


def test_a_calibration_refuses_votes_and_counts_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="from 0 to 10"):
        la.calibrate([11], [1], most=10)
    with pytest.raises(ValueError, match="one length"):
        la.calibrate([1, 2], [1], most=10)
    with pytest.raises(ValueError, match="0 votes first"):
        la.calibrate([1, 2], [0, 1], most=2).estimate([0, 0, 0])


PPI_PY = """
import json, sys
import numpy as np
from ppi_py import ppi_mean_pointestimate
for line in sys.stdin:
    found = ppi_mean_pointestimate(*map(np.array, json.loads(line)))
    print(float(found[0]))
"""


def test_ppi_estimates_what_ppi_py_does() -> None:
    samples = []
    for seed in range(25):
        votes, right = curriculum(seed)
        scores = votes / 10
        samples.append((right[:300], scores[:300], scores[300:]))
    lines = [json.dumps([part.tolist() for part in sample]) for sample in samples]
    # A process of its own: it loads llvmlite, whose objects vLLM's later import stumbles over.
    peer = subprocess.run(
        [sys.executable, "-c", PPI_PY],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=True,
    )
    for sample, theirs in zip(samples, peer.stdout.split(), strict=True):
        found = la.ppi(*sample)
        assert found.estimate == pytest.approx(float(theirs), abs=2e-3)
        assert found.lower <= found.estimate <= found.upper


def test_useful_predictions_narrow_the_interval_and_useless_ones_do_not_widen_it() -> None:
    rng = np.random.default_rng(3)
    scores = rng.random(4000)
    right = (rng.random(4000) < scores).astype(float)
    plain = la.wilson(right[:300].sum(), 300)
    assert la.ppi(right[:300], scores[:300], scores[300:]).width < 0.87 * plain.width
    noise = rng.random(4000)
    assert la.ppi(right[:300], noise[:300], noise[300:]).width < 1.01 * plain.width


def test_a_target_that_holds_the_sample_is_known_better() -> None:
    votes, right = curriculum(4, 600)
    scores = votes / 10
    wide = la.ppi(right[:300], scores[:300], scores[300:])
    narrow = la.ppi(right[:300], scores[:300], scores[300:], finite=True)
    assert narrow.estimate == pytest.approx(wide.estimate)
    assert narrow.width < wide.width


def test_few_checks_use_no_predictions() -> None:
    votes, right = curriculum(5)
    found = la.ppi(right[:99], votes[:99] / 10, votes[99:] / 10)
    assert found == la.wilson(right[:99].sum(), 99)


def test_without_others_or_with_constant_predictions_ppi_is_wilson() -> None:
    _, right = curriculum(6, 200)
    assert la.ppi(right, right, []) == la.wilson(right.sum(), 200)
    flat = np.full(200, 0.5)
    assert la.ppi(right, flat, flat) == la.wilson(right.sum(), 200)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_ppi_of_only_right_or_only_wrong_labels_keeps_doubt(value: float) -> None:
    scores = np.random.default_rng(7).random(1200)
    found = la.ppi(np.full(200, value), scores[:200], scores[200:])
    assert 0.005 < found.width < 0.05
    assert found.lower <= value <= found.upper


def test_ppi_refuses_what_is_no_probability_or_no_verdict() -> None:
    ok = [0.5] * 3
    with pytest.raises(ValueError, match="probabilities, from 0 to 1"):
        la.ppi([0, 1, 1], [0.5, 1.2, 0.1], ok)
    with pytest.raises(ValueError, match="probabilities, from 0 to 1"):
        la.ppi([0, 1, 1], ok, [float("nan")])
    with pytest.raises(ValueError, match="wrong"):
        la.ppi([0, 1, 0.5], ok, ok)
    with pytest.raises(ValueError, match="at least one"):
        la.ppi([], [], ok)
    with pytest.raises(ValueError, match="one length"):
        la.ppi([0, 1], ok, ok)


def test_cross_fitting_learns_predictions_from_the_sample_itself() -> None:
    votes, right = curriculum(8)
    found = la.ppi_cross_fit(right[:500], votes[:500], votes[500:], most=10)
    assert found.lower < 0.65 < found.upper
    assert found.width < la.wilson(right[:500].sum(), 500).width
    assert found == la.ppi_cross_fit(right[:500], votes[:500], votes[500:], most=10)
    with pytest.raises(ValueError, match="one length"):
        la.ppi_cross_fit(right[:500], votes[:400], votes[500:], most=10)


def answers(seed: int, accuracies: list[float], n: int = 3000) -> np.ndarray:
    """(n, raters): 0 is right, wrong answers hardly ever collide."""
    rng = np.random.default_rng(seed)
    right = rng.random((n, len(accuracies))) < accuracies
    return np.where(right, 0, rng.integers(1, 10_000, right.shape))


def agreements(table: np.ndarray) -> np.ndarray:
    pairs = ((0, 1), (0, 2), (1, 2))
    return np.stack([table[:, a] == table[:, b] for a, b in pairs], axis=1)


def test_independent_raters_reveal_the_accuracy_of_the_first() -> None:
    table = answers(0, [0.7, 0.6, 0.8, 0.5])
    for found in (la.triplet(agreements(table)), la.dawid_skene(table)):
        assert found.lower < 0.7 < found.upper
        assert found.width < 0.08


def test_raters_that_err_together_give_an_upper_bound() -> None:
    table = answers(1, [0.6, 0.6, 0.6, 0.6])
    # Nine in ten wrong answers of the first are shared by all: they come from one base model.
    shared = (table[:, 0] != 0) & (np.arange(len(table)) % 10 > 0)
    table[shared] = 1
    assert la.triplet(agreements(table)).lower > 0.6
    assert la.dawid_skene(table).lower > 0.6


def test_a_rater_may_abstain() -> None:
    table = answers(2, [0.7, 0.6, 0.8, 0.5])
    table[::3, 1] = -1
    table[1::3, 3] = -1
    found = la.dawid_skene(table)
    assert found.lower < 0.7 < found.upper


def test_raters_who_never_agree_or_are_too_few_are_refused() -> None:
    with pytest.raises(ValueError, match="never agree"):
        la.triplet([[1, 1, 0], [0, 1, 0]])
    with pytest.raises(ValueError, match="shape"):
        la.triplet(np.ones((4, 2)))
    with pytest.raises(ValueError, match="0 or 1"):
        la.triplet([[2, 1, 1]])
    with pytest.raises(ValueError, match="raters >= 3"):
        la.dawid_skene(np.zeros((5, 2)))
    with pytest.raises(ValueError, match="abstains everywhere"):
        la.dawid_skene([[-1, 0, 0]])


def test_the_same_seed_gives_the_same_bounds() -> None:
    table = answers(3, [0.7, 0.6, 0.8])
    assert la.dawid_skene(table, seed=1) == la.dawid_skene(table, seed=1)
    assert la.triplet(agreements(table), seed=1) == la.triplet(agreements(table), seed=1)
