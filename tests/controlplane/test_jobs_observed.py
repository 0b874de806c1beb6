"""What the Job controller makes of our Jobs is read back as what happened."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from job_makers import make_spec, make_start
from operator_process import wait_until

from rzero_core.run import Stage
from rzero_core.task import RunRef
from rzero_operator.decision import Attempt, AttemptState, RunIdentity
from rzero_operator.jobs import render, selector
from rzero_operator.observe import observe
from rzero_operator.pods import StageDefaults
from tests.cluster.api import Api
from tests.cluster.control_plane import ControlPlane
from tests.cluster.fake_stages import fake_stages
from tests.cluster.stage_results import Outcome, Start

DEFAULTS = StageDefaults(image="stages:1", termination_grace_period_seconds=2)


@dataclass
class Place:
    """A namespace with one run, for which a ConfigMap stands: the garbage collector knows those."""

    api: Api
    namespace: str
    run: RunIdentity

    def create(self, stage: Stage, **fields: Any) -> str:
        """The path of the Job of the first attempt at a stage."""
        spec = make_spec(**fields)
        path = ""
        for item in render(self.run, spec, make_start(spec, stage, run=self.run), DEFAULTS):
            owner = item["metadata"]["ownerReferences"][0]
            owner |= {"apiVersion": "v1", "kind": "ConfigMap"}
            group = "api/v1" if item["apiVersion"] == "v1" else f"apis/{item['apiVersion']}"
            path = f"/{group}/namespaces/{self.namespace}/{item['kind'].lower()}s"
            self.api.request("POST", path, item)
            path += f"/{item['metadata']['name']}"
        return path

    def observe(self) -> list[Attempt]:
        words = f"labelSelector={selector(self.run)}"
        jobs = self.api.get(f"/apis/batch/v1/namespaces/{self.namespace}/jobs?{words}")["items"]
        pods = self.api.get(f"/api/v1/namespaces/{self.namespace}/pods?{words}")["items"]
        events = self.api.get(f"/api/v1/namespaces/{self.namespace}/events")["items"]
        return observe(self.run, jobs, pods, events)

    def wait(self, until: Callable[[Attempt], bool], seconds: float = 30) -> Attempt:
        """The one attempt, once it is as asked."""
        deadline = time.monotonic() + seconds
        while True:
            (attempt,) = self.observe()
            if until(attempt):
                return attempt
            assert time.monotonic() < deadline, attempt
            time.sleep(0.1)

    def end(self) -> Attempt:
        return self.wait(lambda a: a.state in (AttemptState.SUCCEEDED, AttemptState.FAILED))


@pytest.fixture
def place(control_plane: ControlPlane, namespace: str) -> Iterator[Place]:
    api = control_plane.api()
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "demo"}}
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    uid = api.request("POST", path, body)["metadata"]["uid"]
    yield Place(api, namespace, RunIdentity(RunRef(name="demo", namespace=namespace, uid=uid)))


@pytest.mark.parametrize("stage", Stage)
def test_a_stage_that_reports_has_succeeded(
    control_plane: ControlPlane, place: Place, stage: Stage
) -> None:
    with fake_stages(control_plane):
        job = place.create(stage)
        attempt = place.end()
    assert attempt.state is AttemptState.SUCCEEDED
    assert attempt.execution == place.api.get(job)["metadata"]["uid"]
    sharded = stage in (Stage.GENERATE_QUESTIONS, Stage.LABEL_QUESTIONS)
    assert [item.shard for item in attempt.results] == ([0, 1, 2] if sharded else [None])


def test_nodes_that_train_together_report_once(control_plane: ControlPlane, place: Place) -> None:
    with fake_stages(control_plane):
        place.create(Stage.TRAIN_SOLVER, stages={"trainSolver": {"nodes": 2}})
        attempt = place.end()
    assert (attempt.state, len(attempt.results)) == (AttemptState.SUCCEEDED, 1)


@pytest.mark.parametrize(
    ("outcome", "code", "reason", "preempted"),
    [
        (Outcome(exit_code=65, message="row 7 is no JSON"), 65, "", False),
        (Outcome(exit_code=75, message="no answer"), 75, "", False),
        (Outcome(exit_code=137, reason="OOMKilled", message=""), 137, "OutOfMemory", False),
        (Outcome(exit_code=75, evicted=True, message="stopped"), 75, "Preempted", True),
    ],
)
@pytest.mark.parametrize("keep_pods", [True, False], ids=["pods", "no pods"])
def test_a_failure_is_told_from_its_pods_or_from_its_job(
    control_plane: ControlPlane,
    place: Place,
    outcome: Outcome,
    code: int,
    reason: str,
    preempted: bool,
    keep_pods: bool,
) -> None:
    with fake_stages(control_plane, lambda _: outcome):
        place.create(Stage.TRAIN_SOLVER)
        attempt = place.end()
        if not keep_pods:
            pods = f"/api/v1/namespaces/{place.namespace}/pods"
            place.api.request("DELETE", pods)
            wait_until(lambda: not place.api.get(pods)["items"], what="the pods to go")
            (attempt,) = place.observe()
    assert attempt.state is AttemptState.FAILED
    assert attempt.preempted is preempted
    if keep_pods:
        assert (attempt.exit_code, attempt.reason) == (code, reason)
    elif code == 65:
        assert attempt.exit_code == 65


def test_pods_that_end_well_without_a_result_have_failed_unless_they_are_gone(
    control_plane: ControlPlane, place: Place
) -> None:
    """As of an image that is not of the stages; a result may go with its pod."""
    with fake_stages(control_plane, lambda _: Outcome(message="hello from another image")):
        place.create(Stage.TRAIN_SOLVER)
        attempt = place.end()
        assert (attempt.state, attempt.reason) == (AttemptState.FAILED, "NoResult")
        assert attempt.message.endswith("it said: hello from another image")
        pods = f"/api/v1/namespaces/{place.namespace}/pods"
        place.api.request("DELETE", pods)
        wait_until(lambda: not place.api.get(pods)["items"], what="the pods to go")
        (attempt,) = place.observe()
    assert (attempt.state, attempt.results) == (AttemptState.SUCCEEDED, ())


def test_a_shard_that_fails_leaves_the_others_to_finish(
    control_plane: ControlPlane, place: Place
) -> None:
    def decide(start: Start) -> Outcome:
        failed = start.shard == 0
        return Outcome(exit_code=75, message="no answer") if failed else Outcome(seconds=1)

    with fake_stages(control_plane, decide) as stages:
        place.create(Stage.LABEL_QUESTIONS, stages={"labelQuestions": {"parallelism": 2}})
        attempt = place.end()
        assert sorted(str(start.shard) for start in stages.starts) == ["0", "1", "2"]
    assert attempt.state is AttemptState.FAILED
    assert (attempt.exit_code, attempt.message) == (75, "shard 0: no answer")


def test_a_passed_deadline_is_named(control_plane: ControlPlane, place: Place) -> None:
    with fake_stages(control_plane, lambda _: Outcome(hang=True)):
        place.create(Stage.EVALUATE, stages={"evaluate": {"activeDeadlineSeconds": 1}})
        attempt = place.end()
    assert (attempt.state, attempt.reason) == (AttemptState.FAILED, "DeadlineExceeded")


def test_a_job_that_is_deleted_stops_until_its_pods_are_gone(
    control_plane: ControlPlane, place: Place
) -> None:
    with fake_stages(control_plane, lambda _: Outcome(hang=True), stop_seconds=2) as stages:
        job = place.create(Stage.TRAIN_SOLVER)
        wait_until(lambda: bool(stages.starts))
        place.api.request("DELETE", f"{job}?propagationPolicy=Foreground")
        assert place.wait(lambda a: True).state is AttemptState.STOPPING
        deadline = time.monotonic() + 20
        while place.observe():
            assert time.monotonic() < deadline
            time.sleep(0.1)
    pods = place.api.get(f"/api/v1/namespaces/{place.namespace}/pods")["items"]
    assert pods == []


def test_a_pod_that_admission_refuses_shows_in_the_events_of_its_job(
    control_plane: ControlPlane, place: Place
) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    path = f"/api/v1/namespaces/{place.namespace}"
    place.api.patch(path, {"metadata": {"labels": labels}})
    template = {"spec": {"hostNetwork": True}}
    place.create(Stage.EVALUATE, stages={"evaluate": {"podTemplate": template}})
    attempt = place.wait(lambda a: a.reason != "")
    assert (attempt.state, attempt.reason) == (AttemptState.RUNNING, "FailedCreate")
    assert 'violates PodSecurity "restricted' in attempt.message


def test_a_stage_that_no_node_can_hold_is_unschedulable(place: Place) -> None:
    template = {"spec": {"nodeSelector": {"no-such": "node"}}}
    place.create(Stage.EVALUATE, stages={"evaluate": {"podTemplate": template}})
    attempt = place.wait(lambda a: a.reason != "")
    assert (attempt.state, attempt.reason) == (AttemptState.RUNNING, "Unschedulable")
