"""What an audit leaves beside its curriculum, and what the audit of the iteration before left.

An audit by another method cannot be compared with the one before, so the labels of then are judged
again by the method of now (R4).
"""

import logging
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from rzero_core.intervals import Interval, Uncorrected
from rzero_core.records import LabeledQuestion, Row, Verdict, read_jsonl
from rzero_core.store import ArtifactStore
from rzero_core.task import (
    LONGEST_SAMPLE,
    MOST_SAMPLES,
    BadData,
    BuildCurriculumTask,
    EarlierLabelAudit,
    LabelAudit,
    LabelSample,
    UncorrectedLabelAudit,
)

VERDICTS = "audit.jsonl"
ANSWERS = "oracle.jsonl"
"""The oracle's answers, for the next iteration to use again."""
_CURRICULUM = "curriculum.jsonl"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Archive:
    """The labels of the iteration before."""

    questions: Sequence[LabeledQuestion]
    verdicts: Sequence[Verdict]
    """On a random sample of them, by the auditor of then."""


def of_another_method(
    task: BuildCurriculumTask, store: ArtifactStore, found: LabelAudit
) -> Archive | None:
    """The iteration before, where it was audited by another method than `found`.

    None where the method stayed the same, where `found` decides nothing, and where the archive is
    gone or damaged: then the series begins anew, which is no reason to fail.
    """
    if task.previous is None or found.estimate is None or found.is_upper_bound:
        return None
    try:
        manifest = store.manifest(task.previous)
        before = manifest.label_audit if manifest is not None else None
        if before is None or before.method == found.method:
            return None
        questions = rows(store, task.previous, _CURRICULUM, LabeledQuestion)
        verdicts = rows(store, task.previous, VERDICTS, Verdict)
    except BadData as error:
        log.warning("the labels of the iteration before cannot be judged again: %s", error)
        return None
    log.info("labels are judged by another method than before: those of then are judged again")
    return Archive(questions, verdicts) if questions else None


def rows(store: ArtifactStore, prefix: str, name: str, row: type[Row]) -> list[Row]:
    """The rows of a file of an artifact; none where there is no such file. Raises `BadData`."""
    manifest = store.manifest(prefix)
    if manifest is None or name not in {entry.path for entry in manifest.files}:
        return []
    return list(read_jsonl(store.local(prefix, [name]) / name, row))


def samples(verdicts: Sequence[Verdict]) -> list[LabelSample]:
    """A few verdicts to look at: two wrong labels and a right one, where there are such."""
    judged = [verdict for verdict in verdicts if verdict.right is not None]
    wrong, right = ([v for v in judged if v.right is side] for side in (False, True))
    return [
        LabelSample(
            question=_shown(verdict.text),
            label=_shown(verdict.label),
            truth=None if verdict.truth is None else _shown(verdict.truth),
            right=bool(verdict.right),
        )
        for verdict in (wrong[:2] + right + wrong[2:])[:MOST_SAMPLES]
    ]


def _shown(text: str) -> str:
    """The begin of a model's text on one line, without what a terminal would obey."""
    line = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))
    # As JSON, which doubles the backslashes of LaTeX: a result has little room.
    sizes = list(accumulate(len(c.encode()) + (c in '"\\') for c in line))
    if not sizes or sizes[-1] <= LONGEST_SAMPLE:
        return line
    return line[: bisect_right(sizes, LONGEST_SAMPLE - 3)] + "\u2026"


def judged_again(
    accuracy: Interval, size: int, said: Uncorrected | None = None
) -> EarlierLabelAudit:
    """What is reported of the iteration before; `size` of its labels got a verdict."""
    return EarlierLabelAudit(
        estimate=round(accuracy.estimate, 6),
        lower=round(accuracy.lower, 6),
        upper=round(accuracy.upper, 6),
        sample_size=size,
        uncorrected=uncorrected(said),
    )


def uncorrected(said: Uncorrected | None) -> UncorrectedLabelAudit | None:
    """What is reported of an oracle whose errors were corrected."""
    if said is None:
        return None
    return UncorrectedLabelAudit(
        estimate=round(said.agreed.estimate, 6),
        lower=round(said.agreed.lower, 6),
        upper=round(said.agreed.upper, 6),
        skill=round(said.skill, 6),
    )
