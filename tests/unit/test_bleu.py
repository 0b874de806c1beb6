"""Tests of the likeness of questions, against sacrebleu, nltk and scikit-learn themselves."""

import numpy as np
import pytest

from benchmarks.bleu import (
    ODD,
    largest_difference,
    questions,
    reference_score,
    sacrebleu_score,
    same_partition_as_sklearn,
)
from rzero_core import bleu
from rzero_core.run import Similarity


def test_similarities_equal_sacrebleu_on_random_pairs() -> None:
    assert largest_difference(Similarity.SACREBLEU, sacrebleu_score, pairs=10_000) < 1e-9


def test_similarities_equal_nltk_method1_on_random_pairs() -> None:
    assert largest_difference(Similarity.NLTK_METHOD1, reference_score, pairs=5_000) < 1e-9


@pytest.mark.parametrize("form", Similarity)
def test_similarities_equal_the_originals_on_every_pair_of_odd_texts(form: Similarity) -> None:
    score = sacrebleu_score if form is Similarity.SACREBLEU else reference_score
    theirs = [[score(hypothesis, reference) for reference in ODD] for hypothesis in ODD]
    np.testing.assert_allclose(bleu.similarities(ODD, form), theirs, rtol=0, atol=1e-9)


def test_repeated_tokens_count_only_as_often_as_the_reference_has_them() -> None:
    texts = ["the the the the the", "the cat the", "the"]
    theirs = [
        [sacrebleu_score(hypothesis, reference) for reference in texts] for hypothesis in texts
    ]
    np.testing.assert_allclose(bleu.similarities(texts), theirs, rtol=0, atol=1e-12)


def test_rows_are_hypotheses() -> None:
    short, long = "a b c d", "a b c d e f g h"
    scores = bleu.similarities([short, long])
    assert scores[0, 1] == pytest.approx(sacrebleu_score(short, long))
    assert scores[1, 0] == pytest.approx(sacrebleu_score(long, short))
    assert scores[0, 1] != pytest.approx(scores[1, 0])


def test_scores_do_not_depend_on_the_blocks_they_are_computed_in() -> None:
    texts = questions(1500)
    whole = bleu.similarities(texts)
    np.testing.assert_array_equal(whole[1100:1200, 1100:1200], bleu.similarities(texts[1100:1200]))


@pytest.mark.parametrize("threshold", [0.1, 0.5, 1.0])
def test_clusters_equal_those_of_scikit_learn(threshold: float) -> None:
    assert same_partition_as_sklearn(questions(400), threshold)


def test_clusters_equal_those_of_scikit_learn_across_blocks_and_with_odd_texts() -> None:
    assert same_partition_as_sklearn(questions(1100) + ODD)


def test_the_earlier_text_is_the_hypothesis_of_a_pair() -> None:
    # As hypothesis, the short text has a brevity penalty that the long one has not.
    short, long = "a b c d e", "a b c d e f g"
    forward, backward = (
        bleu.similarities([short, long])[0, 1],
        bleu.similarities([long, short])[0, 1],
    )
    between = 1 - (forward + backward) / 2
    first, second = (
        ([short, long], [long, short]) if forward > backward else ([long, short], [short, long])
    )
    assert bleu.clusters(first, between).tolist() == [0, 0]
    assert bleu.clusters(second, between).tolist() == [0, 1]


def test_a_pair_at_exactly_the_threshold_stays_apart() -> None:
    pair = ["a b c d e f", "a b c d e x"]
    distance = 1 - float(bleu.similarities(pair)[0, 1])
    assert bleu.clusters(pair, distance).tolist() == [0, 1]
    assert bleu.clusters(pair, distance + 1e-9).tolist() == [0, 0]


def test_ids_count_up_in_order_of_first_appearance() -> None:
    texts = ["one two three four", "five six seven eight", "one two three four", "nine ten"]
    assert bleu.clusters(texts).tolist() == [0, 1, 0, 2]


def test_a_small_threshold_finds_near_duplicates_only() -> None:
    question = "How many positive integers below 1000 are divisible by neither 7 nor 11 nor 13 ?"
    texts = [question, question + " ", question.replace("below", "under"), "What is $2^{10}$?"]
    assert bleu.clusters(texts, 0.1).tolist() == [0, 0, 1, 2]
    assert bleu.clusters(texts, 0.5).tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("form", Similarity)
def test_no_text_one_text_and_empty_texts_are_fine(form: Similarity) -> None:
    assert bleu.similarities([], form).shape == (0, 0)
    assert bleu.clusters([], 0.5, form).shape == (0,)
    assert bleu.clusters(["x"], 0.5, form).tolist() == [0]
    assert bleu.clusters(["", "", " "], 0.5, form).tolist() == [0, 1, 2]
    assert not bleu.similarities(["", ""], form).any()


def test_identical_texts_have_likeness_one() -> None:
    texts = questions(50)
    assert np.diagonal(bleu.similarities(texts)).tolist() == [1.0] * 50


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_that_is_no_distance_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="give a distance from 0 to 1"):
        bleu.clusters(["a", "b"], threshold)


def test_one_endless_repetition_is_answered_at_once() -> None:
    texts = ["1 " * 20_000, "(" * 20_000, "1 " * 10_000]
    assert bleu.clusters(texts).tolist() == [0, 1, 2]
