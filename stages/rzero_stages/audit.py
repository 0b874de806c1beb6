"""Finds out how many labels of a curriculum are right, before the Solver is trained on them.

Auditors combine in a fixed order: an oracle's verdicts on a sample; computed answers; and, where
neither speaks, upper bounds, which are marked as such. What nobody can tell stays unknown.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from rzero_core.computable import judge_all
from rzero_core.label_accuracy import Interval, wilson
from rzero_core.records import (
    JudgedProbe,
    LabeledQuestion,
    OracleAnswers,
    Verdict,
    VotedProbe,
    VotedQuestion,
)
from rzero_core.run import AuditorType
from rzero_core.store import ArtifactStore
from rzero_core.task import BuildCurriculumTask, LabelAudit, derive_seed
from rzero_stages import audit_probes

VERDICTS = "audit.jsonl"
ANSWERS = "oracle.jsonl"
"""The oracle's answers, for the next iteration to use again."""
_LEAST_COVERAGE = 0.5
"""Share of the curriculum that must be computable to stand in for an oracle that is unknown."""


@dataclass(frozen=True)
class Audit:
    """All that was found out about the labels of a curriculum."""

    result: LabelAudit
    metrics: dict[str, float]
    verdicts: list[Verdict]
    probes: list[JudgedProbe]
    answers: list[OracleAnswers] = field(default_factory=list)
    """The oracle's."""


def audit(
    task: BuildCurriculumTask,
    store: ArtifactStore,
    curriculum: Sequence[LabeledQuestion],
    votes: Sequence[VotedQuestion],
    probes: Sequence[VotedProbe],
) -> Audit:
    """Audit the labels of `curriculum`, whose `votes` are given for the same questions.

    Metrics: what auditors counted and spent, `labelAccuracyLow` and `-High` (abstentions as wrong
    labels, and dropped), the probes' counts with McNemar's test against the iteration before, and
    the upper bounds that exist.
    """
    judged = audit_probes.judge(probes)
    metrics = audit_probes.metrics(store, judged, task.previous)
    bound = _upper_bound(task, votes, judged, metrics)
    auditor = task.label_accuracy.auditor
    found = Audit(LabelAudit(sample_size=0, method=str(auditor.type)), metrics, [], judged)
    if auditor.oracle is not None:
        # Only an oracle needs a client for HTTP.
        from rzero_stages import audit_oracle

        outcome = audit_oracle.judge(task, store, auditor.oracle, curriculum, judged)
        found = replace(
            found,
            result=outcome.result,
            metrics=metrics | outcome.metrics,
            verdicts=outcome.verdicts,
            probes=outcome.probes,
            answers=outcome.answers,
        )
    if auditor.type is AuditorType.PROGRAMMATIC:
        found = _computed(found, curriculum, least=0.0)
    elif auditor.oracle is not None and found.result.estimate is None:
        found = _computed(found, curriculum, least=_LEAST_COVERAGE)
    if found.result.estimate is None and bound is not None:
        abstained = found.result.abstained
        found = replace(found, result=bound.model_copy(update={"abstained": abstained}))
    shares = found.result.model_dump(include={"estimate", "lower", "upper"}, exclude_none=True)
    rounded = {name: round(share, 6) for name, share in shares.items()}
    return replace(found, result=found.result.model_copy(update=rounded))


def _computed(found: Audit, curriculum: Sequence[LabeledQuestion], least: float) -> Audit:
    """`found` with the verdicts on all labels whose answer can be computed, if their share of the
    curriculum is more than `least`.

    Nothing is said of the other labels: the interval reaches from all of them being wrong to all
    of them being right, which is a point where there are none.
    """
    judgements = judge_all([(question.text, question.label) for question in curriculum])
    verdicts = [
        Verdict(
            id=question.id,
            text=question.text,
            label=question.label,
            agreement=question.agreement,
            auditor=AuditorType.PROGRAMMATIC,
            right=judgement.right,
            truth=judgement.truth,
            why="undecided" if judgement.right is None else None,
        )
        for question, judgement in zip(curriculum, judgements, strict=True)
        if judgement is not None
    ]
    right = sum(verdict.right is True for verdict in verdicts)
    judged = right + sum(verdict.right is False for verdict in verdicts)
    total = len(curriculum)
    metrics = found.metrics | {"computable": float(len(verdicts))}
    if judged <= least * total:
        unknown = found.result
        if found.result.sample_size == 0 and found.result.abstained == 0:
            unknown = unknown.model_copy(update={"abstained": total})
        return replace(found, metrics=metrics, result=unknown)
    accuracy = wilson(right, judged, population=total)
    low, high = right / total, (right + total - judged) / total
    result = LabelAudit(
        estimate=accuracy.estimate,
        lower=min(low, accuracy.lower),
        upper=max(high, accuracy.upper),
        sample_size=judged,
        right=right,
        abstained=total - judged,
        method="Programmatic",
    )
    metrics |= {"labelAccuracyLow": round(low, 6), "labelAccuracyHigh": round(high, 6)}
    return replace(found, result=result, metrics=metrics, verdicts=[*found.verdicts, *verdicts])


def _upper_bound(
    task: BuildCurriculumTask,
    votes: Sequence[VotedQuestion],
    probes: Sequence[JudgedProbe],
    metrics: dict[str, float],
) -> LabelAudit | None:
    """The upper bound that can be had without an auditor: of raters, else of vote shares.

    Whatever bounds there are become metrics, for their trend.
    """
    rated = audit_probes.raters_bound(votes, derive_seed(task.seed, task.iteration, "raters"))
    agreements = [question.agreement for question in votes]
    shares = audit_probes.vote_share_bound(probes, agreements, task.labels.votes)
    if shares is not None:
        metrics["voteShareEstimate"] = round(shares.estimate, 6)
    if rated is not None:
        metrics["ratersBound"] = round(rated[0].estimate, 6)
        return _bound(*rated, "upper bound by the agreement of raters")
    if shares is not None:
        return _bound(shares, len(votes), "upper estimate by vote shares")
    return None


def _bound(accuracy: Interval, size: int, method: str) -> LabelAudit:
    return LabelAudit(
        estimate=accuracy.estimate,
        lower=accuracy.lower,
        upper=accuracy.upper,
        sample_size=size,
        method=method,
        is_upper_bound=True,
    )
