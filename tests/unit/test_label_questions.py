"""Votes on a shard: all kept, abstentions in the denominator, and none drawn that cannot matter."""

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_models
from hypothesis import given
from hypothesis import strategies as st
from stage_makers import Scripted, base, rows, store

from rzero_core import answers
from rzero_core.records import VotedQuestion
from rzero_core.run import Labels, Questions, Sampling, Stage
from rzero_core.task import (
    BadData,
    BadTask,
    GenerateQuestionsTask,
    LabelQuestionsTask,
    StageResult,
    shard_prefix,
)
from rzero_stages import build_curriculum, generate_questions, label_questions
from rzero_stages.label_questions import first_votes, is_decided

BAND = Labels(votes=10, min_agreement=0.3, max_agreement=0.7, sampling=Sampling(max_tokens=8))


def label(
    root: Path, questions: list[str], text: Callable[[str, int], str], labels: Labels = BAND
) -> tuple[StageResult, Scripted]:
    """Votes on a pool of one shard with these questions."""
    generate = GenerateQuestionsTask(
        **base(root, Stage.GENERATE_QUESTIONS),
        challenger="unused",
        questions=Questions(count=max(1, len(questions)), shards=1),
    )
    writer = Scripted(lambda _, i: f"<question>{questions[i]}</question>" if questions else "")
    generate_questions.run(generate, store(root), 0, writer)
    voter = Scripted(text)
    return label_questions.run(task(root, labels), store(root), 0, voter), voter


def task(root: Path, labels: Labels = BAND) -> LabelQuestionsTask:
    pool = shard_prefix(base(root, Stage.GENERATE_QUESTIONS)["prefix"], 0)
    return LabelQuestionsTask(
        **base(root, Stage.LABEL_QUESTIONS), solver=str(root / "solver"), pool=[pool], labels=labels
    )


def test_every_vote_is_kept_and_the_majority_is_the_label(tmp_path: Path) -> None:
    result, _ = label(tmp_path, ["1+1"], lambda _, i: "\\boxed{2}" if i < 6 else "\\boxed{3}")
    (row,) = rows(result, "votes", VotedQuestion)
    assert row.answers == ["2"] * 6 + ["3"] * 4
    assert (row.label, row.agreement, row.decided_early) == ("2", 0.6, False)


def test_abstentions_count_in_the_denominator_and_never_agree(tmp_path: Path) -> None:
    result, _ = label(tmp_path, ["1+1"], lambda _, i: "\\boxed{2}" if i < 4 else "no box")
    (row,) = rows(result, "votes", VotedQuestion)
    assert (row.label, row.agreement) == ("2", 0.4)
    assert result.metrics["abstained"] == 6


def test_a_tie_has_no_label(tmp_path: Path) -> None:
    result, _ = label(tmp_path, ["1+1"], lambda _, i: f"\\boxed{{{i % 2}}}")
    (row,) = rows(result, "votes", VotedQuestion)
    assert (row.label, row.agreement, result.metrics["ties"]) == (None, 0.5, 1)


def test_a_unanimous_question_gets_no_vote_that_cannot_change_its_fate(tmp_path: Path) -> None:
    def text(question: str, place: int) -> str:
        return "\\boxed{7}" if question == "easy" or place < 5 else "\\boxed{8}"

    result, voter = label(tmp_path, ["easy", "hard"], text)
    easy, hard = rows(result, "votes", VotedQuestion)
    assert (len(easy.answers), easy.decided_early, easy.agreement) == (8, True, 1.0)
    assert (len(hard.answers), hard.decided_early) == (10, False)
    assert voter.asked == [(2, 8), (1, 2)]
    assert len(set(voter.seeds)) == 2
    assert result.metrics["votes"] == 18 and result.metrics["decidedEarly"] == 1


@pytest.mark.parametrize(
    ("votes", "low", "high", "expected"),
    [
        (10, 0.3, 0.7, 8),
        (10, 0.25, 0.75, 8),
        (9, 0.3, 0.8, 7),
        (10, 0.0, 1.0, 10),
        (1, 0.2, 0.8, 1),
    ],
)
def test_the_first_votes_are_the_fewest_that_can_decide(
    votes: int, low: float, high: float, expected: int
) -> None:
    assert first_votes(Labels(votes=votes, min_agreement=low, max_agreement=high)) == expected


@given(
    st.lists(st.sampled_from(["1", "2", "3", None]), min_size=10, max_size=10),
    st.integers(1, 10),
    st.floats(0, 0.49),
    st.floats(0.5, 1),
)
def test_a_decided_question_is_never_one_that_the_remaining_votes_would_keep(
    cast: list[str | None], first: int, low: float, high: float
) -> None:
    labels = Labels(votes=10, min_agreement=low, max_agreement=high)
    early, whole = answers.vote_all([cast[:first], cast])
    if is_decided(early, labels):
        assert not low <= whole.agreement <= high
        assert not low <= early.agreement <= high


def test_a_model_that_never_boxes_an_answer_labels_nothing(tmp_path: Path) -> None:
    result, voter = label(tmp_path, ["1+1", "2+2"], lambda _, i: "It is obviously two.")
    assert [row.label for row in rows(result, "votes", VotedQuestion)] == [None, None]
    assert result.metrics["unlabelled"] == 2
    assert result.metrics["abstained"] == result.metrics["votes"] == 16
    assert voter.asked == [(2, 8)]


def test_hostile_answers_are_votes_like_any_other(tmp_path: Path) -> None:
    hostile = ["\\boxed{9^{9^{9^9}}}", "\\boxed{" * 5000, "\\boxed{__import__('os')}", "}" * 9999]
    result, _ = label(tmp_path, ["1+1"], lambda _, i: hostile[i % 4])
    (row,) = rows(result, "votes", VotedQuestion)
    assert len(row.answers) == 10 and row.agreement <= 0.5


def test_a_shard_without_questions_has_no_votes_and_needs_no_model(tmp_path: Path) -> None:
    label(tmp_path, [], lambda _, i: "")
    result = label_questions.run(task(tmp_path), store(tmp_path), 0)
    assert rows(result, "votes", VotedQuestion) == []
    assert result.metrics["questions"] == result.metrics["tokens"] == 0


def test_a_question_longer_than_the_context_is_left_unanswered(tmp_path: Path) -> None:
    generate = Scripted(lambda _, i: f"<question>{'9' * (400 if i else 3)}</question>")
    pool = GenerateQuestionsTask(
        **base(tmp_path, Stage.GENERATE_QUESTIONS),
        challenger="unused",
        questions=Questions(count=2, shards=1),
    )
    generate_questions.run(pool, store(tmp_path), 0, generate)
    tiny_models.save(tmp_path / "solver", context=128)
    result = label_questions.run(task(tmp_path), store(tmp_path), 0)
    long = rows(result, "votes", VotedQuestion)[1]
    assert set(long.answers) == {None}
    assert result.metrics["truncated"] >= len(long.answers)


def test_a_damaged_pool_names_the_file_and_the_line(tmp_path: Path) -> None:
    label(tmp_path, ["1+1"], lambda _, i: "")
    pool = Path(task(tmp_path).pool[0])
    (pool / "questions.jsonl").write_text("{}\n")
    again = task(tmp_path).model_copy(update={"prefix": str(tmp_path / "elsewhere")})
    with pytest.raises(BadData, match=r"questions\.jsonl"):
        label_questions.run(again, store(tmp_path), 0)


def test_a_shard_number_beyond_the_pool_is_a_bad_task(tmp_path: Path) -> None:
    with pytest.raises(BadTask, match="shard 1"):
        label_questions.run(task(tmp_path), store(tmp_path), 1)


def test_label_and_curriculum_agree_on_the_edges_of_the_band() -> None:
    for count in range(11):
        vote = answers.vote(["1"] * count + [None] * (10 - count))
        row = VotedQuestion(
            id="x", text="x", answers=[], label=vote.label, agreement=vote.agreement
        )
        outside = build_curriculum.outcome(row, BAND) is not None
        assert is_decided(vote, BAND) is outside
