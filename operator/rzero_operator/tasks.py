"""Builds the task of a stage from the spec and what earlier stages left in the status. Pure."""

import hashlib
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from rzero_core.run import RunSpec, Stage
from rzero_core.status import (
    EarlierLabelAccuracy,
    LabelAccuracyStatus,
    RunStatus,
    StageState,
    StageStatus,
    UncorrectedLabelAccuracy,
)
from rzero_core.task import (
    BuildCurriculumTask,
    EarlierLabelAudit,
    EvaluateTask,
    GenerateQuestionsTask,
    LabelQuestionsTask,
    RunRef,
    StageResult,
    StageTask,
    TrainChallengerTask,
    TrainSolverTask,
    UncorrectedLabelAudit,
    shard_prefix,
    stage_prefix,
)

OUTPUT = {
    Stage.TRAIN_CHALLENGER: "checkpoint",
    Stage.GENERATE_QUESTIONS: "questions",
    Stage.LABEL_QUESTIONS: "votes",
    Stage.BUILD_CURRICULUM: "curriculum",
    Stage.TRAIN_SOLVER: "checkpoint",
    Stage.EVALUATE: "scores",
}
"""The name under which each stage reports its main artifact."""

POOL_STAGES = (Stage.GENERATE_QUESTIONS, Stage.LABEL_QUESTIONS, Stage.BUILD_CURRICULUM)
"""What a top-up round repeats."""


class Step(NamedTuple):
    """One stage of one iteration."""

    iteration: int
    stage: Stage
    round: int = 1

    def __str__(self) -> str:
        top_up = f", round {self.round}" if self.round > 1 else ""
        return f"iteration {self.iteration}, {self.stage}{top_up}"


def steps(spec: RunSpec, status: RunStatus) -> Iterator[Step]:
    """All steps of a run in their order; the status says how many top-up rounds there are."""
    evaluated = bool(spec.evaluation.datasets)
    if evaluated:
        yield Step(0, Stage.EVALUATE)
    for iteration in range(1, spec.iterations + 1):
        yield Step(iteration, Stage.TRAIN_CHALLENGER)
        for round in range(1, spec.questions.top_ups + 2):
            for stage in POOL_STAGES:
                yield Step(iteration, stage, round)
            built = status.find(iteration, Stage.BUILD_CURRICULUM, round)
            if built is None or Decimal(built.metrics.get("short", "0")) < 1:
                break
        yield Step(iteration, Stage.TRAIN_SOLVER)
        if evaluated:
            yield Step(iteration, Stage.EVALUATE)


def build_task(
    spec: RunSpec, status: RunStatus, run: RunRef, step: Step, attempt: int
) -> StageTask:
    """The task of one attempt; all URIs come from the outputs of earlier stages."""
    iteration, stage, round = step
    base: dict[str, Any] = {
        "run": run,
        "iteration": iteration,
        "round": round,
        "attempt": attempt,
        "seed": spec.seed,
        "storage": spec.storage,
        "prefix": stage_prefix(spec.storage.uri, run, iteration, stage, round),
        "prompts": spec.prompts,
        "sampler": spec.sampler,
    }
    # The Solver changes only at the end of an iteration: until then the previous one serves.
    solver = _checkpoint(spec, status, iteration - 1, Stage.TRAIN_SOLVER)
    match stage:
        case Stage.TRAIN_CHALLENGER:
            return TrainChallengerTask(
                **base,
                challenger=_checkpoint(spec, status, iteration - 1, stage),
                solver=solver,
                base_model=spec.model,
                training=spec.challenger,
                labels=spec.labels,
                questions=spec.questions,
            )
        case Stage.GENERATE_QUESTIONS:
            challenger = _checkpoint(spec, status, iteration, Stage.TRAIN_CHALLENGER)
            return GenerateQuestionsTask(**base, challenger=challenger, questions=spec.questions)
        case Stage.LABEL_QUESTIONS:
            pool = _shards(status, iteration, Stage.GENERATE_QUESTIONS, round)
            # Once an iteration: its curriculum is built from the votes of all rounds.
            probes = spec.label_accuracy.auditor.probes if round == 1 else None
            return LabelQuestionsTask(
                **base, solver=solver, pool=pool, labels=spec.labels, probes=probes
            )
        case Stage.BUILD_CURRICULUM:
            return BuildCurriculumTask(
                **base,
                votes=[
                    uri
                    for earlier in range(1, round + 1)
                    for uri in _shards(status, iteration, Stage.LABEL_QUESTIONS, earlier)
                ],
                questions=spec.questions,
                labels=spec.labels,
                minimum=spec.solver.batch_size,
                last_round=round > spec.questions.top_ups,
                label_accuracy=spec.label_accuracy,
                previous=_curriculum(status, iteration - 1) if iteration > 1 else None,
            )
        case Stage.TRAIN_SOLVER:
            return TrainSolverTask(
                **base,
                solver=solver,
                base_model=spec.model,
                curriculum=_curriculum(status, iteration),
                training=spec.solver,
            )
        case Stage.EVALUATE:
            trained = _checkpoint(spec, status, iteration, Stage.TRAIN_SOLVER)
            return EvaluateTask(
                **base,
                solver=trained,
                evaluation=spec.evaluation,
                previous=_scores(status, iteration - 1),
            )


def shards_of(task: StageTask) -> int | None:
    """Parts that an attempt at `task` consists of, None where the stage has no shards."""
    match task:
        case GenerateQuestionsTask():
            return task.questions.shards
        case LabelQuestionsTask():
            return len(task.pool)
        case _:
            return None


def done(entry: StageStatus, results: Sequence[StageResult], finished_at: str) -> StageStatus:
    """`entry` closed with the results of all its shards, which stand in their order."""
    first = results[0]
    name = OUTPUT[first.stage]
    metrics = dict(first.metrics)
    outputs = dict(first.outputs)
    digest = first.manifest_digest
    if first.shard is not None:
        metrics = {
            key: sum(result.metrics.get(key, 0.0) for result in results)
            for key in sorted({key for result in results for key in result.metrics})
        }
        metrics["shards"] = len(results)
        outputs = {name: first.outputs[name].removesuffix(shard_prefix("", 0))}
        digest = hashlib.sha256(
            "\n".join(result.manifest_digest for result in results).encode()
        ).hexdigest()
    # Shards run side by side, so their times do not add up.
    metrics["seconds"] = max(result.seconds for result in results)
    return entry.model_copy(
        update={
            "state": StageState.DONE,
            "finished_at": finished_at,
            "not_before": None,
            "outputs": outputs,
            "metrics": {key: decimal_string(value) for key, value in metrics.items()},
            "manifest_digest": digest,
            "message": None,
        }
    )


def label_accuracy_of(result: StageResult) -> LabelAccuracyStatus | None:
    """What BuildCurriculum found out about its labels, as the status holds it.

    None for other stages, and for a curriculum that a top-up round will replace.
    """
    audit = result.label_audit
    if audit is None:
        return None
    return LabelAccuracyStatus(
        estimate=_decimal_or_none(audit.estimate),
        lower=_decimal_or_none(audit.lower),
        upper=_decimal_or_none(audit.upper),
        sample_size=audit.sample_size,
        abstained=audit.abstained,
        why=audit.why,
        method=audit.method,
        is_upper_bound=audit.is_upper_bound,
        uncorrected=_uncorrected(audit.uncorrected),
        earlier=_earlier(audit.earlier),
        samples=audit.samples,
    )


def _earlier(audit: EarlierLabelAudit | None) -> EarlierLabelAccuracy | None:
    if audit is None:
        return None
    return EarlierLabelAccuracy(
        estimate=decimal_string(audit.estimate),
        lower=decimal_string(audit.lower),
        upper=decimal_string(audit.upper),
        sample_size=audit.sample_size,
        uncorrected=_uncorrected(audit.uncorrected),
    )


def _uncorrected(audit: UncorrectedLabelAudit | None) -> UncorrectedLabelAccuracy | None:
    if audit is None:
        return None
    return UncorrectedLabelAccuracy(
        estimate=decimal_string(audit.estimate),
        lower=decimal_string(audit.lower),
        upper=decimal_string(audit.upper),
        skill=decimal_string(audit.skill),
    )


def _decimal_or_none(value: float | None) -> str | None:
    return None if value is None else decimal_string(value)


def decimal_string(value: float) -> str:
    """A number as the status holds it: 12 digits, without an exponent, `12` and not `12.0`."""
    text = format(Decimal(f"{value:.12g}"), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _checkpoint(spec: RunSpec, status: RunStatus, iteration: int, stage: Stage) -> str:
    if iteration <= 0:
        return spec.model
    return _done(status, iteration, stage, 1).outputs["checkpoint"]


def _shards(status: RunStatus, iteration: int, stage: Stage, round: int) -> list[str]:
    # As many as there were when the stage ran: the spec may have changed since.
    entry = _done(status, iteration, stage, round)
    uri = entry.outputs[OUTPUT[stage]]
    return [shard_prefix(uri, shard) for shard in range(int(entry.metrics["shards"]))]


def _curriculum(status: RunStatus, iteration: int) -> str:
    """The curriculum of the last round: it holds the votes of all rounds."""
    round = 1
    while (later := status.find(iteration, Stage.BUILD_CURRICULUM, round + 1)) is not None:
        if later.state is not StageState.DONE:
            break
        round += 1
    return _done(status, iteration, Stage.BUILD_CURRICULUM, round).outputs["curriculum"]


def _scores(status: RunStatus, iteration: int) -> str | None:
    """None where the evaluation failed: the next one is not compared with it."""
    entry = status.find(iteration, Stage.EVALUATE)
    return entry.outputs["scores"] if entry and entry.state is StageState.DONE else None


def _done(status: RunStatus, iteration: int, stage: Stage, round: int) -> StageStatus:
    entry = status.find(iteration, stage, round)
    if entry is None or entry.state is not StageState.DONE:
        raise ValueError(f"{Step(iteration, stage, round)} is not done")
    return entry
