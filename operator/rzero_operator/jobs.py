"""Renders an attempt as Kubernetes objects: one Job, and a Service where several nodes train.

Pure: the caller creates the objects, and `observe` reads back what became of them.
"""

import hashlib
from typing import Any

from rzero_core.run import API_VERSION, KIND, RunSpec, Stage
from rzero_core.task import NEVER_RETRIED, TrainChallengerTask, TrainSolverTask
from rzero_operator.decision import RunIdentity, StartAttempt
from rzero_operator.pods import (
    MAIN,
    MASTER_PORT,
    SOLVER_PORT,
    StageDefaults,
    pod_template,
    solver_gpus,
)
from rzero_operator.tasks import Step

RUN_LABEL = "rzero.dev/run"
RUN_UID_LABEL = "rzero.dev/run-uid"
ITERATION_LABEL = "rzero.dev/iteration"
STAGE_LABEL = "rzero.dev/stage"
ROUND_LABEL = "rzero.dev/round"
ATTEMPT_LABEL = "rzero.dev/attempt"
RETRY_ANNOTATION = "rzero.dev/retry"
"""On a run: another value than before tries it again after a failure."""
RESUME_ANNOTATION = "rzero.dev/resume"
"""On a run: another value than before lets it go on where the guardrail held it up."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
_KUEUE = "kueue.x-k8s.io/"

PARTS = {
    Stage.TRAIN_CHALLENGER: "chal",
    Stage.GENERATE_QUESTIONS: "gen",
    Stage.LABEL_QUESTIONS: "label",
    Stage.BUILD_CURRICULUM: "curr",
    Stage.TRAIN_SOLVER: "solv",
    Stage.EVALUATE: "eval",
}
"""Each stage in the name of its Jobs."""
SHARDED = frozenset({Stage.GENERATE_QUESTIONS, Stage.LABEL_QUESTIONS})
LONGEST_NAME = 63 - len("-9999")
"""A pod's host name is its Job's name and its index, and a host name has at most 63 characters."""


def selector(run: RunIdentity) -> str:
    """The label selector of all that a run owns: by UID, so not of an earlier run of its name."""
    return f"{RUN_UID_LABEL}={run.ref.uid}"


def job_name(run_name: str, step: Step, attempt: int) -> str:
    """`<run>-i001-<stage>-a1`, with `-r2` before the attempt in a top-up round.

    Fits a host name with an index of four digits; where attempts run into the thousands the run's
    name is shortened to make room.
    """
    top_up = f"-r{step.round}" if step.round > 1 else ""
    suffix = f"-i{step.iteration:03d}-{PARTS[step.stage]}{top_up}-a{attempt}"
    room = LONGEST_NAME - len(suffix)
    if len(run_name) > room:
        digest = hashlib.sha256(run_name.encode()).hexdigest()[:6]
        run_name = f"{run_name[: room - 7].rstrip('-')}-{digest}"
    return run_name + suffix


def render(
    run: RunIdentity, spec: RunSpec, start: StartAttempt, defaults: StageDefaults
) -> list[dict[str, Any]]:
    """The objects to create for an attempt, the Job last."""
    task, settings = start.task, start.settings
    if isinstance(task, TrainChallengerTask) and solver_gpus(task, settings) is not None:
        task = task.model_copy(update={"solver_endpoint": f"http://127.0.0.1:{SOLVER_PORT}"})
    name = job_name(run.ref.name, start.step, task.attempt)
    labels = {
        **defaults.labels,
        **_common_labels(run),
        ITERATION_LABEL: str(start.step.iteration),
        STAGE_LABEL: str(start.step.stage),
        ROUND_LABEL: str(start.step.round),
        ATTEMPT_LABEL: str(task.attempt),
    }
    trains = isinstance(task, TrainChallengerTask | TrainSolverTask)
    service = service_name(run) if trains and settings.nodes > 1 else None
    template = pod_template(spec, task, settings, defaults, labels, service, f"{name}-0.{service}")
    job_labels = labels | _kueue_labels(template)
    if spec.queue_name:
        job_labels[QUEUE_LABEL] = spec.queue_name
    job_spec = {**_job_policy(start, service is not None), "template": template}
    if settings.active_deadline_seconds is not None:
        job_spec["activeDeadlineSeconds"] = settings.active_deadline_seconds
    job = _object("batch/v1", "Job", name, run, job_labels, job_spec)
    return [_service(run, service, defaults), job] if service else [job]


def service_name(run: RunIdentity) -> str:
    """The headless Service through which nodes of a run find each other, in all its attempts."""
    return f"{run.ref.name}-{run.ref.uid[:8]}"


def _job_policy(start: StartAttempt, gang: bool) -> dict[str, Any]:
    """How the Job goes on after a pod's end: never, for the plan decides about attempts."""
    settings = start.settings
    policy: dict[str, Any] = {
        "podReplacementPolicy": "Failed",
        "ttlSecondsAfterFinished": settings.ttl_seconds_after_finished,
    }
    if start.shards is None:
        nodes = settings.nodes if gang else 1
        return policy | {
            "backoffLimit": 0,
            "completionMode": "Indexed" if gang else "NonIndexed",
            "completions": nodes,
            "parallelism": nodes,
            "podFailurePolicy": _failure_policy("FailJob"),
        }
    return policy | {
        # A shard that fails leaves the others alone: the next attempt finds their work done.
        "backoffLimitPerIndex": 0,
        "completionMode": "Indexed",
        "completions": start.shards,
        "parallelism": min(settings.parallelism, start.shards),
        "podFailurePolicy": _failure_policy("FailIndex"),
    }


def _failure_policy(action: str) -> dict[str, Any]:
    """No pod is ever replaced; with these rules the Job's condition says why it failed."""
    codes = {"containerName": MAIN, "operator": "In", "values": sorted(NEVER_RETRIED)}
    disruption = {"type": "DisruptionTarget", "status": "True"}
    return {
        "rules": [
            {"action": action, "onExitCodes": codes},
            {"action": action, "onPodConditions": [disruption]},
        ]
    }


def _service(run: RunIdentity, name: str, defaults: StageDefaults) -> dict[str, Any]:
    spec = {
        "clusterIP": "None",
        "ports": [{"name": "rendezvous", "port": MASTER_PORT}],
        # Nodes meet before any of them is ready.
        "publishNotReadyAddresses": True,
        "selector": {RUN_UID_LABEL: run.ref.uid},
    }
    return _object("v1", "Service", name, run, defaults.labels | _common_labels(run), spec)


def _object(
    version: str,
    kind: str,
    name: str,
    run: RunIdentity,
    labels: dict[str, str],
    spec: dict[str, Any],
) -> dict[str, Any]:
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": run.ref.namespace,
            "labels": labels,
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": KIND,
                    "name": run.ref.name,
                    "uid": run.ref.uid,
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "spec": spec,
    }


def _common_labels(run: RunIdentity) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "rzero",
        "app.kubernetes.io/instance": run.ref.name,
        "app.kubernetes.io/component": "stage",
        "app.kubernetes.io/part-of": "rzero",
        "app.kubernetes.io/managed-by": "rzero-operator",
        RUN_LABEL: run.ref.name,
        RUN_UID_LABEL: run.ref.uid,
    }


def _kueue_labels(template: dict[str, Any]) -> dict[str, str]:
    """Kueue reads its labels, such as a priority class, from the Job."""
    labels = template["metadata"]["labels"]
    return {key: value for key, value in labels.items() if key.startswith(_KUEUE)}
