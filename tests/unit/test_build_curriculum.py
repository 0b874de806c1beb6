"""The curriculum: the band of agreement, every dropped question counted by its reason."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from stage_makers import base, rows, store

from rzero_core.records import LabeledQuestion, Question, VotedQuestion
from rzero_core.run import Labels, Questions, Stage
from rzero_core.task import (
    BadData,
    BuildCurriculumTask,
    LabelQuestionsTask,
    StageResult,
    shard_prefix,
)
from rzero_stages import build_curriculum
from rzero_stages.build_curriculum import Drop
from rzero_stages.published import Rows, once


def voted(text: str, agreement: float = 0.5, label: str | None = "1") -> VotedQuestion:
    return VotedQuestion(
        id=Question.of(text).id, text=text, answers=[label], label=label, agreement=agreement
    )


def build(
    root: Path, *shards: list[VotedQuestion], near: float = 1.0, **changes: Any
) -> StageResult:
    task = LabelQuestionsTask(
        **base(root, Stage.LABEL_QUESTIONS), solver="", pool=[], labels=Labels()
    )
    for shard, questions in enumerate(shards):
        once(task, store(root), shard, lambda made=questions: Rows("votes", made, {}))
    fields: dict[str, Any] = {
        **base(root, Stage.BUILD_CURRICULUM),
        "votes": [shard_prefix(task.prefix, shard) for shard in range(len(shards))],
        "questions": Questions(near_duplicate=near),
        "labels": Labels(min_agreement=0.3, max_agreement=0.7),
        "minimum": 1,
        "last_round": True,
    }
    return build_curriculum.run(BuildCurriculumTask(**fields | changes), store(root))


MIXED = [
    voted("a", 0.3),
    voted("b", 0.7),
    voted("c", 0.29),
    voted("d", 0.71),
    voted("e", 0.5, label=None),
    voted("f", 0.0, label=None),
    voted("a", 0.5),
]


def test_the_band_includes_its_edges_and_all_else_is_counted(tmp_path: Path) -> None:
    result = build(tmp_path, MIXED)
    assert [row.text for row in rows(result, "curriculum", LabeledQuestion)] == ["a", "b"]
    expected = {"kept": 2, "tooHard": 1, "tooEasy": 1, "ties": 1, "unlabelled": 1, "duplicates": 1}
    assert {name: result.metrics[name] for name in expected} == expected
    dropped = sum(result.metrics[reason] for reason in Drop)
    assert result.metrics["kept"] + dropped == result.metrics["questions"] == len(MIXED)


def test_shards_and_rounds_are_merged_in_their_order(tmp_path: Path) -> None:
    result = build(tmp_path, [voted("b"), voted("a")], [], [voted("c"), voted("b")])
    assert [row.text for row in rows(result, "curriculum", LabeledQuestion)] == ["b", "a", "c"]


def test_a_repeated_question_gets_no_second_draw_for_the_band(tmp_path: Path) -> None:
    result = build(tmp_path, [voted("a", 0.9), voted("b")], [voted("a", 0.5)])
    assert [row.text for row in rows(result, "curriculum", LabeledQuestion)] == ["b"]


def test_the_later_of_two_near_duplicates_is_dropped(tmp_path: Path) -> None:
    first = (
        "Find the sum of all primes p below 30 such that p plus 2 is prime as well, and prove it."
    )
    almost = first.replace("30", "40")
    other = "How many ways are there to tile a board of 2 by 10 squares with dominoes?"
    result = build(tmp_path, [voted(first), voted(other)], [voted(almost)], near=0.8)
    kept = rows(result, "curriculum", LabeledQuestion)
    assert [row.text for row in kept] == [first, other]
    assert result.metrics["nearDuplicates"] == 1


def test_a_threshold_of_one_drops_exact_duplicates_only(tmp_path: Path) -> None:
    # Equal to BLEU, which takes white space as one, and yet two texts.
    result = build(tmp_path, [voted("1 + 1 is what now"), voted("1 +  1 is what now")])
    assert (result.metrics["kept"], result.metrics["nearDuplicates"]) == (2, 0)


def test_the_histogram_counts_every_distinct_question(tmp_path: Path) -> None:
    metrics = build(tmp_path, MIXED).metrics
    tenths = [metrics[f"agreement{tenth:02d}"] for tenth in range(11)]
    assert tenths == [1, 0, 0, 2, 0, 1, 0, 2, 0, 0, 0]
    assert metrics["agreementSum"] == pytest.approx(2.5)


def test_the_counts_are_in_one_order_before_what_the_audit_adds(tmp_path: Path) -> None:
    names = list(build(tmp_path, MIXED, last_round=False, minimum=3).metrics)
    tenths = [f"agreement{tenth:02d}" for tenth in range(11)]
    expected = ["questions", "kept", *map(str, Drop), "short", "agreementSum", *tenths]
    assert names[: len(expected)] == expected


def test_too_few_before_the_last_round_is_published_as_short(tmp_path: Path) -> None:
    result = build(tmp_path, MIXED, minimum=32, last_round=False)
    assert result.metrics["short"] == 1.0
    assert len(rows(result, "curriculum", LabeledQuestion)) == 2


def test_enough_is_not_short(tmp_path: Path) -> None:
    assert build(tmp_path, MIXED, minimum=2).metrics["short"] == 0.0


def test_too_few_in_the_last_round_is_one_line_with_counts_and_remedies(tmp_path: Path) -> None:
    with pytest.raises(BadData) as error:
        build(tmp_path, MIXED, minimum=32)
    message = str(error.value)
    assert error.value.exit_code == 65 and "\n" not in message
    assert "2 questions, fewer than one Solver batch of 32" in message
    assert "1 tooHard" in message and "1 tooEasy" in message
    for remedy in ("questions.topUps", "labels.minAgreement", "solver.batchSize"):
        assert remedy in message


def test_a_challenger_without_valid_questions_is_named_as_the_cause(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="Challenger wrote no valid question"):
        build(tmp_path, [], [])


def test_a_solver_that_never_boxes_an_answer_is_named_as_the_cause(tmp_path: Path) -> None:
    silent = [voted(text, 0.0, label=None) for text in "abc"]
    with pytest.raises(BadData, match=r"to 3 of 3 questions the Solver boxed no answer; raise .*"):
        build(tmp_path, silent)


def test_the_same_votes_give_the_same_file(tmp_path: Path) -> None:
    files = []
    for name in ("one", "two"):
        result = build(tmp_path / name, MIXED)
        files.append((Path(result.outputs["curriculum"]) / "curriculum.jsonl").read_bytes())
    assert files[0] == files[1]


def test_the_largest_counts_fit_a_termination_message(tmp_path: Path) -> None:
    result = build(tmp_path, MIXED)
    grown = result.model_copy(update={"metrics": dict.fromkeys(result.metrics, 9999999.123456)})
    assert len(grown.to_json().encode()) < 2500


def test_the_curriculum_is_built_without_torch() -> None:
    code = (
        "import sys, rzero_stages.__main__, rzero_stages.build_curriculum, rzero_core.bleu; "
        "print(sorted({'torch', 'transformers', 'vllm', 'httpx'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
