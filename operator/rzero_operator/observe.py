"""Reads attempts back from what the API server shows of a run: its Jobs, their pods, their events.

Pure: dicts in, attempts out. Nobody's labels or messages are trusted to make sense.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from rzero_core.run import Stage
from rzero_core.task import NEVER_RETRIED, StageResult
from rzero_operator.decision import QUEUED, Attempt, AttemptState, RunIdentity
from rzero_operator.jobs import (
    ATTEMPT_LABEL,
    ITERATION_LABEL,
    QUEUE_LABEL,
    ROUND_LABEL,
    RUN_UID_LABEL,
    SHARDED,
    STAGE_LABEL,
)
from rzero_operator.pods import MAIN
from rzero_operator.sidecars import SIDECAR_FAILED, trouble
from rzero_operator.tasks import Step

Object = Mapping[str, Any]
"""An object as the API server gives it."""

_INDEX = "batch.kubernetes.io/job-completion-index"
_LONGEST_MESSAGE = 500
_STARTING = frozenset({"ContainerCreating", "PodInitializing"})
_OUT_OF_MEMORY = "OOMKilled"
NO_RESULT = "NoResult"
"""The reason of an attempt whose pods ended well and said nothing that is a result."""


def observe(
    run: RunIdentity,
    jobs: Sequence[Object],
    pods: Sequence[Object],
    events: Sequence[Object] = (),
) -> list[Attempt]:
    """All attempts of the run, by the Jobs that it owns; others among `jobs` are passed over.

    `pods` may lack any pod. `events` are those of Jobs without pods, for why they have none.
    """
    attempts = []
    for job in jobs:
        attempt = _named(run, job)
        if attempt is not None:
            own = [pod for pod in pods if _owner(pod) == attempt.execution]
            attempts.append(_observe_job(attempt, job, own, events))
    return attempts


def finished_at(pods: Sequence[Object]) -> datetime | None:
    """When the last container `main` of these pods ended, None while none has."""
    ends = []
    for pod in pods:
        end = _terminated(pod).get("finishedAt")
        try:
            ends.append(datetime.fromisoformat(end or ""))
        except ValueError:
            continue
    return max(ends, default=None)


def _named(run: RunIdentity, job: Object) -> Attempt | None:
    """Whose attempt a Job is; None for a Job that is not the run's or says nonsense."""
    metadata = job["metadata"]
    labels = metadata.get("labels") or {}
    if labels.get(RUN_UID_LABEL) != run.ref.uid or _owner(job) != run.ref.uid:
        return None
    numbers = [labels.get(name, "") for name in (ITERATION_LABEL, ROUND_LABEL, ATTEMPT_LABEL)]
    if not all(re.fullmatch(r"[0-9]{1,9}", number) for number in numbers):
        return None
    iteration, round, attempt = map(int, numbers)
    if labels.get(STAGE_LABEL) not in set(Stage) or round < 1 or attempt < 1:
        return None
    stage = Stage(labels[STAGE_LABEL])
    return Attempt(
        Step(iteration, stage, round),
        attempt,
        AttemptState.RUNNING,
        shards=job["spec"].get("completions", 1) if stage in SHARDED else None,
        execution=metadata["uid"],
    )


def _observe_job(
    attempt: Attempt, job: Object, pods: Sequence[Object], events: Sequence[Object]
) -> Attempt:
    results = _results(attempt, pods)
    conditions = _true_conditions(job)
    # The Job controller says Complete a second or two later than the pods do.
    proven = _pods_are_done(attempt, job, pods) and len(results) == (attempt.shards or 1)
    if proven:
        return replace(attempt, state=AttemptState.SUCCEEDED, results=results)
    if "Complete" in conditions:
        return _completed(attempt, results, pods)
    if "Failed" in conditions:
        return _failed(attempt, conditions["Failed"], pods)
    if job["metadata"].get("deletionTimestamp"):
        return replace(attempt, state=AttemptState.STOPPING)
    for pod in _live(pods):
        found = trouble(pod)
        if found is not None and found.is_final:
            failing = replace(attempt, state=AttemptState.FAILING, exit_code=found.exit_code)
            message = _of_shard(attempt, pod, found.message)
            return replace(failing, reason=SIDECAR_FAILED, message=one_line(message))
    reason, message = _obstacle(attempt, job, pods, events)
    return replace(attempt, reason=reason, message=one_line(message))


def _pods_are_done(attempt: Attempt, job: Object, pods: Sequence[Object]) -> bool:
    """Whether all pods have succeeded: of every shard, or of every node."""
    done = [pod for pod in pods if pod.get("status", {}).get("phase") == "Succeeded"]
    return len({_index(pod) for pod in done}) == int(job["spec"].get("completions", 1))


def _results(attempt: Attempt, pods: Sequence[Object]) -> tuple[StageResult, ...]:
    """What succeeded pods report, one result for each shard; of several nodes the first one's."""
    found: dict[int | None, StageResult] = {}
    for pod in _reporters(attempt, pods):
        result = _result(pod)
        if result is not None:
            found.setdefault(result.shard, result)
    return tuple(found[shard] for shard in sorted(found, key=lambda shard: shard or 0))


def _completed(
    attempt: Attempt, results: tuple[StageResult, ...], pods: Sequence[Object]
) -> Attempt:
    """A Job whose pods all ended well, though some results are missing.

    They went with their pods, or a pod that is still there ran something that is no stage.
    """
    silent = [pod for pod in _reporters(attempt, pods) if _result(pod) is None]
    if not silent:
        return replace(attempt, state=AttemptState.SUCCEEDED, results=results)
    said = _terminated(silent[0]).get("message") or "nothing"
    message = (
        "the stage ended without a result: check the image of the stages (chart: stages.image) and "
        f"`image` and `command` in stages.{attempt.step.stage}.podTemplate; it said: {said}"
    )
    message = _of_shard(attempt, silent[0], message)
    failed = replace(attempt, state=AttemptState.FAILED, reason=NO_RESULT)
    return replace(failed, message=one_line(message))


def _reporters(attempt: Attempt, pods: Sequence[Object]) -> list[Object]:
    """The succeeded pods that have to report: of several nodes the first one."""
    return [
        pod
        for pod in pods
        if pod.get("status", {}).get("phase") == "Succeeded"
        and (attempt.shards is not None or _index(pod) in (None, 0))
    ]


def _result(pod: Object) -> StageResult | None:
    """What a pod reports, None where its last words are no result."""
    try:
        return StageResult.model_validate_json(_terminated(pod).get("message") or "")
    except ValidationError:
        return None


def _failed(attempt: Attempt, condition: Object, pods: Sequence[Object]) -> Attempt:
    """Why the attempt failed; what no retry can mend comes first, then what is no fault of it."""
    attempt = replace(attempt, state=AttemptState.FAILED)
    reason, said = str(condition.get("reason", "")), str(condition.get("message", ""))
    failed = [pod for pod in pods if pod.get("status", {}).get("phase") == "Failed"]
    lost = [pod for pod in failed if "DisruptionTarget" in _true_conditions(pod)]
    hopeless = [pod for pod in failed if _exit_code(pod) in NEVER_RETRIED]
    by_memory = [pod for pod in failed if _terminated(pod).get("reason") == _OUT_OF_MEMORY]
    if hopeless:
        return _explained(attempt, hopeless[0], "")
    if reason == "DeadlineExceeded":
        message = f"ran longer than activeDeadlineSeconds: {said}"
        return replace(attempt, reason=reason, message=one_line(message))
    if lost:
        why = _true_conditions(lost[0])["DisruptionTarget"]
        said = why.get("message") or "the pod was disrupted"
        message = f"{why.get('reason')}: {said}"
        return replace(
            attempt,
            preempted=True,
            exit_code=_exit_code(lost[0]),
            reason="Preempted",
            message=one_line(message),
        )
    if by_memory:
        message = "a container ran out of memory; lower microBatchSize or raise limits.memory"
        return _explained(attempt, by_memory[0], "OutOfMemory", message)
    if failed:
        return _explained(attempt, failed[0], "")
    return _failed_without_pods(attempt, reason, said)


def _failed_without_pods(attempt: Attempt, reason: str, said: str) -> Attempt:
    """The Job's own words, as its controller writes them for a rule of the podFailurePolicy."""
    code = re.search(r"failed with exit code ([0-9]+)", said)
    preempted = "condition DisruptionTarget" in said
    return replace(
        attempt,
        exit_code=int(code[1]) if code else None,
        preempted=preempted,
        reason="Preempted" if preempted else reason,
        message=one_line(said or "the Job failed and its pods are gone"),
    )


def _explained(attempt: Attempt, pod: Object, reason: str, message: str = "") -> Attempt:
    code, status = _exit_code(pod), pod.get("status", {})
    said = _terminated(pod).get("message") or status.get("message") or ""
    # A pod that was never let start has a reason of its own.
    reason = reason or (str(status.get("reason", "")) if code is None else "")
    message = message or said or (f"exit code {code}" if code is not None else "the pod failed")
    message = one_line(_of_shard(attempt, pod, message))
    return replace(attempt, exit_code=code, reason=reason, message=message)


def _of_shard(attempt: Attempt, pod: Object, message: str) -> str:
    """The message with the number of its shard, where there are several."""
    if attempt.shards is not None and attempt.shards > 1 and _index(pod) is not None:
        return f"shard {_index(pod)}: {message}"
    return message


def _obstacle(
    attempt: Attempt, job: Object, pods: Sequence[Object], events: Sequence[Object]
) -> tuple[str, str]:
    """One word and one line for why a live attempt does not go on; empty while it does."""
    if job["spec"].get("suspend"):
        if QUEUE_LABEL in (job["metadata"].get("labels") or {}):
            return QUEUED, f"waits in queue {job['metadata']['labels'][QUEUE_LABEL]}"
        return "JobSuspended", "the Job is suspended, and not by a queue"
    live = _live(pods)
    if not live:
        return _why_no_pods(attempt, events)
    obstacles = [_obstacle_of(pod) for pod in live]
    # Shards wait for each other's devices; nodes that train together need all of them.
    if attempt.shards is not None and None in obstacles:
        return "", ""
    return next((obstacle for obstacle in obstacles if obstacle), ("", ""))


def _live(pods: Sequence[Object]) -> list[Object]:
    return [pod for pod in pods if pod.get("status", {}).get("phase") in ("Pending", "Running")]


def _why_no_pods(attempt: Attempt, events: Sequence[Object]) -> tuple[str, str]:
    """The newest warning about the Job: a pod that admission refuses shows nowhere else."""
    warnings = [
        event
        for event in events
        if event.get("type") == "Warning"
        and event.get("involvedObject", {}).get("uid") == attempt.execution
    ]
    if not warnings:
        return "", ""
    last = max(warnings, key=lambda event: str(event.get("lastTimestamp") or ""))
    return str(last.get("reason", "")), str(last.get("message", ""))


def _obstacle_of(pod: Object) -> tuple[str, str] | None:
    """Why a live pod does not go on, None while it does."""
    status = pod.get("status", {})
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return str(condition.get("reason", "")), str(condition.get("message", ""))
    ailing = trouble(pod)
    if ailing is not None:
        return SIDECAR_FAILED, ailing.message
    for container in _container_statuses(pod):
        waiting = container.get("state", {}).get("waiting") or {}
        reason, message = str(waiting.get("reason") or ""), str(waiting.get("message") or "")
        if reason and reason not in _STARTING:
            # The kubelet alternates between the error and the pause after it: say one thing.
            reason = reason.replace("ErrImagePull", "ImagePullBackOff")
            message = re.sub(r"^Back-off pulling image .*?: ErrImagePull: ", "", message)
            return reason, f"container {container.get('name')}: {message}"
    return None


def _container_statuses(pod: Object) -> list[Object]:
    status = pod.get("status", {})
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def _terminated(pod: Object) -> Object:
    """How the container `main` ended; empty while it has not."""
    for container in pod.get("status", {}).get("containerStatuses") or ():
        if container.get("name") == MAIN:
            return container.get("state", {}).get("terminated") or {}
    return {}


def _exit_code(pod: Object) -> int | None:
    code: int | None = _terminated(pod).get("exitCode")
    return code


def _index(pod: Object) -> int | None:
    """The number of the shard or node, None for a pod without one."""
    number = (pod["metadata"].get("annotations") or {}).get(_INDEX, "")
    return int(number) if re.fullmatch(r"[0-9]{1,9}", number) else None


def _owner(item: Object) -> str:
    """UID of the controller."""
    for reference in item["metadata"].get("ownerReferences") or ():
        if reference.get("controller"):
            return str(reference["uid"])
    return ""


def _true_conditions(item: Object) -> dict[str, Object]:
    return {
        condition["type"]: condition
        for condition in item.get("status", {}).get("conditions") or ()
        if condition.get("status") == "True"
    }


def one_line(text: str) -> str:
    """Text that may hold anything, a model's output too, as one short line that can be printed."""
    shown = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(shown.split())[:_LONGEST_MESSAGE]
