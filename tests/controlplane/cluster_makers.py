"""Jobs of runs for tests of the control plane, and what becomes of them."""

import time
from collections.abc import Callable
from typing import Any

from rzero_core.run import RunSpec
from rzero_core.status import RunStatus
from rzero_core.task import RunRef, StageTask
from rzero_operator.tasks import build_task, steps
from tests.cluster.control_plane import ControlPlane

SPEC = RunSpec.parse(
    {"model": "base", "storage": {"uri": "s3://bucket/base"}, "questions": {"shards": 3}}
)
RUN = RunRef(name="test", uid="0f9b6c1e-2f7f-4a6e-9c55-3b1f2d9a7e11")


def make_task(run: RunRef = RUN) -> StageTask:
    """TrainChallenger, which needs nothing that came before."""
    return build_task(SPEC, RunStatus(), run, next(steps(SPEC, RunStatus())), attempt=1)


def make_job(name: str, task: StageTask | None, pods: int = 1, **annotations: str) -> Any:
    """A Job as the operator makes them; without a task one that is not of a run."""
    labels = {} if task is None else {"rzero.dev/run-uid": task.run.uid}
    environment = [] if task is None else [{"name": "RZERO_TASK", "value": task.to_json()}]
    main = {"name": "main", "image": "stages", "env": environment}
    sidecar = {"name": "solver", "image": "vllm", "restartPolicy": "Always"}
    marks = {f"rzero.dev/fake-{key.replace('_', '-')}": text for key, text in annotations.items()}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {
            "completionMode": "Indexed",
            "completions": pods,
            "parallelism": pods,
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            "template": {
                "metadata": {"labels": labels, "annotations": marks},
                "spec": {
                    "restartPolicy": "Never",
                    "initContainers": [sidecar],
                    "containers": [main],
                },
            },
        },
    }


def create(cluster: ControlPlane, namespace: str, job: dict[str, Any]) -> str:
    """Create a Job; its path."""
    jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
    cluster.api().request("POST", jobs, job)
    return f"{jobs}/{job['metadata']['name']}"


def pods_of(cluster: ControlPlane, job: str) -> list[dict[str, Any]]:
    namespace, name = job.split("/")[-3], job.split("/")[-1]
    path = f"/api/v1/namespaces/{namespace}/pods"
    selector = f"labelSelector=batch.kubernetes.io/job-name={name}"
    pods: list[dict[str, Any]] = cluster.api().get(f"{path}?{selector}")["items"]
    return pods


def ended(pod: dict[str, Any]) -> dict[str, Any]:
    """How the main container ended."""
    (status,) = pod["status"]["containerStatuses"]
    state: dict[str, Any] = status["state"]["terminated"]
    return state


def wait(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """What `condition` says once that is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)
    return value


def wait_for_end(cluster: ControlPlane, job: str, seconds: float = 30) -> str:
    """Complete or Failed."""

    def final() -> str | None:
        for condition in cluster.api().get(job)["status"].get("conditions", []):
            if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
                return str(condition["type"])
        return None

    return str(wait(final, seconds))
