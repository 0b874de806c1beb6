"""Votes and tasks for tests of audits."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from oracle_server import Answer, oracle_server
from stage_makers import base, store

from rzero_core.records import (
    LabeledQuestion,
    Question,
    Verdict,
    VotedProbe,
    VotedQuestion,
    read_jsonl,
)
from rzero_core.run import Auditor, AuditorType, LabelAccuracy, Labels, Oracle, Questions, Stage
from rzero_core.task import (
    BuildCurriculumTask,
    LabelAudit,
    LabelQuestionsTask,
    StageResult,
    shard_prefix,
    stage_prefix,
)
from rzero_stages import audit_oracle, build_curriculum
from rzero_stages.audit_oracle import Outcome
from rzero_stages.published import Rows, once


def spiders(count: int) -> str:
    """A question that nobody here can compute."""
    return f"How many legs have {count} spiders?"


def voted(text: str, label: str | None, agreement: float = 0.5, **fields: Any) -> VotedQuestion:
    return VotedQuestion(
        **{"answers": [label]} | fields,
        id=Question.of(text).id,
        text=text,
        label=label,
        agreement=agreement,
    )


def probe(text: str, answer: str, label: str | None, agreement: float = 0.5) -> VotedProbe:
    return VotedProbe(**dict(voted(text, label, agreement)), answer=answer)


def spider_pool(count: int, is_right: Callable[[int], bool]) -> list[VotedQuestion]:
    """Questions with right and wrong labels, over five levels of agreement."""
    return [
        voted(spiders(n), str(8 * n if is_right(n) else 8 * n + 1), 0.3 + 0.1 * (n % 5))
        for n in range(1, count + 1)
    ]


def oracle(endpoint: str, size: int = 300, **fields: Any) -> LabelAccuracy:
    settings = {"requests_per_minute": 1_000_000, "timeout_seconds": 5, "max_tokens": 64} | fields
    solver = Oracle(endpoint=endpoint, model="big-model", **settings)
    return LabelAccuracy(auditor=Auditor(type=AuditorType.ORACLE, oracle=solver), sample_size=size)


def auditing(kind: AuditorType) -> LabelAccuracy:
    return LabelAccuracy(auditor=Auditor(type=kind))


def task(
    root: Path, label_accuracy: LabelAccuracy, iteration: int = 1, **changes: Any
) -> BuildCurriculumTask:
    fields = base(root, Stage.BUILD_CURRICULUM)
    run = fields["run"]
    votes = stage_prefix(str(root), run, iteration, Stage.LABEL_QUESTIONS)
    fields |= {
        "iteration": iteration,
        "prefix": stage_prefix(str(root), run, iteration, Stage.BUILD_CURRICULUM),
        "votes": [shard_prefix(votes, 0)],
        "questions": Questions(near_duplicate=1.0),
        "labels": Labels(votes=10, min_agreement=0.3, max_agreement=0.7),
        "minimum": 1,
        "last_round": True,
        "label_accuracy": label_accuracy,
    }
    return BuildCurriculumTask(**fields | changes)


def publish_votes(
    root: Path,
    pool: Sequence[VotedQuestion],
    probes: Sequence[VotedProbe] = (),
    iteration: int = 1,
) -> None:
    """Votes as one shard of LabelQuestions leaves them."""
    fields = base(root, Stage.LABEL_QUESTIONS)
    fields |= {
        "iteration": iteration,
        "prefix": stage_prefix(str(root), fields["run"], iteration, Stage.LABEL_QUESTIONS),
    }
    label = LabelQuestionsTask(**fields, solver="", pool=[], labels=Labels())
    beside = {"probes.jsonl": probes} if probes else {}
    once(label, store(root), 0, lambda: Rows("votes", pool, {}, beside=beside))


def audit(
    root: Path,
    pool: Sequence[VotedQuestion],
    label_accuracy: LabelAccuracy,
    probes: Sequence[VotedProbe] = (),
    iteration: int = 1,
    **changes: Any,
) -> StageResult:
    """Publish the votes and build the curriculum from them."""
    publish_votes(root, pool, probes, iteration)
    return build_curriculum.run(task(root, label_accuracy, iteration, **changes), store(root))


def verdicts(result: StageResult) -> list[Verdict]:
    """What the auditor made of each label that it looked at."""
    return list(read_jsonl(Path(result.outputs["curriculum"]) / "audit.jsonl", Verdict))


def found(result: StageResult) -> LabelAudit:
    """What the stage reports of its labels."""
    assert result.label_audit is not None
    return result.label_audit


def judge(root: Path, answer: Answer, count: int = 40, **fields: Any) -> tuple[Outcome, int]:
    """What the oracle makes of a curriculum of right labels, without long pauses; and the calls."""
    with oracle_server(answer) as (url, requests):
        return judge_at(root, url, count, **fields), len(requests)


def judge_at(root: Path, url: str, count: int = 40, **fields: Any) -> Outcome:
    wanted = oracle(url, **fields)
    assert wanted.auditor.oracle is not None
    curriculum = [
        LabeledQuestion(id=row.id, text=row.text, label=str(row.label), agreement=row.agreement)
        for row in spider_pool(count, lambda _: True)
    ]
    given = task(root, wanted), store(root), wanted.auditor.oracle
    return audit_oracle.judge(*given, curriculum, [], first_pause=0.01)
