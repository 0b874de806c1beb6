"""Has an oracle solve a random sample of the curriculum, and compares its answers with the labels.

The oracle never sees a label and never judges.
"""

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rzero_core.guardrail import ALPHA, LOOKS, WIDEST, below_floor
from rzero_core.label_accuracy import (
    AuditedStratum,
    AuditorUnusableError,
    Estimate,
    Method,
    Probes,
    allocate,
    audited,
)
from rzero_core.records import JudgedProbe, LabeledQuestion, OracleAnswers, Verdict
from rzero_core.run import Oracle
from rzero_core.store import ArtifactStore
from rzero_core.task import BuildCurriculumTask, LabelAudit, derive_seed
from rzero_stages.oracle_desk import OracleDesk
from rzero_stages.oracle_endpoint import identity

_PER_STRATUM = 20

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What the oracle found out."""

    result: LabelAudit
    verdicts: list[Verdict]
    probes: list[JudgedProbe]
    """As given, with the oracle's verdicts."""
    answers: list[OracleAnswers]
    metrics: dict[str, float]


def judge(
    task: BuildCurriculumTask,
    store: ArtifactStore,
    oracle: Oracle,
    curriculum: Sequence[LabeledQuestion],
    probes: Sequence[JudgedProbe],
    first_pause: float = 0.5,
) -> Outcome:
    """Judge a sample of the curriculum, and enlarge it twice at most while it leaves too much open.

    An oracle that does not answer costs bounded time and calls, and leaves the estimate unknown.
    """
    desk = OracleDesk(task, store, oracle, first_pause)
    strata = _strata(task, curriculum)
    sample: list[list[LabeledQuestion]] = [[] for _ in strata]
    judged_probes, estimate, verdicts = list(probes), None, dict[str, Verdict]()
    looks = 0
    while looks < LOOKS:
        size = min(len(curriculum), task.label_accuracy.sample_size * (looks + 1))
        if looks and not desk.affords(size - len(verdicts)):
            break
        looks += 1
        counts = allocate([len(stratum) for stratum in strata], size, _PER_STRATUM)
        # Each sample holds the one before: its questions come first in their stratum.
        sample = [
            stratum[: max(len(before), count)]
            for stratum, before, count in zip(strata, sample, counts, strict=True)
        ]
        verdicts = desk.verdicts([question for stratum in sample for question in stratum])
        if looks == 1:
            judged_probes = desk.probe_verdicts(probes)
        counted = _audited_strata(strata, sample, verdicts)
        estimate = _estimate(counted, judged_probes)
        if estimate is None or size == len(curriculum):
            break
        # More questions help against neither abstentions nor the oracle's own errors.
        width = audited([replace(s, abstained=0) for s in counted]).accuracy.width
        floor = task.label_accuracy.floor
        if width <= WIDEST or below_floor(estimate.accuracy, floor, ALPHA / LOOKS):
            break
    found = list(verdicts.values())
    metrics = desk.metrics() | _probe_metrics(judged_probes) | {"auditLooks": float(looks)}
    if any(verdict.right is not None for verdict in found):
        metrics |= _bounds(_audited_strata(strata, sample, verdicts))
    return Outcome(_result(oracle, estimate, found), found, judged_probes, desk.rows(), metrics)


def _result(oracle: Oracle, estimate: Estimate | None, verdicts: Sequence[Verdict]) -> LabelAudit:
    """What is reported; unknown stays unknown, with how many labels got no verdict."""
    says = [verdict.right for verdict in verdicts]
    abstained = says.count(None)
    found = LabelAudit(
        sample_size=len(says) - abstained,
        right=says.count(True),
        abstained=abstained,
        method=f"Oracle {oracle.model[:100]} x{oracle.samples} #{identity(oracle)[:8]}",
    )
    if estimate is None:
        return found
    name = "Rogan-Gladen" if estimate.method is Method.ROGAN_GLADEN else "stratified"
    return found.model_copy(
        update={
            "estimate": estimate.accuracy.estimate,
            "lower": estimate.accuracy.lower,
            "upper": estimate.accuracy.upper,
            "method": f"{found.method}, {name}",
        }
    )


def _strata(
    task: BuildCurriculumTask, curriculum: Sequence[LabeledQuestion]
) -> list[list[LabeledQuestion]]:
    """The questions by tenths of agreement, each stratum in an order drawn by the run's seed.

    Neighbors are joined where the sample could not reach 20 questions of each.
    """
    tenths: dict[int, list[LabeledQuestion]] = {}
    for question in curriculum:
        tenths.setdefault(int(10 * question.agreement + 0.5), []).append(question)
    strata = [tenths[tenth] for tenth in sorted(tenths)]
    most = max(1, task.label_accuracy.sample_size // _PER_STRATUM)
    while len(strata) > most:
        pairs = range(len(strata) - 1)
        place = min(pairs, key=lambda i: (len(strata[i]) + len(strata[i + 1]), i))
        strata[place : place + 2] = [strata[place] + strata[place + 1]]
    draw = random.Random(derive_seed(task.seed, task.iteration, task.stage, "audit"))
    for stratum in strata:
        stratum.sort(key=lambda question: question.id)
        draw.shuffle(stratum)
    return strata


def _estimate(strata: Sequence[AuditedStratum], probes: Sequence[JudgedProbe]) -> Estimate | None:
    """Stratified by agreement, which uses up all that vote shares could tell PPI++; corrected by
    the oracle's own errors where probes show enough of them. None: unknown.
    """
    counts = _counts(probes)
    try:
        return audited(strata, Probes(*counts))
    except AuditorUnusableError as error:
        log.warning("%s", error)
    except ValueError:
        log.warning("the oracle gave no verdict: the accuracy of the labels is unknown")
    return None


def _audited_strata(
    strata: Sequence[Sequence[LabeledQuestion]],
    sample: Sequence[Sequence[LabeledQuestion]],
    verdicts: dict[str, Verdict],
) -> list[AuditedStratum]:
    found = []
    for stratum, drawn in zip(strata, sample, strict=True):
        says = [verdicts[question.id].right for question in drawn]
        counts = (says.count(True), says.count(False), says.count(None))
        found.append(AuditedStratum(len(stratum), *counts))
    return found


def _bounds(strata: Sequence[AuditedStratum]) -> dict[str, float]:
    """The shares before any correction, with abstentions as wrong labels and without them."""
    wrong = [AuditedStratum(s.size, s.right, s.wrong + s.abstained) for s in strata]
    return {
        "labelAccuracyLow": round(audited(wrong).accuracy.estimate, 6),
        "labelAccuracyHigh": round(audited(strata).accuracy.estimate, 6),
    }


def _counts(probes: Sequence[JudgedProbe]) -> tuple[int, int, int, int]:
    """(agreed, of how many right labels, disagreed, of how many wrong ones)."""
    asked = [probe for probe in probes if probe.oracle_says_right is not None]
    right = [probe.oracle_says_right for probe in asked if probe.right]
    wrong = [not probe.oracle_says_right for probe in asked if not probe.right]
    return sum(map(bool, right)), len(right), sum(wrong), len(wrong)


def _probe_metrics(probes: Sequence[JudgedProbe]) -> dict[str, float]:
    agreed, right, disagreed, wrong = _counts(probes)
    metrics = {}
    if right:
        metrics["oracleSensitivity"] = round(agreed / right, 6)
    if wrong:
        metrics["oracleSpecificity"] = round(disagreed / wrong, 6)
    return metrics
