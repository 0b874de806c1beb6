"""A shard of the pool: the Challenger's share, what is malformed counted, done once."""

from pathlib import Path

import pytest
import tiny_models
from stage_makers import RUN, Scripted, base, rows, store

from rzero_core.prompts import Rejection
from rzero_core.records import Question
from rzero_core.run import Questions, Sampling, Stage
from rzero_core.task import BadConfiguration, BadTask, GenerateQuestionsTask, RunRef
from rzero_stages import generate_questions
from rzero_stages.generate_questions import share


def task(root: Path, count: int = 6, shards: int = 1, run: RunRef = RUN) -> GenerateQuestionsTask:
    return GenerateQuestionsTask(
        **base(root, Stage.GENERATE_QUESTIONS, run=run),
        challenger=str(root / "challenger"),
        questions=Questions(
            count=count, shards=shards, max_characters=50, sampling=Sampling(max_tokens=8)
        ),
    )


TEXTS = [
    "Let me think. <question>What is 1+1?</question> \\boxed{2}",
    "<question>  </question>",
    "no tags at all",
    "<question>never closed",
    "<question>" + "x" * 51 + "</question>",
    "<question>What is 1+1?</question>",
]


def test_kept_and_dropped_are_all_that_was_drawn(tmp_path: Path) -> None:
    sampler = Scripted(lambda _, place: TEXTS[place])
    result = generate_questions.run(task(tmp_path), store(tmp_path), 0, sampler)
    assert rows(result, "questions", Question) == [
        Question.of("What is 1+1?", "2"),
        Question.of("What is 1+1?"),
    ]
    metrics = result.metrics
    assert metrics["valid"] + metrics["malformed"] == metrics["questions"] == 6
    assert sum(metrics[reason] for reason in Rejection) == metrics["malformed"] == 4
    assert (metrics["emptyQuestion"], metrics["noQuestionBlock"], metrics["tooLong"]) == (1, 2, 1)


@pytest.mark.parametrize(("count", "shards"), [(10, 3), (8, 8), (7, 1), (1001, 8)])
def test_the_shards_draw_the_pool_between_them(count: int, shards: int) -> None:
    shares = [share(count, shards, shard) for shard in range(shards)]
    assert sum(shares) == count
    assert max(shares) - min(shares) <= 1


def test_shards_and_rounds_draw_with_seeds_of_their_own(tmp_path: Path) -> None:
    sampler = Scripted(lambda _, place: "")
    for round in (1, 2):
        again = task(tmp_path, shards=2).model_copy(
            update=base(tmp_path, Stage.GENERATE_QUESTIONS, round)
        )
        for shard in (0, 1):
            generate_questions.run(again, store(tmp_path), shard, sampler)
    assert len(set(sampler.seeds)) == 4


def test_a_shard_that_is_done_answers_from_its_manifest(tmp_path: Path) -> None:
    sampler = Scripted(lambda _, place: TEXTS[place])
    first = generate_questions.run(task(tmp_path), store(tmp_path), 0, sampler)
    again = generate_questions.run(task(tmp_path), store(tmp_path), 0, sampler)
    assert again == first
    assert len(sampler.asked) == 1


def test_a_place_that_holds_another_run_is_refused(tmp_path: Path) -> None:
    sampler = Scripted(lambda _, place: TEXTS[place])
    generate_questions.run(task(tmp_path), store(tmp_path), 0, sampler)
    # The names of two runs are equal and so are the first eight letters of their uids.
    other = task(tmp_path, run=RunRef(name=RUN.name, uid="11111111-9999"))
    with pytest.raises(BadTask, match="another storage"):
        generate_questions.run(other, store(tmp_path), 0, sampler)


def test_a_challenger_that_writes_no_valid_question_is_counted_not_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sampler = Scripted(lambda _, place: "I would rather not.")
    result = generate_questions.run(task(tmp_path), store(tmp_path), 0, sampler)
    assert rows(result, "questions", Question) == []
    assert result.metrics["noQuestionBlock"] == 6
    assert "no valid question in shard 0" in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        "\x00\u202e\ud83d\ude00 <b>&amp;</b> </script>",
        "{question} {0} %s ${x}",
        "<question>inside <question>another",
        "\u2028 not a line end for JSON lines \x85\x0c\r",
    ],
)
def test_hostile_questions_keep_their_text(tmp_path: Path, text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    sampler = Scripted(lambda _, place: f"<question>{text}</question>")
    result = generate_questions.run(task(tmp_path, count=1), store(tmp_path), 0, sampler)
    (question,) = rows(result, "questions", Question)
    assert question.text in text and question.text.strip() == question.text != ""


def test_a_shard_number_beyond_the_shards_is_a_bad_task(tmp_path: Path) -> None:
    with pytest.raises(BadTask, match="shard 3"):
        generate_questions.run(task(tmp_path, shards=3), store(tmp_path), 3)


def test_a_real_model_writes_noise_that_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_models.save(tmp_path / "challenger", context=2048)
    result = generate_questions.run(task(tmp_path, count=20), store(tmp_path), 0)
    assert result.metrics["malformed"] == 20
    assert 20 <= result.metrics["tokens"] <= 160
    assert '"done": 20, "total": 20, "unit": "questions"' in capsys.readouterr().out


def test_a_missing_challenger_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="challenger"):
        generate_questions.run(task(tmp_path), store(tmp_path), 0)
