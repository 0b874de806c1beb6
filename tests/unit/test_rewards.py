"""Tests of the rewards, and that they have none of the defects of the published code."""

import math

import numpy as np
import pytest

from rzero_core import bleu, rewards
from rzero_core.prompts import ParsedQuestion, parse_question
from rzero_core.run import RewardForm, Similarity

DISTINCT = [
    "How many primes divide 2310?",
    "Find the area of a unit hexagon.",
    "Integrate $x^2$ from 0 to 3.",
    "A fair coin lands heads twice; what is the chance of a third?",
]
FORMS = pytest.mark.parametrize("form", RewardForm)


def read(completion: str) -> str | None:
    parsed = parse_question(completion, max_characters=4096)
    return parsed.question if isinstance(parsed, ParsedQuestion) else None


def test_uncertainty_is_largest_where_half_of_the_votes_agree() -> None:
    found = rewards.uncertainty([0.0, 0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(found, [0.0, 0.5, 1.0, 0.5, 0.0])


@pytest.mark.parametrize("agreement", [-0.1, 1.1, math.nan])
def test_an_agreement_that_is_no_share_is_refused(agreement: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        rewards.uncertainty([0.5, agreement])


def test_repetition_is_the_weighted_share_of_the_batch_in_the_cluster() -> None:
    np.testing.assert_allclose(rewards.repetition([7, 7, 7, 2]), [0.75, 0.75, 0.75, 0.25])
    np.testing.assert_allclose(rewards.repetition([7, 7, 7, 2], weight=2.0), [1.5, 1.5, 1.5, 0.5])
    assert rewards.repetition([]).shape == (0,)


def test_the_paper_form_is_clipped_at_zero() -> None:
    reward = rewards.challenger_reward(DISTINCT, [0.5, 0.75, 1.0, 0.0])
    np.testing.assert_allclose(reward.total, [1 - 0.25, 0.5 - 0.25, 0, 0])


def test_the_reference_form_may_be_negative() -> None:
    reward = rewards.challenger_reward(DISTINCT, [0.5, 0.75, 1.0, 0.0], RewardForm.REFERENCE)
    np.testing.assert_allclose(reward.total, [0.5 - 0.25, 0.25 - 0.25, -0.25, -0.25])


def test_a_malformed_question_earns_nothing_in_the_papers_form() -> None:
    reward = rewards.challenger_reward([DISTINCT[0], None], [0.5, math.nan])
    np.testing.assert_allclose(reward.total, [0.5, 0.0])


def test_a_malformed_question_earns_one_less_in_the_reference_form() -> None:
    reward = rewards.challenger_reward(
        [DISTINCT[0], None, None], [0.5, math.nan, 0.5], RewardForm.REFERENCE
    )
    # Malformed ones count in the batch but repeat nothing, each other included.
    np.testing.assert_allclose(reward.total, [0.5 - 1 / 3, -1 - 1 / 3, -1 - 1 / 3])


@FORMS
def test_repeating_a_question_costs_more_the_more_often_it_is_repeated(form: RewardForm) -> None:
    batch = [DISTINCT[0]] * 3 + DISTINCT[1:] + [None] * 4
    reward = rewards.challenger_reward(batch, [0.5] * 10, form)
    assert reward.total[0] == reward.total[2] < reward.total[3]
    np.testing.assert_allclose(reward.terms["repetition"][:4], [-0.3, -0.3, -0.3, -0.1])


def test_weight_threshold_and_similarity_reach_the_penalty() -> None:
    pair = ["What is the sum of 3 and 4 ?", "What is the sum of 5 and 4 ?"]
    distance = 1 - bleu.similarities(pair, Similarity.NLTK_METHOD1)[0, 1]
    for threshold, share in ((distance + 0.01, 1.0), (distance - 0.01, 0.5)):
        reward = rewards.challenger_reward(
            pair,
            [0.5, 0.5],
            repetition_weight=0.1,
            repetition_threshold=threshold,
            similarity=Similarity.NLTK_METHOD1,
        )
        np.testing.assert_allclose(reward.terms["repetition"], -0.1 * share)


def test_the_penalty_is_a_penalty_by_name_and_by_sign() -> None:
    reward = rewards.challenger_reward(DISTINCT, [0.5] * 4)
    assert set(reward.terms) == {"uncertainty", "repetition", "format"}
    assert (reward.terms["repetition"] < 0).all()
    assert (reward.terms["uncertainty"] >= 0).all()


@FORMS
def test_a_completion_without_question_tags_is_not_valid_whatever_it_boxes(
    form: RewardForm,
) -> None:
    completions = [
        f"<question>{DISTINCT[0]}</question> \\boxed{{5}}",
        f"{DISTINCT[0]} \\boxed{{5}}",
        f"<question>{DISTINCT[0]}",
        "None",
        "",
    ]
    questions = [read(completion) for completion in completions]
    reward = rewards.challenger_reward(questions, [0.5] * 5, form)
    assert reward.valid.tolist() == [True, False, False, False, False]
    assert (reward.total[1:] < reward.total[0]).all()


@FORMS
def test_the_challengers_own_answer_never_changes_its_reward(form: RewardForm) -> None:
    # The published code compared the majority with the last character of this answer.
    endings = ["", " \\boxed{}", " \\boxed{12}", " \\boxed{2}", " \\boxed{None}"]
    totals = {
        float(rewards.challenger_reward([read(completion)], [0.4], form).total[0])
        for completion in (f"<question>{DISTINCT[0]}</question>{ending}" for ending in endings)
    }
    assert len(totals) == 1


@FORMS
def test_a_solver_that_never_answers_earns_the_challenger_nothing(form: RewardForm) -> None:
    # Agreement counts abstentions in its denominator, so it is 0 when all abstain.
    reward = rewards.challenger_reward([DISTINCT[0]], [0.0], form)
    assert reward.total[0] <= 0


def test_an_empty_batch_has_no_rewards() -> None:
    assert rewards.challenger_reward([], []).total.shape == (0,)


def test_the_solvers_reward_is_binary_without_a_format_weight() -> None:
    assert rewards.solver_reward([True, False], [False, True]).tolist() == [1.0, 0.0]


def test_the_solvers_format_weight_is_a_share_of_the_reward() -> None:
    found = rewards.solver_reward([True, True, False, False], [True, False, True, False], 0.1)
    np.testing.assert_allclose(found, [1.0, 0.9, 0.1, 0.0])
