"""Merges the votes of all shards and rounds into the curriculum: what the Solver will learn from.

Needs no model and no accelerator. Every question that is dropped is counted by its reason. The
labels of a curriculum that is large enough are audited, so that what they are worth is part of it.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from enum import StrEnum

from rzero_core.records import LabeledQuestion, VotedQuestion, read_jsonl
from rzero_core.run import Labels
from rzero_core.store import ArtifactStore
from rzero_core.task import BadData, BuildCurriculumTask, StageResult
from rzero_stages import audit, audit_archive, audit_probes
from rzero_stages.published import Rows, once

VOTES = "votes.jsonl"

log = logging.getLogger(__name__)


class Drop(StrEnum):
    """Why a question is not in the curriculum; the values are the names of the counts."""

    DUPLICATE = "duplicates"
    """The same text came before, whatever became of it: no second draw for the band."""
    UNLABELLED = "unlabelled"
    """All votes abstained."""
    TIE = "ties"
    """Two answers share the most votes."""
    TOO_HARD = "tooHard"
    """Less agreement than `labels.minAgreement`."""
    TOO_EASY = "tooEasy"
    """More agreement than `labels.maxAgreement`."""
    NEAR_DUPLICATE = "nearDuplicates"
    """BLEU of `questions.nearDuplicate` or more with an earlier question of the curriculum."""
    PROBE = "probeDuplicates"
    """The text of a probe: what labels are measured by must not be trained on."""


def run(task: BuildCurriculumTask, store: ArtifactStore) -> StageResult:
    """Publish the questions of the band, in the order of shards and rounds.

    Fewer than `minimum`: the metric `short` is 1 and the plan adds a round, or, when no further
    round may follow, `BadData` with the counts. Metrics: `questions` = `kept` + all of `Drop`, and
    `agreement00` to `agreement10`, the distinct questions by tenths of agreement; and those of
    `audit`. Beside the curriculum lie audit.jsonl, probes.jsonl and oracle.jsonl.
    """
    return once(task, store, None, lambda: _build(task, store))


def outcome(question: VotedQuestion, labels: Labels) -> Drop | None:
    """Why the votes on a question keep it out of the band; None when they do not."""
    if question.agreement == 0.0:
        return Drop.UNLABELLED
    if question.agreement > labels.max_agreement:
        return Drop.TOO_EASY
    if question.agreement < labels.min_agreement:
        return Drop.TOO_HARD
    return Drop.TIE if question.label is None else None


def _with_previous(task: BuildCurriculumTask, store: ArtifactStore) -> BuildCurriculumTask:
    """The task, without the iteration before where that is damaged: an audit can do without it."""
    if task.previous is None:
        return task
    try:
        store.manifest(task.previous)
    except BadData as error:
        log.warning("the iteration before is left out of the audit: %s", error)
        return task.model_copy(update={"previous": None})
    return task


def _build(task: BuildCurriculumTask, store: ArtifactStore) -> Rows:
    task = _with_previous(task, store)
    seen: set[str] = set()
    drops: Counter[Drop] = Counter()
    tenths: Counter[int] = Counter()
    agreement = 0.0
    kept: list[LabeledQuestion] = []
    votes: dict[str, VotedQuestion] = {}
    probes = audit_probes.read(store, task.votes)
    probe_texts = audit_probes.texts(probes)
    for question in _read(task, store):
        if question.text in seen:
            drops[Drop.DUPLICATE] += 1
            continue
        seen.add(question.text)
        if audit_probes.is_probe(question, probe_texts):
            drops[Drop.PROBE] += 1
            continue
        agreement += question.agreement
        tenths[int(10 * question.agreement + 0.5)] += 1
        reason = outcome(question, task.labels)
        if reason is not None or question.label is None:
            drops[reason or Drop.TIE] += 1
            continue
        votes[question.id] = question
        kept.append(
            LabeledQuestion(
                id=question.id,
                text=question.text,
                label=question.label,
                agreement=question.agreement,
            )
        )
    distinct = _without_near_duplicates(kept, task.questions.near_duplicate)
    drops[Drop.NEAR_DUPLICATE] = len(kept) - len(distinct)
    is_short = len(distinct) < task.minimum
    if is_short and task.last_round:
        raise BadData(_too_few(task, len(distinct), drops))
    metrics: dict[str, float] = {
        "questions": len(distinct) + drops.total(),
        "kept": len(distinct),
        **{reason.value: drops[reason] for reason in Drop},
        "short": float(is_short),
        "agreementSum": round(agreement, 6),
        **{f"agreement{tenth:02d}": tenths[tenth] for tenth in range(11)},
    }
    inputs = [*task.votes, *([] if task.previous is None else [task.previous])]
    made = Rows("curriculum", distinct, metrics, inputs=inputs)
    if is_short:
        # Another round replaces it: no oracle is paid for what nobody trains on.
        return made
    found = audit.audit(task, store, distinct, [votes[row.id] for row in distinct], probes)
    return replace(
        made,
        metrics=metrics | found.metrics,
        label_audit=found.result,
        beside={
            audit_archive.VERDICTS: found.verdicts,
            audit_probes.PROBES: found.probes,
            audit_archive.ANSWERS: found.answers,
        },
    )


def _read(task: BuildCurriculumTask, store: ArtifactStore) -> Iterator[VotedQuestion]:
    for uri in task.votes:
        yield from read_jsonl(store.local(uri, [VOTES]) / VOTES, VotedQuestion)


def _without_near_duplicates(
    questions: Sequence[LabeledQuestion], threshold: float
) -> list[LabeledQuestion]:
    """The questions less than `threshold` alike to any earlier one that is kept."""
    if threshold == 1.0 or len(questions) < 2:
        return list(questions)
    from rzero_core import bleu

    repeats = bleu.near_duplicates([question.text for question in questions], threshold)
    return [question for question, again in zip(questions, repeats, strict=True) if not again]


def _too_few(task: BuildCurriculumTask, kept: int, drops: Counter[Drop]) -> str:
    """What was dropped, and what to change."""
    total = kept + drops.total()
    if not total:
        return (
            "the curriculum is empty: the Challenger wrote no valid question (see the counts of "
            "generateQuestions); raise questions.topUps and questions.sampling.maxTokens, or start "
            "a run of another name with more challenger.steps or other prompts.challenger"
        )
    counts = ", ".join(f"{drops[reason]} {reason}" for reason in Drop if drops[reason])
    if drops[Drop.UNLABELLED] > total / 2:
        return (
            f"the curriculum has {kept} questions, fewer than one Solver batch of {task.minimum}: "
            f"to {drops[Drop.UNLABELLED]} of {total} questions the Solver boxed no answer; raise "
            "questions.topUps and labels.sampling.maxTokens, or change prompts.solver"
        )
    return (
        f"the curriculum has {kept} questions, fewer than one Solver batch of {task.minimum}: of "
        f"{total} questions were dropped {counts}; raise questions.topUps, widen "
        "labels.minAgreement to labels.maxAgreement, or lower solver.batchSize"
    )
