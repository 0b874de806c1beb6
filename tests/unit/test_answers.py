"""Extraction and the vote; ours has none of the defects of the public R-Zero code."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rzero_core import answers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"so \boxed{42}.", "42"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{7} and later \boxed{}", "7"),
        (r"\boxed {5}", "5"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\text{if \boxed{3}}}", "3"),
        (r"\boxed{12} unfinished \boxed{34", "12"),
        ("no box here", None),
        (r"\boxed{}", None),
        (r"\boxed{  }", None),
        (r"\boxed{unclosed", None),
        ("", None),
    ],
)
def test_the_answer_is_the_last_box_with_content(text: str, expected: str | None) -> None:
    assert answers.extract(text) == expected


def test_an_answer_is_extracted_whole_and_not_its_last_character() -> None:
    assert answers.extract(r"The sum is \boxed{1234}") == "1234"


def test_an_answer_that_is_too_long_or_too_deep_is_none() -> None:
    assert answers.extract("\\boxed{" + "1" * 256 + "}") == "1" * 256
    assert answers.extract("\\boxed{" + "1" * 257 + "}") is None
    assert answers.extract("\\boxed{" + "{" * 9 + "1" + "}" * 9 + "}") is None


@pytest.mark.parametrize(
    "text",
    ["\\boxed{" * 40_000, "\\boxed" * 40_000, "{" * 200_000, "\\boxed{" + "{}" * 100_000,
     "\\boxed{" * 20_000 + "1" + "}" * 20_000],
)  # fmt: skip
def test_extraction_is_linear_on_hostile_text(text: str) -> None:
    # Processor time: a busy machine takes longer, for the same work.
    start = time.process_time()
    answers.extract(text)
    assert time.process_time() - start < 1.0


def test_a_text_without_a_box_abstains_and_never_votes_as_a_bloc() -> None:
    vote = answers.vote([None] * 6 + ["7", "7", "8", "7"])
    assert (vote.label, vote.agreement, vote.abstained) == ("7", 0.3, 6)
    assert vote.counts == {"7": 3, "8": 1}


def test_the_word_none_is_an_answer_and_no_abstention() -> None:
    assert answers.vote(["None", None, None]).counts == {"None": 1}


def test_when_all_abstain_there_is_no_label() -> None:
    vote = answers.vote([None, None])
    assert (vote.label, vote.agreement, vote.counts, vote.abstained) == (None, 0.0, {}, 2)
    assert answers.vote([]).agreement == 0.0


def test_a_tie_gives_no_label() -> None:
    vote = answers.vote(["1", "2", "1", "2", None])
    assert vote.label is None
    assert vote.agreement == 0.4


def test_answers_that_contain_no_are_not_merged() -> None:
    vote = answers.vote(["no solution", "no triangle", "no idea", "no triangle"])
    assert vote.label == "no triangle"
    assert vote.counts == {"no triangle": 2, "no idea": 1, "no solution": 1}


def test_spellings_of_one_number_vote_together_and_the_commonest_is_the_label() -> None:
    vote = answers.vote(["0.5", r"\frac{1}{2}", r"\frac{1}{2}", "50%", "1/2", "2"])
    assert (vote.label, vote.agreement) == (r"\frac{1}{2}", 5 / 6)


def test_a_class_held_together_by_a_third_answer_is_marked_ambiguous() -> None:
    vote = answers.vote(["x=5", "5", "y=5"])
    assert vote.ambiguous
    assert vote.agreement == 1.0
    assert not answers.vote(["x=5", "5", "5.0"]).ambiguous


SPELLINGS = st.sampled_from(
    ["1", "1.0", "2/2", "x=1", "y=1", "1 cm", "1 m", "100 cm", "100", "50%", "0.5", r"\frac12",
     "A", "(A)", "(1,2)", "(2,1)", "1, 2", "2, 1", r"\{1,2\}", "no", "no solution", "yes", None]
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(SPELLINGS, max_size=10), st.randoms(use_true_random=False))
def test_the_vote_does_not_depend_on_the_order(votes: list[str | None], rng: object) -> None:
    shuffled = list(votes)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    assert answers.vote(votes) == answers.vote(shuffled)


@settings(max_examples=100, deadline=None)
@given(st.lists(SPELLINGS, max_size=10))
def test_every_vote_is_counted_once(votes: list[str | None]) -> None:
    vote = answers.vote(votes)
    assert sum(vote.counts.values()) + vote.abstained == len(votes)
    assert vote.agreement == (max(vote.counts.values(), default=0) / len(votes) if votes else 0.0)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40))
def test_any_text_has_a_key_and_equals_itself(text: str) -> None:
    hash(answers.canonical(text))
    assert answers.equivalent(text, text)


def test_many_questions_are_voted_as_one_by_one() -> None:
    questions: list[list[str | None]] = [
        ["1", "1.0", "2"],
        [None],
        ["a", "b"],
        [r"\sqrt{8}", r"2\sqrt{2}", "3"],
    ]
    assert answers.vote_all(questions) == [answers.vote(question) for question in questions]


def test_an_abstention_is_never_right() -> None:
    assert answers.grade_all([(None, None), (None, "1"), ("1", "1.0")]) == [False, False, True]
