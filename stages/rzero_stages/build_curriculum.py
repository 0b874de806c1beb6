"""Merges the votes of all shards and rounds into the curriculum: what the Solver will learn from.

Needs no model and no accelerator. Every question that is dropped is counted by its reason. The
labels of a curriculum that is large enough are audited, so that what they are worth is part of it.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
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


@dataclass
class _Pool:
    """The questions of the band, and what became of the others."""

    kept: list[LabeledQuestion] = field(default_factory=list)
    votes: dict[str, VotedQuestion] = field(default_factory=dict)
    """On the questions of the band, by their id."""
    drops: Counter[Drop] = field(default_factory=Counter)
    tenths: Counter[int] = field(default_factory=Counter)
    """Distinct questions by tenths of agreement."""
    agreement: float = 0.0
    """The sum over the distinct questions."""

    def sort(self, question: VotedQuestion, labels: Labels) -> None:
        """Keep the question if its votes put it into the band, else count why they do not."""
        self.agreement += question.agreement
        self.tenths[int(10 * question.agreement + 0.5)] += 1
        reason = outcome(question, labels)
        if reason is not None or question.label is None:
            self.drops[reason or Drop.TIE] += 1
            return
        self.votes[question.id] = question
        self.kept.append(
            LabeledQuestion(
                id=question.id,
                text=question.text,
                label=question.label,
                agreement=question.agreement,
            )
        )

    def thin_out(self, threshold: float) -> None:
        """Drop the near-duplicates."""
        distinct = _without_near_duplicates(self.kept, threshold)
        self.drops[Drop.NEAR_DUPLICATE] += len(self.kept) - len(distinct)
        self.kept = distinct

    def metrics(self, is_short: bool) -> dict[str, float]:
        return {
            "questions": len(self.kept) + self.drops.total(),
            "kept": len(self.kept),
            **{reason.value: self.drops[reason] for reason in Drop},
            "short": float(is_short),
            "agreementSum": round(self.agreement, 6),
            **{f"agreement{tenth:02d}": self.tenths[tenth] for tenth in range(11)},
        }


def _build(task: BuildCurriculumTask, store: ArtifactStore) -> Rows:
    task = _with_previous(task, store)
    probes = audit_probes.read(store, task.votes)
    pool = _sorted(task, _read(task, store), audit_probes.texts(probes))
    pool.thin_out(task.questions.near_duplicate)
    is_short = len(pool.kept) < task.minimum
    if is_short and task.last_round:
        raise BadData(_too_few(task, len(pool.kept), pool.drops))
    inputs = [*task.votes, *([] if task.previous is None else [task.previous])]
    made = Rows("curriculum", pool.kept, pool.metrics(is_short), inputs=inputs)
    if is_short:
        # Another round replaces it: no oracle is paid for what nobody trains on.
        return made
    found = audit.audit(task, store, pool.kept, [pool.votes[row.id] for row in pool.kept], probes)
    return replace(
        made,
        metrics={**made.metrics, **found.metrics},
        label_audit=found.result,
        beside={
            audit_archive.VERDICTS: found.verdicts,
            audit_probes.PROBES: found.probes,
            audit_archive.ANSWERS: found.answers,
        },
    )


def _sorted(
    task: BuildCurriculumTask, questions: Iterable[VotedQuestion], probe_texts: frozenset[str]
) -> _Pool:
    """The distinct questions that are no probes, sorted by their votes."""
    pool = _Pool()
    seen: set[str] = set()
    for question in questions:
        if question.text in seen:
            pool.drops[Drop.DUPLICATE] += 1
            continue
        seen.add(question.text)
        if audit_probes.is_probe(question, probe_texts):
            pool.drops[Drop.PROBE] += 1
        else:
            pool.sort(question, task.labels)
    return pool


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
