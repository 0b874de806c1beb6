"""Turns what the operator last saw of a run into gauge samples. Pure; `metrics` serves them.

Nothing that changes is a label, and nothing grows without bound: a run has some 60 samples, and one
more for each of its newest iterations with a known pseudo-label accuracy.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from rzero_core.intervals import Interval, at_confidence
from rzero_core.run import AuditorType, RunSpec, Stage
from rzero_core.status import (
    EarlierLabelAccuracy,
    IterationStatus,
    LabelAccuracyStatus,
    Phase,
    RunStatus,
    StageState,
)
from rzero_operator import guardrails
from rzero_operator.canaries import mean_agreement
from rzero_operator.tasks import POOL_STAGES

_DUPLICATES = ("duplicates", "nearDuplicates", "probeDuplicates")
NEWEST_ITERATIONS = 50
"""Iterations of which `rzero_iteration_pseudo_label_accuracy_ratio` is exported."""


class Gauge(NamedTuple):
    """What a gauge says, and its labels beside namespace and run."""

    help: str
    labels: tuple[str, ...] = ()


class Sample(NamedTuple):
    """One value of a gauge of one run."""

    gauge: str
    labels: tuple[str, ...]
    """Values of the gauge's own labels, in their order."""
    value: float


ACCURACY = "rzero_run_pseudo_label_accuracy"

GAUGES = {
    "rzero_run_info": Gauge("What the run is made of.", ("base_model", "queue", "auditor")),
    "rzero_run_phase": Gauge("1 for the phase of the run, else 0.", ("phase",)),
    "rzero_run_paused": Gauge("1 while the guardrail has it wait for a decision, else 0."),
    "rzero_run_iterations": Gauge("Iterations that the spec asks for."),
    "rzero_run_completed_iterations": Gauge("Iterations that are done, evaluation included."),
    "rzero_run_current_stage": Gauge("1 for the stage that is due or live, else 0.", ("stage",)),
    "rzero_run_last_progress_timestamp_seconds": Gauge("When the status last told of progress."),
    "rzero_run_stage_attempts": Gauge("Attempts begun, over all iterations.", ("stage",)),
    "rzero_run_preemptions": Gauge("Attempts lost through no fault of a stage."),
    "rzero_run_retry_budget_used_ratio": Gauge(
        "Failures of the current stage; at 1 the run fails (maxRetries)."
    ),
    "rzero_run_preemption_budget_used_ratio": Gauge(
        "Preemptions of the current stage; at 1 the run fails (maxPreemptions)."
    ),
    f"{ACCURACY}_ratio": Gauge("Estimated share of right labels, newest iteration with one."),
    f"{ACCURACY}_lower_ratio": Gauge("Lower end of its 95 % interval, or the worst case."),
    f"{ACCURACY}_upper_ratio": Gauge("Upper end of its 95 % interval, or the best case."),
    f"{ACCURACY}_upper90_ratio": Gauge("Upper end at 90 %, which the floor is compared with."),
    f"{ACCURACY}_iteration": Gauge("Iteration that this estimate is of."),
    f"{ACCURACY}_baseline_ratio": Gauge("First estimate by the same method."),
    f"{ACCURACY}_baseline_lower_ratio": Gauge("Lower end of its 95 % interval."),
    f"{ACCURACY}_best_ratio": Gauge("Highest estimate so far by the same method."),
    f"{ACCURACY}_best_lower_ratio": Gauge("Lower end of its 95 % interval."),
    f"{ACCURACY}_at_most_ratio": Gauge("Upper bound where no estimate is; nothing acts on it."),
    f"{ACCURACY}_floor_ratio": Gauge("labelAccuracy.floor of the spec."),
    f"{ACCURACY}_max_drop_ratio": Gauge("labelAccuracy.maxDrop of the spec."),
    f"{ACCURACY}_sample_size": Gauge("Labels that the auditor judged, newest iteration."),
    f"{ACCURACY}_abstained": Gauge("Labels that the auditor could not judge, newest iteration."),
    f"{ACCURACY}_info": Gauge("Auditor and estimator of the newest iteration.", ("method",)),
    "rzero_run_questions": Gauge(
        "Questions of the newest iteration with a curriculum, by what became of them.", ("state",)
    ),
    "rzero_run_solver_agreement_ratio": Gauge("Mean agreement of its distinct questions."),
    "rzero_run_agreement_questions": Gauge(
        "Its distinct questions by agreement, rounded to tenths.", ("agreement",)
    ),
    "rzero_run_solver_score_ratio": Gauge(
        "mean@k of the newest Solver that was evaluated.", ("benchmark",)
    ),
    "rzero_run_base_score_ratio": Gauge("mean@k of the base model.", ("benchmark",)),
    "rzero_run_storage_bytes": Gauge("Size of the artifacts that the stages reported."),
    "rzero_iteration_pseudo_label_accuracy_ratio": Gauge(
        f"Estimated share of right labels, of the newest {NEWEST_ITERATIONS} iterations.",
        ("iteration",),
    ),
}


def samples(spec: RunSpec, status: RunStatus) -> list[Sample]:
    """The samples of one run, in no particular order; what is not known has none."""
    return [
        *_progress(spec, status),
        *_budgets(spec, status),
        *_label_accuracy(spec, status),
        *_questions(status),
        *_scores(status),
    ]


def _progress(spec: RunSpec, status: RunStatus) -> Iterator[Sample]:
    auditor = spec.label_accuracy.auditor.type
    yield Sample("rzero_run_info", (spec.model, spec.queue_name or "", auditor), 1)
    for phase in Phase:
        yield Sample("rzero_run_phase", (phase,), phase is status.phase)
    held = status.phase is Phase.SUSPENDED and guardrails.is_held(status)
    yield Sample("rzero_run_paused", (), held and not spec.suspend)
    yield Sample("rzero_run_iterations", (), spec.iterations)
    completed = sum(_is_complete(spec, group) for group in status.iterations)
    yield Sample("rzero_run_completed_iterations", (), completed)
    for stage in Stage:
        yield Sample("rzero_run_current_stage", (stage,), stage is status.stage)
    entries = [entry for group in status.iterations for entry in group.stages]
    times = [entry.started_at for entry in entries] + [entry.finished_at for entry in entries]
    # Attempts that cannot go on come and go, and nothing is done.
    times += [
        condition.last_transition_time
        for condition in status.conditions
        if condition.type not in ("Stalled", "Reconciling")
    ]
    seconds = [datetime.fromisoformat(time).timestamp() for time in times if time]
    if seconds:
        yield Sample("rzero_run_last_progress_timestamp_seconds", (), max(seconds))
    stored = sum(_number(entry.metrics, "bytes") for entry in entries)
    yield Sample("rzero_run_storage_bytes", (), stored)


def _is_complete(spec: RunSpec, group: IterationStatus) -> bool:
    """Whether the Solver is trained and, where there is an evaluation, that has ended too."""
    ended = {entry.stage: entry.state for entry in group.stages}
    over = (StageState.DONE, StageState.FAILED)
    evaluated = not spec.evaluation.datasets or ended.get(Stage.EVALUATE) in over
    return ended.get(Stage.TRAIN_SOLVER) is StageState.DONE and evaluated


def _budgets(spec: RunSpec, status: RunStatus) -> Iterator[Sample]:
    entries = [entry for group in status.iterations for entry in group.stages]
    for stage in Stage:
        attempts = sum(entry.attempts for entry in entries if entry.stage is stage)
        yield Sample("rzero_run_stage_attempts", (stage,), attempts)
    yield Sample("rzero_run_preemptions", (), sum(entry.preemptions for entry in entries))
    current = [
        entry
        for group in status.iterations
        for entry in group.stages
        if group.iteration == status.iteration and entry.stage is status.stage
    ]
    if status.stage is not None and current:
        settings = spec.stages.of(status.stage)
        failures = current[-1].failures / (settings.max_retries + 1)
        lost = current[-1].preemptions / (settings.max_preemptions + 1)
        yield Sample("rzero_run_retry_budget_used_ratio", (), failures)
        yield Sample("rzero_run_preemption_budget_used_ratio", (), lost)


def _label_accuracy(spec: RunSpec, status: RunStatus) -> Iterator[Sample]:
    """The newest estimate beside the first and the best by the same method.

    Estimates by different methods cannot be compared. An upper bound is kept apart from them, so
    that no alert takes it for an estimate.
    """
    yield Sample(f"{ACCURACY}_floor_ratio", (), spec.label_accuracy.floor)
    yield Sample(f"{ACCURACY}_max_drop_ratio", (), spec.label_accuracy.max_drop)
    reports = [
        (group.iteration, group.label_accuracy)
        for group in status.iterations
        if group.label_accuracy is not None
    ]
    if not reports:
        return
    newest = reports[-1][1]
    yield Sample(f"{ACCURACY}_info", (newest.method,), 1)
    if newest.is_upper_bound and newest.estimate is not None:
        yield Sample(f"{ACCURACY}_at_most_ratio", (), float(newest.estimate))
    if _is_audited(status, reports[-1][0], newest):
        # What an upper bound rests on are no labels that an auditor judged.
        judged = 0 if newest.is_upper_bound else newest.sample_size
        yield Sample(f"{ACCURACY}_sample_size", (), judged)
        yield Sample(f"{ACCURACY}_abstained", (), newest.abstained)
    known = [
        (iteration, report)
        for iteration, report in reports
        if report.estimate is not None and not report.is_upper_bound
    ]
    yield from _estimates(known)


def _is_audited(status: RunStatus, iteration: int, report: LabelAccuracyStatus) -> bool:
    """Whether an auditor looked at these labels, successfully or not.

    An upper bound that stands in for its estimate does not name it.
    """
    if not report.is_upper_bound:
        return report.method != AuditorType.NONE
    return report.abstained > 0 or any(
        "oracleCalls" in entry.metrics
        for group in status.iterations
        for entry in group.stages
        if group.iteration == iteration and entry.stage is Stage.BUILD_CURRICULUM
    )


def _estimates(known: list[tuple[int, LabelAccuracyStatus]]) -> Iterator[Sample]:
    if not known:
        return
    iteration, current = known[-1]
    comparable: list[LabelAccuracyStatus | EarlierLabelAccuracy] = []
    for _, report in known:
        if report.method == current.method:
            # Of a curriculum that another auditor had judged: the series begins with it.
            comparable += [report.earlier] if report.earlier is not None else []
            comparable.append(report)
    best = max(comparable, key=lambda report: Decimal(report.estimate or 0))
    ends = {
        "": current.estimate,
        "_lower": current.lower,
        "_upper": current.upper,
        "_upper90": _upper90(current),
        "_baseline": comparable[0].estimate,
        "_baseline_lower": comparable[0].lower,
        "_best": best.estimate,
        "_best_lower": best.lower,
    }
    for suffix, value in ends.items():
        if value is not None:
            yield Sample(f"{ACCURACY}{suffix}_ratio", (), float(value))
    yield Sample(f"{ACCURACY}_iteration", (), iteration)
    for number, report in known[-NEWEST_ITERATIONS:]:
        name = "rzero_iteration_pseudo_label_accuracy_ratio"
        yield Sample(name, (str(number),), float(report.estimate or 0))


def _upper90(report: LabelAccuracyStatus) -> float | None:
    """What the guardrail compares with the floor (after one look), so that the alert does too."""
    ends = [float(end) for end in (report.estimate, report.lower, report.upper) if end is not None]
    if len(ends) < 3:
        return None
    return at_confidence(Interval(*ends), 0.90, guardrails.is_certain(report)).upper


def _questions(status: RunStatus) -> Iterator[Sample]:
    """Counts of the newest curriculum; it holds the votes of all its rounds."""
    for group in reversed(status.iterations):
        rounds = [
            entry.round
            for entry in group.stages
            if entry.stage is Stage.BUILD_CURRICULUM and entry.state is StageState.DONE
        ]
        if rounds:
            yield from _pool(group, max(rounds))
            return


def _pool(group: IterationStatus, last_round: int) -> Iterator[Sample]:
    drawn, voted, built = (
        [
            entry.metrics
            for entry in group.stages
            if entry.stage is stage and entry.round <= last_round
        ]
        for stage in POOL_STAGES
    )
    metrics = built[-1]
    states = {
        "generated": _total(drawn, "questions"),
        "unparsable": _total(drawn, "malformed"),
        "voted": _total(voted, "questions"),
        "kept": _number(metrics, "kept"),
        "too_easy": _number(metrics, "tooEasy"),
        "too_hard": _number(metrics, "tooHard"),
        "duplicate": sum(_number(metrics, name) for name in _DUPLICATES),
        "unlabelled": _number(metrics, "unlabelled"),
        "tie": _number(metrics, "ties"),
    }
    for state, count in states.items():
        yield Sample("rzero_run_questions", (state,), count)
    for tenth in range(11):
        count = _number(metrics, f"agreement{tenth:02d}")
        yield Sample("rzero_run_agreement_questions", (f"{tenth / 10:.1f}",), count)
    agreement = mean_agreement(group)
    if agreement is not None:
        yield Sample("rzero_run_solver_agreement_ratio", (), agreement.value)


def _scores(status: RunStatus) -> Iterator[Sample]:
    evaluated = [
        (group.iteration, entry.metrics)
        for group in status.iterations
        for entry in group.stages
        if entry.stage is Stage.EVALUATE and entry.state is StageState.DONE
    ]
    for iteration, metrics in evaluated:
        gauges = ["rzero_run_base_score_ratio"] if iteration == 0 else []
        if iteration == evaluated[-1][0]:
            gauges.append("rzero_run_solver_score_ratio")
        for gauge in gauges:
            for key, value in metrics.items():
                if key.endswith(".mean"):
                    yield Sample(gauge, (key.removesuffix(".mean"),), float(value))


def _number(metrics: dict[str, str], key: str) -> float:
    return float(metrics.get(key, "0"))


def _total(entries: Iterable[dict[str, str]], key: str) -> float:
    return sum(_number(metrics, key) for metrics in entries)
