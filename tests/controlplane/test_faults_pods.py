"""Pods of a run are evicted, lose their node, run out of memory, or hang."""

from pathlib import Path

from operator_process import HASTY, create_run, install_crd, operator, wait_for_phase, wait_until
from sanity import check_conditions, check_no_orphans, check_sane, wait_for_stage

from rzero_core.run import Stage
from rzero_core.status import StageState
from rzero_operator.tasks import Step
from tests.cluster.control_plane import ControlPlane
from tests.cluster.fake_nodes import ANNOTATION
from tests.cluster.fake_stages import fake_stages
from tests.cluster.stage_results import Outcome, Start

TRAINING = Step(1, Stage.TRAIN_CHALLENGER)
QUESTIONS = Step(1, Stage.GENERATE_QUESTIONS)
SOLVER = Step(1, Stage.TRAIN_SOLVER)


def test_evicted_pods_cost_preemptions_and_not_failures(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """One by the Eviction API, one by its node, and one shard of two, all within a budget of 1."""
    install_crd(control_plane)

    def decide(start: Start) -> Outcome | None:
        if start.number > 1:
            return None
        if start.task.stage is Stage.TRAIN_CHALLENGER:
            return Outcome(hang=True)
        shard = start.task.stage is Stage.GENERATE_QUESTIONS and start.shard == 1
        return Outcome(evicted=shard or start.task.stage is Stage.TRAIN_SOLVER)

    limits = {"maxRetries": 0, "maxPreemptions": 1}
    with (
        operator(control_plane, tmp_path),
        fake_stages(control_plane, decide) as stages,
    ):
        create_run(
            control_plane,
            namespace,
            "evicted",
            stages=dict.fromkeys(("trainChallenger", "generateQuestions", "trainSolver"), limits),
        )
        wait_for_stage(control_plane, namespace, "evicted", Stage.TRAIN_CHALLENGER)
        wait_until(lambda: bool(stages.starts))
        evict(control_plane, namespace, stages.starts[0].pod)
        wait_for_phase(control_plane, namespace, "evicted", "Succeeded")
        check_sane(
            control_plane,
            namespace,
            "evicted",
            stages,
            budgets=dict.fromkeys((TRAINING, QUESTIONS, SOLVER), (2, 0, 1)),
            done={QUESTIONS: {0: 2, 1: 1}},
        )


def test_a_run_fails_when_it_is_preempted_too_often(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    install_crd(control_plane)
    with (
        operator(control_plane, tmp_path),
        fake_stages(control_plane, lambda _: Outcome(evicted=True)),
    ):
        run = create_run(
            control_plane, namespace, "unlucky", stages={"trainChallenger": {"maxPreemptions": 2}}
        )
        status = wait_for_phase(control_plane, namespace, "unlucky", "Failed")
        entry = status.find(*TRAINING)
        assert entry is not None
        assert (entry.attempts, entry.failures, entry.preemptions) == (3, 0, 3)
        failed = next(item for item in status.conditions if item.type == "Failed")
        assert "lost 3 attempts, more than maxPreemptions allows" in failed.message
        run["status"] = status.to_dict()
        check_conditions(run, frozenset({"Stalled", "Failed"}))
        check_no_orphans(control_plane, namespace)


def test_an_attempt_is_lost_with_its_node(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """The cluster waits 40 s for a node to come back before it gives up on its pods."""
    install_crd(control_plane)
    node = f"fake-{namespace}"
    api = control_plane.api()
    metadata = {"name": node, "annotations": {ANNOTATION: "fake"}, "labels": {"only": namespace}}
    api.request("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": metadata})
    template = {"podTemplate": {"spec": {"nodeSelector": {"only": namespace}}}}

    def decide(start: Start) -> Outcome | None:
        # Pods of other stages may come to this node too once it is back.
        first = start.task.stage is Stage.TRAIN_CHALLENGER and start.number == 1
        return Outcome(hang=True) if first else None

    with operator(control_plane, tmp_path), fake_stages(control_plane, decide) as stages:
        create_run(
            control_plane,
            namespace,
            "homeless",
            stages={"trainChallenger": template | {"maxRetries": 0}},
        )
        wait_until(lambda: bool(stages.starts), 60, "a pod on the node")
        assert stages.starts[0].node == node
        api.request("DELETE", f"/api/v1/nodes/{node}")
        wait_until(lambda: attempts(control_plane, namespace) == 2, 180, "another attempt")
        api.request(
            "POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": metadata}
        )
        wait_for_phase(control_plane, namespace, "homeless", "Succeeded")
        check_sane(control_plane, namespace, "homeless", stages, budgets={TRAINING: (2, 0, 1)})
    api.request("DELETE", f"/api/v1/nodes/{node}")


def test_failures_of_each_kind_are_told_counted_and_tried_again(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """Side by side, for the pause before a second attempt is the same: memory, time, a bug."""
    install_crd(control_plane)
    outcomes = {
        "memory": Outcome(exit_code=137, reason="OOMKilled", message=""),
        "hanging": Outcome(hang=True),
        "buggy": Outcome(exit_code=1, message="Traceback: division by zero"),
        "again": Outcome(exit_code=75, message="the S3 server does not answer"),
    }

    def decide(start: Start) -> Outcome | None:
        first = start.task.stage is Stage.TRAIN_CHALLENGER and start.number == 1
        return outcomes[start.task.run.name] if first else None

    stage = {"maxRetries": 1, "maxPreemptions": 0, "activeDeadlineSeconds": 6}
    with (
        operator(control_plane, tmp_path, prelude=HASTY),
        fake_stages(control_plane, decide) as stages,
    ):
        for name in outcomes:
            given = stage if name == "hanging" else {"maxRetries": 1, "maxPreemptions": 0}
            create_run(control_plane, namespace, name, stages={"trainChallenger": given})
        for name in outcomes:
            wait_for_phase(control_plane, namespace, name, "Succeeded")
            check_sane(control_plane, namespace, name, stages, budgets={TRAINING: (2, 1, 0)})
        told = {name: warnings(control_plane, namespace, name) for name in outcomes}
    said = f"{TRAINING}: attempt 1: "
    remedy = "a container ran out of memory; lower microBatchSize or raise limits.memory"
    assert told["memory"] == {"OutOfMemory": said + remedy}
    (why,) = told["hanging"].values()
    assert list(told["hanging"]) == ["DeadlineExceeded"]
    assert why.startswith(f"{said}ran longer than activeDeadlineSeconds")
    assert told["buggy"] == {"AttemptFailed": f"{said}Traceback: division by zero"}
    assert told["again"] == {"AttemptFailed": f"{said}the S3 server does not answer"}


def test_a_run_whose_stage_never_fits_in_memory_fails(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    install_crd(control_plane)
    outcome = Outcome(exit_code=137, reason="OOMKilled", message="")
    with operator(control_plane, tmp_path), fake_stages(control_plane, lambda _: outcome):
        create_run(
            control_plane, namespace, "greedy", stages={"trainChallenger": {"maxRetries": 0}}
        )
        status = wait_for_phase(control_plane, namespace, "greedy", "Failed")
        entry = status.find(*TRAINING)
        assert entry is not None and entry.state is StageState.FAILED
        assert (entry.attempts, entry.failures, entry.preemptions) == (1, 1, 0)
        assert "ran out of memory" in str(entry.message)
        check_no_orphans(control_plane, namespace)


def evict(cluster: ControlPlane, namespace: str, pod: str) -> None:
    body = {"apiVersion": "policy/v1", "kind": "Eviction"}
    metadata = {"name": pod, "namespace": namespace}
    path = f"/api/v1/namespaces/{namespace}/pods/{pod}/eviction"
    cluster.api().request("POST", path, {**body, "metadata": metadata})


def attempts(cluster: ControlPlane, namespace: str) -> int:
    jobs = cluster.api().get(f"/apis/batch/v1/namespaces/{namespace}/jobs")["items"]
    return max(int(job["metadata"]["labels"]["rzero.dev/attempt"]) for job in jobs)


def warnings(cluster: ControlPlane, namespace: str, name: str) -> dict[str, str]:
    """Messages of the warnings about a run, by their reasons."""
    found = cluster.api().get(f"/api/v1/namespaces/{namespace}/events")["items"]
    return {
        item["reason"]: item["message"]
        for item in found
        if item["involvedObject"]["name"] == name and item["type"] == "Warning"
    }
