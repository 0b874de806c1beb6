"""Attempts, and the Jobs and pods that an API server would show of them."""

from typing import Any

from rzero_core.run import RunSpec, Stage
from rzero_core.status import IterationStatus, RunStatus, StageState, StageStatus
from rzero_core.task import RunRef, StageResult, StageTask, shard_prefix
from rzero_operator.decision import RunIdentity, StartAttempt
from rzero_operator.jobs import render
from rzero_operator.pods import StageDefaults
from rzero_operator.tasks import OUTPUT, POOL_STAGES, Step, build_task, shards_of

UID = "01234567-89ab-cdef-0123-456789abcdef"
JOB_UID = "job-uid"
RUN = RunIdentity(RunRef(name="demo", namespace="lab", uid=UID))
DEFAULTS = StageDefaults(image="example.org/rzero-stages:1")


def make_spec(**fields: Any) -> RunSpec:
    small = {"questions": {"shards": 3}, "iterations": 1}
    return RunSpec.parse(
        {"model": "s3://models/base", "storage": {"uri": "s3://bucket/runs"}, **small, **fields}
    )


def make_start(
    spec: RunSpec, stage: Stage, round: int = 1, attempt: int = 1, run: RunIdentity = RUN
) -> StartAttempt:
    """An attempt of the first iteration, after all stages before it."""
    done = [
        StageStatus(
            stage=earlier,
            round=earlier_round,
            state=StageState.DONE,
            outputs={OUTPUT[earlier]: f"s3://bucket/{earlier}-{earlier_round}"},
            metrics={"shards": str(spec.questions.shards)},
        )
        for earlier in Stage
        for earlier_round in range(1, (round if earlier in POOL_STAGES else 1) + 1)
    ]
    status = RunStatus(iterations=[IterationStatus(iteration=1, stages=done)])
    step = Step(1, stage, round)
    task = build_task(spec, status, run.ref, step, attempt)
    return StartAttempt(step, task, shards_of(task), spec.stages.of(stage))


def rendered(
    stage: Stage, defaults: StageDefaults = DEFAULTS, run: RunIdentity = RUN, **fields: Any
) -> list[dict[str, Any]]:
    """The objects of the first attempt at a stage."""
    spec = make_spec(**fields)
    return render(run, spec, make_start(spec, stage, run=run), defaults)


def job(stage: Stage, defaults: StageDefaults = DEFAULTS, **fields: Any) -> dict[str, Any]:
    return rendered(stage, defaults, **fields)[-1]


def environment(container: dict[str, Any]) -> dict[str, Any]:
    assert len({entry["name"] for entry in container["env"]}) == len(container["env"])
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


def job_of(stage: Stage, conditions: list[dict[str, Any]] | None = None, **fields: Any) -> Any:
    """The Job as the API server gives it."""
    job = rendered(stage, **fields)[-1]
    job["metadata"]["uid"] = JOB_UID
    job["status"] = {"conditions": conditions or []}
    return job


def result_of(task: StageTask, shard: int | None = None) -> StageResult:
    prefix = task.prefix if shard is None else shard_prefix(task.prefix, shard)
    return StageResult(
        run_uid=task.run.uid,
        iteration=task.iteration,
        stage=task.stage,
        round=task.round,
        shard=shard,
        outputs={OUTPUT[task.stage]: prefix},
        metrics={"questions": 3.0},
        manifest_digest="0" * 64,
        seconds=1.5,
    )


def pod_of(
    phase: str = "Running",
    index: int | None = None,
    exit_code: int | None = None,
    message: str = "",
    reason: str = "",
    conditions: list[dict[str, Any]] | None = None,
    waiting: dict[str, Any] | None = None,
    owner: str = JOB_UID,
    finished_at: str = "2026-01-01T00:00:09Z",
) -> dict[str, Any]:
    """A pod of the Job: `exit_code` of `main` once it ended, `waiting` while it cannot start."""
    state: dict[str, Any] = {"running": {"startedAt": "2026-01-01T00:00:01Z"}}
    if exit_code is not None:
        ended = {"exitCode": exit_code, "reason": reason or ("Error" if exit_code else "Completed")}
        state = {"terminated": {**ended, "message": message, "finishedAt": finished_at}}
    elif waiting is not None:
        state = {"waiting": waiting}
    annotations = {} if index is None else {"batch.kubernetes.io/job-completion-index": str(index)}
    return {
        "metadata": {
            "name": f"pod-{index}",
            "annotations": annotations,
            "ownerReferences": [{"kind": "Job", "uid": owner, "controller": True}],
        },
        "status": {
            "phase": phase,
            "conditions": conditions or [],
            "containerStatuses": [{"name": "main", "state": state}],
        },
    }


def disrupted(why: str = "EvictionByEvictionAPI") -> list[dict[str, Any]]:
    said = {"reason": why, "message": "Eviction API: evicting"}
    return [{"type": "DisruptionTarget", "status": "True", **said}]


def failed(reason: str = "BackoffLimitExceeded", message: str = "limit") -> list[dict[str, Any]]:
    return [{"type": "Failed", "status": "True", "reason": reason, "message": message}]
