"""Probes are voted on as any question, watch the votes, and never reach the curriculum."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from audit_makers import audit, auditing, probe, spiders, voted
from stage_makers import Scripted, base, rows, store

from rzero_core.records import JudgedProbe, LabeledQuestion, VotedProbe, VotedQuestion, read_jsonl
from rzero_core.run import AuditorType, Labels, Probes, Questions, Sampling, Stage
from rzero_core.task import (
    BadData,
    GenerateQuestionsTask,
    LabelQuestionsTask,
    StageResult,
    shard_prefix,
)
from rzero_stages import generate_questions, label_questions
from rzero_stages.build_curriculum import Drop

BAND = Labels(votes=10, min_agreement=0.3, max_agreement=0.7, sampling=Sampling(max_tokens=8))
NOBODY = auditing(AuditorType.NONE)


def probes_file(root: Path, count: int) -> Probes:
    root.mkdir(parents=True, exist_ok=True)
    lines = [{"question": f"probe {n}", "answer": str(n)} for n in range(count)]
    (root / "probes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Probes(uri=str(root / "probes.jsonl"), count=300)


def label(
    root: Path, text: Callable[[str, int], str], probes: Probes | None, shards: int = 1
) -> tuple[list[StageResult], Scripted]:
    """Votes on a pool of eight questions in each shard, with or without probes among them."""
    generate = GenerateQuestionsTask(
        **base(root, Stage.GENERATE_QUESTIONS),
        challenger="unused",
        questions=Questions(count=8 * shards, shards=shards),
    )
    voter = Scripted(text)
    pool = [shard_prefix(generate.prefix, shard) for shard in range(shards)]
    fields = base(root, Stage.LABEL_QUESTIONS)
    task = LabelQuestionsTask(**fields, solver="", pool=pool, labels=BAND, probes=probes)
    results = []
    for shard in range(shards):
        # The writer is asked for all questions of a shard by one and the same prompt.
        writer = Scripted(
            lambda _, i, shard=shard: f"<question>pool {shard}-{i}</question>"  # type: ignore[misc]
        )
        generate_questions.run(generate, store(root), shard, writer)
        results.append(label_questions.run(task, store(root), shard, voter))
    return results, voter


def five(_: str, place: int) -> str:
    return "\\boxed{5}" if place < 5 else f"\\boxed{{{100 + place}}}"


def probe_rows(result: StageResult) -> list[VotedProbe]:
    return list(read_jsonl(Path(result.outputs["votes"]) / "probes.jsonl", VotedProbe))


class Recorder(Scripted):
    """Notes the order in which questions are put to the model."""

    def __init__(self, text: Callable[[str, int], str]) -> None:
        super().__init__(text)
        self.order: list[str] = []

    def _next(self, question: str):  # type: ignore[no-untyped-def]
        if question not in self.order:
            self.order.append(question)
        return super()._next(question)


def test_probes_are_voted_on_among_the_questions_in_one_order_for_all(tmp_path: Path) -> None:
    orders = []
    for name in ("one", "two"):
        label(tmp_path / name, five, None)
        recorder = Recorder(five)
        task = LabelQuestionsTask(
            **base(tmp_path / name, Stage.LABEL_QUESTIONS, round=2),
            solver="",
            pool=[shard_prefix(base(tmp_path / name, Stage.GENERATE_QUESTIONS)["prefix"], 0)],
            labels=BAND,
            probes=probes_file(tmp_path / name, 8),
        )
        label_questions.run(task, store(tmp_path / name), 0, recorder)
        assert recorder.asked[0][0] == 16
        orders.append(recorder.order)
    assert orders[0] == orders[1]
    kinds = [text.split()[0] for text in orders[0]]
    assert kinds.count("probe") == kinds.count("pool") == 8
    assert kinds != sorted(kinds) and kinds != sorted(kinds, reverse=True)


def test_votes_hold_the_questions_alone_and_in_their_order(tmp_path: Path) -> None:
    (plain,), _ = label(tmp_path / "plain", five, None)
    (mixed,), _ = label(tmp_path / "mixed", five, probes_file(tmp_path, 20))
    texts = [row.text for row in rows(mixed, "votes", VotedQuestion)]
    assert texts == [row.text for row in rows(plain, "votes", VotedQuestion)]
    assert texts == [f"pool 0-{i}" for i in range(8)]
    names = ("questions", "votes", "abstained", "unlabelled", "ties", "decidedEarly")
    assert {n: mixed.metrics[n] for n in names} == {n: plain.metrics[n] for n in names}
    found = probe_rows(mixed)
    assert sorted(row.text for row in found) == sorted(f"probe {n}" for n in range(20))
    assert {len(row.answers) for row in found} == {10}


def test_shards_share_the_probes_and_none_is_voted_on_twice(tmp_path: Path) -> None:
    results, _ = label(tmp_path, five, probes_file(tmp_path, 10), shards=3)
    texts = [row.text for result in results for row in probe_rows(result)]
    assert sorted(texts) == [f"probe {n}" for n in range(10)]


def test_only_the_first_probes_are_used_and_a_repeated_one_counts_once(tmp_path: Path) -> None:
    file = tmp_path / "probes.jsonl"
    file.write_text('{"question": "a", "answer": "1"}\n' * 2 + '{"question": "b", "answer": "2"}\n')
    (result,), _ = label(tmp_path, five, Probes(uri=str(file), count=1))
    assert [(row.text, row.answer) for row in probe_rows(result)] == [("a", "1")]


@pytest.mark.parametrize("text", ["", "{}\n", '{"question": "a"}\n'])
def test_a_file_of_probes_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "probes.jsonl").write_text(text)
    with pytest.raises(BadData, match=r"probes\.jsonl"):
        label(tmp_path, five, Probes(uri=str(tmp_path / "probes.jsonl")))


def test_a_probe_that_the_challenger_wrote_too_is_not_trained_on(tmp_path: Path) -> None:
    pool = [voted("What is  1 plus one?", "2"), voted("other", "3"), voted("other", "3")]
    known = [probe("what is 1 plus One?", "2", "2")]
    result = audit(tmp_path, pool, NOBODY, known)
    assert [row.text for row in rows(result, "curriculum", LabeledQuestion)] == ["other"]
    assert result.metrics["probeDuplicates"] == 1
    dropped = sum(result.metrics[reason] for reason in Drop)
    assert result.metrics["kept"] + dropped == result.metrics["questions"] == len(pool)


def test_a_probe_in_other_marks_is_still_the_probe_and_another_sum_is_not(tmp_path: Path) -> None:
    same = [
        "What is 12 + 3.5?",
        "What is 12 + 3.5",
        "what is $12 + 3.5$ ?",
        "What is\u00a012 + 3.5 .",
    ]
    other = ["What is 12 + 35?", "What is 12 - 3.5?", "What is 1 + 23.5?"]
    pool = [voted(text, "15.5") for text in same + other]
    result = audit(tmp_path, pool, NOBODY, [probe("What is $12 + 3.5$?", "15.5", "15.5")])
    kept = {row.text for row in rows(result, "curriculum", LabeledQuestion)}
    assert kept == set(other)
    assert result.metrics["probeDuplicates"] == len(same)


def outcomes(right: str) -> list[VotedProbe]:
    """Probes of which the letters say: r right, w wrong, - without a label."""
    labels = {"r": "1", "w": "2", "-": None}
    return [probe(f"probe {n}", "1", labels[letter]) for n, letter in enumerate(right)]


def test_every_outcome_is_kept_and_counted(tmp_path: Path) -> None:
    result = audit(tmp_path, [voted("a", "1")], NOBODY, outcomes("rrw-"))
    path = Path(result.outputs["curriculum"]) / "probes.jsonl"
    assert [row.right for row in read_jsonl(path, JudgedProbe)] == [True, True, False, None]
    counts = ("probes", "probesRight", "probesAbstained")
    assert [result.metrics[name] for name in counts] == [4, 2, 1]
    assert "probesPValue" not in result.metrics


def test_the_same_probes_of_two_iterations_are_compared_pair_by_pair(tmp_path: Path) -> None:
    first = audit(tmp_path, [voted("a", "1")], NOBODY, outcomes("r" * 12 + "ww"))
    second = audit(
        tmp_path,
        [voted("b", "1")],
        NOBODY,
        outcomes("w" * 8 + "-" + "r" * 5),
        iteration=2,
        previous=first.outputs["curriculum"],
    )
    assert (second.metrics["probesLost"], second.metrics["probesGained"]) == (9, 2)
    assert second.metrics["probesPValue"] == pytest.approx(2 * sum((1, 11, 55)) / 2**11, abs=1e-6)


def test_without_an_auditor_vote_shares_give_an_upper_bound_and_no_more(tmp_path: Path) -> None:
    known = [probe(f"probe {n}", "1", "1" if n % 4 else "2") for n in range(200)]
    result = audit(tmp_path, [voted(spiders(n), "8") for n in range(60)], NOBODY, known)
    report = result.label_audit
    assert report is not None and report.is_upper_bound
    assert report.method == "upper estimate by vote shares"
    assert report.estimate == pytest.approx(0.75, abs=0.02)
    # What it rests on are the probes, not the questions of the curriculum.
    assert report.sample_size == 200


def test_without_auditor_and_probes_the_challengers_answers_give_an_upper_bound(
    tmp_path: Path,
) -> None:
    pool = [
        voted(
            spiders(n),
            "8",
            answers=["8" if n % 5 else "9"],
            challenger_answer=None if n % 10 < 2 else "8" if n % 2 else "7",
        )
        for n in range(100)
    ]
    report = audit(tmp_path, pool, NOBODY).label_audit
    assert report is not None and report.is_upper_bound
    assert report.method == "upper bound by the agreement of raters"
    assert report.estimate is not None and report.estimate > 0.8
    assert report.sample_size == 80


def test_without_anything_accuracy_is_unknown(tmp_path: Path) -> None:
    report = audit(tmp_path, [voted(spiders(n), "8") for n in range(60)], NOBODY).label_audit
    assert report is not None
    assert (report.estimate, report.lower, report.upper) == (None, None, None)
    assert (report.sample_size, report.method, report.is_upper_bound) == (0, "None", False)
