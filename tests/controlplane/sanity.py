"""Says whether a run came through a fault as if there had been none, and left nothing behind."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from operator_process import get_run, status_of, wait_until

from rzero_core.run import RunSpec, Stage
from rzero_core.status import RunStatus, StageState
from rzero_core.task import RunRef, stage_prefix
from rzero_operator.jobs import job_name
from rzero_operator.tasks import OUTPUT, Step, steps
from tests.cluster.control_plane import ControlPlane
from tests.cluster.fake_stages import FakeStages

Budget = tuple[int, int, int]
"""Attempts, failures, preemptions."""
Counts = int | Mapping[int | None, int]
"""Of each shard, or of all alike."""
UNDISTURBED: Budget = (1, 0, 0)
TRUE = frozenset({"Ready", "Succeeded"})
"""Conditions of a run that is done."""
CONDITIONS = frozenset({"Ready", "Reconciling", "Stalled", "Suspended", "Succeeded", "Failed"})


def check_sane(
    cluster: ControlPlane,
    namespace: str,
    name: str,
    stages: FakeStages,
    *,
    budgets: Mapping[Step, Budget] | None = None,
    starts: Mapping[Step, int] | None = None,
    done: Mapping[Step, Counts] | None = None,
) -> RunStatus:
    """A run that succeeded: each stage done once, budgets exact, conditions true, no orphan.

    `budgets`: of steps that were disturbed. `starts`, `done`: how often the pods of a step began,
    and ended well, where that is not once for each attempt, and once. A stage that is begun again
    after it ended well answers from its manifest.
    """
    run = get_run(cluster, namespace, name)
    status = RunStatus.parse(run["status"])
    budgets, starts, done = budgets or {}, starts or {}, done or {}
    expected = list(steps(RunSpec.parse(run["spec"]), status))
    _check_stages(run, status, {step: budgets.get(step, UNDISTURBED) for step in expected})
    began = _counts(run, stages.starts)
    for step in expected:
        attempts = budgets.get(step, UNDISTURBED)[0]
        assert set(began[step].values()) == {starts.get(step, attempts)}, (step, began)
    assert set(began) == set(expected)
    # A node notes that a pod ended well after the server, and so the operator, knows it.
    wait_until(
        lambda: _ended_as_often(_counts(run, stages.done), expected, done),
        what=lambda: f"these ends {_counts(run, stages.done)} to be those of {expected}, {done}",
    )
    check_conditions(run, TRUE)
    check_no_orphans(cluster, namespace)
    return status


def check_conditions(run: Mapping[str, Any], true: frozenset[str]) -> None:
    """Exactly these conditions are true, and all answer the current spec."""
    conditions = run["status"]["conditions"]
    told = {item["type"] for item in conditions if item["status"] == "True"}
    assert told - {"LabelAccuracyHealthy"} == true, conditions
    assert {item["type"] for item in conditions} >= CONDITIONS
    assert len({item["type"] for item in conditions}) == len(conditions)
    generation = run["metadata"]["generation"]
    assert {item["observedGeneration"] for item in conditions} == {generation}
    assert run["status"]["observedGeneration"] == generation


def check_no_orphans(cluster: ControlPlane, namespace: str) -> None:
    """Soon all Jobs, pods and Services of the namespace belong to runs, and none is at work."""
    wait_until(
        lambda: not list(_at_work(cluster, namespace)),
        120,
        lambda: f"all to be over: {list(_at_work(cluster, namespace))}",
    )
    api = cluster.api()
    runs = {
        run["metadata"]["uid"]: run["metadata"]["name"]
        for run in api.get(f"/apis/rzero.dev/v1alpha1/namespaces/{namespace}/coevolutionruns")[
            "items"
        ]
    }
    jobs = {}
    for job in api.get(f"/apis/batch/v1/namespaces/{namespace}/jobs")["items"]:
        labels = job["metadata"]["labels"]
        assert _owner(job) in runs
        iteration, round, attempt = (
            int(labels[f"rzero.dev/{word}"]) for word in ("iteration", "round", "attempt")
        )
        step = Step(iteration, Stage(labels["rzero.dev/stage"]), round)
        assert job["metadata"]["name"] == job_name(runs[_owner(job)], step, attempt)
        jobs[job["metadata"]["uid"]] = job
    for pod in api.get(f"/api/v1/namespaces/{namespace}/pods")["items"]:
        assert _owner(pod) in jobs, pod["metadata"]["name"]
    for service in api.get(f"/api/v1/namespaces/{namespace}/services")["items"]:
        assert _owner(service) in runs, service["metadata"]["name"]


def live_jobs(cluster: ControlPlane, namespace: str) -> list[dict[str, Any]]:
    """Jobs that are not over, in the order of their creation."""
    jobs = cluster.api().get(f"/apis/batch/v1/namespaces/{namespace}/jobs")["items"]
    live = [job for job in jobs if not _is_over(job)]
    return sorted(live, key=lambda job: job["metadata"]["creationTimestamp"])


def wait_for_stage(cluster: ControlPlane, namespace: str, name: str, stage: Stage) -> RunStatus:
    """Wait until the first attempt at a stage is seen running."""

    def runs() -> bool:
        status = status_of(cluster, namespace, name)
        entry = status.find(max(status.iteration, 1), stage)
        return (
            entry is not None and entry.state is StageState.RUNNING and entry.execution is not None
        )

    wait_until(runs, 120, lambda: f"{stage} to run: {status_of(cluster, namespace, name)}")
    return status_of(cluster, namespace, name)


def wait_for_condition(
    cluster: ControlPlane, namespace: str, name: str, type: str, reason: str, seconds: float = 60
) -> str:
    """Wait until a condition is true for a reason; its message."""
    told: dict[str, Any] = {}

    def is_true() -> bool:
        conditions = get_run(cluster, namespace, name).get("status", {}).get("conditions", [])
        told.update({item["type"]: item for item in conditions})
        found = told.get(type, {})
        return (found.get("status"), found.get("reason")) == ("True", reason)

    wait_until(is_true, seconds, lambda: f"{name} to be {type}/{reason}: {told}")
    return str(told[type]["message"])


def wait_for_event(cluster: ControlPlane, namespace: str, name: str, reason: str) -> None:
    """Wait until an operator has told all that is known by now of a run, this reason among it.

    It writes the status first, and posts events after that. The audit log has them all then.
    """

    def is_told() -> bool:
        found = cluster.api().get(f"/api/v1/namespaces/{namespace}/events")["items"]
        told = [item for item in found if item["reportingComponent"] == "rzero-operator"]
        posts = writes(cluster, namespace).count("create events 201")
        return posts == len(told) and (name, reason) in {
            (item["involvedObject"]["name"], item["reason"]) for item in told
        }

    wait_until(is_told, 60, f"{name} to be told {reason}")


def writes(cluster: ControlPlane, namespace: str, agent: str = "rzero-operator") -> list[str]:
    """What an operator wrote in a namespace, as `verb resource/subresource code`."""
    return [
        " ".join(
            (
                event["verb"],
                "/".join(
                    part
                    for part in (
                        event["objectRef"]["resource"],
                        event["objectRef"].get("subresource"),
                    )
                    if part
                ),
                str(event["responseStatus"]["code"]),
            )
        )
        for event in cluster.audit_events()
        if event.get("userAgent") == agent
        and event["verb"] not in ("get", "list", "watch")
        and event.get("objectRef", {}).get("namespace") == namespace
    ]


def _check_stages(
    run: Mapping[str, Any], status: RunStatus, budgets: Mapping[Step, Budget]
) -> None:
    entries = {
        Step(group.iteration, entry.stage, entry.round): entry
        for group in status.iterations
        for entry in group.stages
    }
    found = {step: (e.attempts, e.failures, e.preemptions) for step, e in entries.items()}
    assert found == dict(budgets)
    metadata, root = run["metadata"], run["spec"]["storage"]["uri"]
    ref = RunRef(name=metadata["name"], namespace=metadata["namespace"], uid=metadata["uid"])
    for step, entry in entries.items():
        assert entry.state is StageState.DONE, (step, entry)
        assert entry.outputs == {OUTPUT[step.stage]: stage_prefix(root, ref, *step)}
        assert entry.manifest_digest and entry.not_before is None


def _counts(run: Mapping[str, Any], pods: list[Any]) -> dict[Step, Counter[int | None]]:
    """How often each shard of each step of this run is among these."""
    counts: dict[Step, Counter[int | None]] = {}
    for start in pods:
        task = start.task
        if task.run.uid == run["metadata"]["uid"]:
            step = Step(task.iteration, task.stage, task.round)
            counts.setdefault(step, Counter())[start.shard] += 1
    return counts


def _ended_as_often(
    ended: Mapping[Step, Counter[int | None]],
    expected: Sequence[Step],
    done: Mapping[Step, Counts],
) -> bool:
    """Whether the shards of each step ended well once, or as often as `done` says."""
    for step in expected:
        found, counts = ended.get(step, Counter()), done.get(step, 1)
        if not found or found != (
            counts if isinstance(counts, Mapping) else dict.fromkeys(found, counts)
        ):
            return False
    return True


def _at_work(cluster: ControlPlane, namespace: str) -> Iterator[str]:
    api = cluster.api()
    for job in api.get(f"/apis/batch/v1/namespaces/{namespace}/jobs")["items"]:
        if not _is_over(job) or "deletionTimestamp" in job["metadata"]:
            yield job["metadata"]["name"]
    jobs = api.get(f"/apis/batch/v1/namespaces/{namespace}/jobs")["items"]
    uids = {job["metadata"]["uid"] for job in jobs}
    for pod in api.get(f"/api/v1/namespaces/{namespace}/pods")["items"]:
        over = pod["status"].get("phase") in ("Succeeded", "Failed")
        # The garbage collector takes a moment to follow an owner.
        if not over or "deletionTimestamp" in pod["metadata"] or _owner(pod) not in uids:
            yield pod["metadata"]["name"]


def _is_over(job: Mapping[str, Any]) -> bool:
    return any(
        item["type"] in ("Complete", "Failed") and item["status"] == "True"
        for item in job["status"].get("conditions", [])
    )


def _owner(item: Mapping[str, Any]) -> str:
    return next(
        (str(o["uid"]) for o in item["metadata"].get("ownerReferences", []) if o.get("controller")),
        "",
    )
