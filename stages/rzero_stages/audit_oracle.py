"""Has an oracle solve a random sample of the curriculum, and compares its answers with the labels.

The oracle never sees a label and never judges.
"""

import logging
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from rzero_core.guardrail import ALPHA, LOOKS, WIDEST, below_floor
from rzero_core.intervals import Uncorrected
from rzero_core.label_accuracy import (
    AuditedStratum,
    AuditorUnusableError,
    Estimate,
    Method,
    Probes,
    audited,
)
from rzero_core.records import JudgedProbe, LabeledQuestion, OracleAnswers, Verdict
from rzero_core.run import Oracle
from rzero_core.store import ArtifactStore
from rzero_core.task import (
    LONGEST_WHY,
    BuildCurriculumTask,
    EarlierLabelAudit,
    LabelAudit,
    derive_seed,
)
from rzero_stages import audit_archive
from rzero_stages.audit_archive import Archive
from rzero_stages.audit_sample import Strata
from rzero_stages.oracle_desk import OracleDesk
from rzero_stages.oracle_identity import identity

_LEAST_AGAIN = 100
"""Labels of the iteration before that are judged again where the method changed, by R4."""

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

    What the budget has left goes to the iteration before, if that was judged otherwise. An oracle
    that does not answer costs bounded time and calls, and leaves the estimate unknown.
    """
    desk = OracleDesk(task, store, oracle, first_pause)
    seed = derive_seed(task.seed, task.iteration, task.stage, "audit")
    strata = Strata(curriculum, task.label_accuracy.sample_size, seed)
    judged_probes, verdicts, counted = list(probes), dict[str, Verdict](), list[AuditedStratum]()
    # The estimate, or why there is none.
    estimate: Estimate | str = ""
    looks = 0
    while looks < LOOKS:
        size = min(len(curriculum), task.label_accuracy.sample_size * (looks + 1))
        # What a lost attempt paid for is there already: a look that it took is taken again.
        if looks and desk.unanswered(strata.larger(size)) > desk.affordable():
            break
        looks += 1
        strata.enlarge(size)
        verdicts = desk.verdicts(strata.sample)
        if looks == 1:
            judged_probes = desk.probe_verdicts(probes)
        counted = strata.audited(verdicts)
        estimate = _estimate(counted, judged_probes, verdicts.values())
        if isinstance(estimate, str) or size == len(curriculum):
            break
        floor = task.label_accuracy.floor
        certain = below_floor(estimate.accuracy, floor, ALPHA / LOOKS)
        if certain or not _asks_for_more(estimate, counted):
            break
    found = list(verdicts.values())
    _log(estimate, found)
    result = _result(oracle, estimate, found)
    archive = audit_archive.of_another_method(task, store, result)
    if archive is not None:
        earlier = _judge_again(task, desk, archive, judged_probes)
        result = result.model_copy(update={"earlier": earlier})
    metrics = desk.metrics() | _probe_metrics(judged_probes) | {"auditLooks": float(looks)}
    if any(verdict.right is not None for verdict in found):
        low, high = _bounds(counted)
        metrics |= {"labelAccuracyLow": round(low, 6), "labelAccuracyHigh": round(high, 6)}
    return Outcome(result, found, judged_probes, desk.rows(), metrics)


def _judge_again(
    task: BuildCurriculumTask, desk: OracleDesk, archive: Archive, probes: Sequence[JudgedProbe]
) -> EarlierLabelAudit | None:
    """What this oracle and estimator make of the labels of the iteration before.

    The sample of then is taken where this very oracle judged it: that costs nothing. Else a new one
    is drawn, of what the budget has left up to `sampleSize`, and `_LEAST_AGAIN` labels at least.
    None where it has not so much left, or no verdict came.
    """
    questions = archive.questions
    least = min(_LEAST_AGAIN, len(questions))
    most = max(least, min(task.label_accuracy.sample_size, len(questions)))
    # What a lost attempt paid for these labels is no reason to draw fewer of them.
    size = max(least, min(most, desk.affordable(besides=questions)))
    seen = {verdict.id for verdict in archive.verdicts if verdict.auditor == desk.identity}
    seed = derive_seed(task.seed, task.iteration, task.stage, "audit", "again")
    # In one order whatever is left to spend: an attempt after a lost one draws what that paid for.
    strata = Strata(questions, max(most, len(seen)), seed, seen)
    if len(strata.sample) < least:
        strata.enlarge(size)
    elif desk.unanswered(strata.sample) > desk.affordable():
        strata = Strata(questions, most, seed)
        strata.enlarge(size)
    if desk.unanswered(strata.sample) > desk.affordable():
        log.warning("the budget has nothing left for the labels of the iteration before")
        return None
    verdicts = desk.verdicts(strata.sample)
    estimate = _estimate(strata.audited(verdicts), probes, verdicts.values())
    _log(estimate, verdicts.values())
    if isinstance(estimate, str):
        return None
    return audit_archive.judged_again(estimate.accuracy, estimate.sample_size, estimate.uncorrected)


def _asks_for_more(estimate: Estimate, strata: Sequence[AuditedStratum]) -> bool:
    """Whether the interval is too wide to decide, and a larger sample could make it narrow.

    It helps against neither abstentions nor the oracle's own errors.
    """
    said, skill = estimate.uncorrected or Uncorrected(estimate.accuracy, 1.0)
    low, high = _bounds(strata)
    return said.width / skill > WIDEST >= (high - low) / skill


def _result(oracle: Oracle, estimate: Estimate | str, verdicts: Sequence[Verdict]) -> LabelAudit:
    """What is reported; unknown stays unknown, with how many labels got no verdict, and why."""
    says = [verdict.right for verdict in verdicts]
    abstained = says.count(None)
    found = LabelAudit(
        sample_size=len(says) - abstained,
        right=says.count(True),
        abstained=abstained,
        method=f"Oracle {oracle.model[:100]} x{oracle.samples} #{identity(oracle)[:8]}",
    )
    if isinstance(estimate, str):
        return found.model_copy(update={"why": estimate[:LONGEST_WHY] or None})
    name = "Rogan-Gladen" if estimate.method is Method.ROGAN_GLADEN else "stratified"
    return found.model_copy(
        update={
            "estimate": estimate.accuracy.estimate,
            "lower": estimate.accuracy.lower,
            "upper": estimate.accuracy.upper,
            "uncorrected": audit_archive.uncorrected(estimate.uncorrected),
            "method": f"{found.method}, {name}",
        }
    )


def _estimate(
    strata: Sequence[AuditedStratum],
    probes: Sequence[JudgedProbe],
    verdicts: Collection[Verdict],
) -> Estimate | str:
    """Stratified by agreement, which uses up all that vote shares could tell PPI++; corrected by
    the oracle's own errors where probes show enough of them. Or why it is unknown.
    """
    try:
        return audited(strata, Probes(*_counts(probes)))
    except AuditorUnusableError as error:
        return str(error)
    except ValueError:
        return _silence(verdicts)


def _silence(verdicts: Collection[Verdict]) -> str:
    """The commonest reasons why labels got no verdict; all are our own words, not a server's."""
    text = ""
    for why, count in Counter(v.why for v in verdicts if v.right is None).most_common():
        longer = f"{text}, {count} {why}".removeprefix(", ")
        if len(longer) > LONGEST_WHY:
            break
        text = longer
    return text


def _log(estimate: Estimate | str, verdicts: Collection[Verdict]) -> None:
    """Say what is missing of an audit, and why."""
    silent = sum(verdict.right is None for verdict in verdicts)
    if silent:
        reasons = _silence(verdicts)
        log.warning("%d of %d labels got no verdict: %s", silent, len(verdicts), reasons)
    if isinstance(estimate, str) and silent < len(verdicts):
        log.warning("%s", estimate)


def _bounds(strata: Sequence[AuditedStratum]) -> tuple[float, float]:
    """The shares before any correction, with abstentions as wrong labels and without them."""
    wrong = [AuditedStratum(s.size, s.right, s.wrong + s.abstained) for s in strata]
    return audited(wrong).accuracy.estimate, audited(strata).accuracy.estimate


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
