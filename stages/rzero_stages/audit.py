"""Finds out how many labels of a curriculum are right, before the Solver is trained on them.

Auditors combine in a fixed order: an oracle's verdicts on a sample; computed answers; and, where
neither speaks, upper bounds, which are marked as such. What nobody can tell stays unknown.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from rzero_core.computable import judge_all
from rzero_core.label_accuracy import Interval
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
from rzero_stages import audit_archive, audit_probes

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

    Where the iteration before was audited by another method, so are its labels again, and
    `earlier` says what this one makes of them. Metrics: what auditors counted and spent,
    `labelAccuracyLow` and `-High` (abstentions as wrong labels, and dropped; of computed answers,
    as right ones), the probes' counts with McNemar's test against the iteration before, and the
    upper bounds that exist.
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
        found = _computed(task, store, found, curriculum, least=0.0)
    elif auditor.oracle is not None and found.result.estimate is None:
        found = _computed(task, store, found, curriculum, least=_LEAST_COVERAGE)
    if found.result.estimate is None and bound is not None:
        silence = {"abstained": found.result.abstained, "why": found.result.why}
        found = replace(found, result=bound.model_copy(update=silence))
    shares = found.result.model_dump(include={"estimate", "lower", "upper"}, exclude_none=True)
    reported = {name: round(share, 6) for name, share in shares.items()}
    shown = {"samples": audit_archive.samples(found.verdicts)}
    return replace(found, result=found.result.model_copy(update=reported | shown))


def _computed(
    task: BuildCurriculumTask,
    store: ArtifactStore,
    found: Audit,
    curriculum: Sequence[LabeledQuestion],
    least: float,
) -> Audit:
    """`found` with the verdicts on all labels whose answer can be computed, if their share of the
    curriculum is more than `least`.
    """
    verdicts = _compute(curriculum)
    metrics = found.metrics | {"computable": float(len(verdicts))}
    counts = _Computed.of(verdicts, len(curriculum))
    if counts.judged <= least * counts.total:
        unknown = found.result
        if found.result.sample_size == 0 and found.result.abstained == 0:
            unknown = unknown.model_copy(update={"abstained": counts.total})
        return replace(found, metrics=metrics, result=unknown)
    accuracy = counts.accuracy
    result = LabelAudit(
        estimate=accuracy.estimate,
        lower=accuracy.lower,
        upper=accuracy.upper,
        sample_size=counts.judged,
        right=counts.right,
        abstained=counts.total - counts.judged,
        method=str(AuditorType.PROGRAMMATIC),
    )
    archive = audit_archive.of_another_method(task, store, result)
    if archive is not None:
        before = _Computed.of(_compute(archive.questions), len(archive.questions))
        if before.judged > least * before.total:
            earlier = audit_archive.judged_again(before.accuracy, before.judged)
            result = result.model_copy(update={"earlier": earlier})
    metrics |= {
        "labelAccuracyLow": round(accuracy.lower, 6),
        "labelAccuracyHigh": round(accuracy.upper, 6),
    }
    return replace(found, result=result, metrics=metrics, verdicts=[*found.verdicts, *verdicts])


def _compute(curriculum: Sequence[LabeledQuestion]) -> list[Verdict]:
    """The verdicts on the labels whose answer can be computed."""
    judgements = judge_all([(question.text, question.label) for question in curriculum])
    return [
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


@dataclass(frozen=True)
class _Computed:
    """How many labels of a curriculum were computed to be right."""

    right: int
    judged: int
    total: int

    @classmethod
    def of(cls, verdicts: Sequence[Verdict], total: int) -> "_Computed":
        judged = [verdict.right for verdict in verdicts if verdict.right is not None]
        return cls(judged.count(True), len(judged), total)

    @property
    def accuracy(self) -> Interval:
        """The share of those that were judged, from the worst case to the best: all others wrong,
        and all right. Certain, and a point where all were judged.
        """
        best = self.right + self.total - self.judged
        return Interval(self.right / self.judged, self.right / self.total, best / self.total)


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
        metrics["voteShareEstimate"] = round(shares[0].estimate, 6)
    if rated is not None:
        metrics["ratersBound"] = round(rated[0].estimate, 6)
        return _bound(*rated, "upper bound by the agreement of raters")
    if shares is not None:
        return _bound(*shares, "upper estimate by vote shares")
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
