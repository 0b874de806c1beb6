"""What only the cluster can know about a run is shown as a condition, and nothing is hammered."""

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from api_proxy import Answer, Asked, api_proxy, kubeconfig_through
from operator_process import (
    HASTY,
    OperatorProcess,
    create_run,
    get_run,
    install_crd,
    operator,
    patch_run,
    status_of,
    wait_for_phase,
    wait_until,
)
from sanity import (
    check_conditions,
    check_no_orphans,
    check_sane,
    live_jobs,
    wait_for_condition,
    wait_for_event,
    wait_for_stage,
    writes,
)

from rzero_core.run import Stage
from rzero_operator.tasks import Step
from tests.cluster.control_plane import ControlPlane
from tests.cluster.fake_stages import FakeStages, fake_stages
from tests.cluster.stage_results import Outcome, Start

TRAINING = Step(1, Stage.TRAIN_CHALLENGER)
SOON = 60
"""Seconds within which a condition must say what is wrong."""
QUIET_SECONDS = 4.5
"""Longer than the pause between two looks at a run that cannot go on."""
RETRY = {"metadata": {"annotations": {"rzero.dev/retry": "now"}}}
MISSING = 'secret "rzero-s3" not found'
PULL = 'failed to resolve image "nowhere/stages:1": not found'


@contextmanager
def quiet(cluster: ControlPlane, namespace: str, most: int) -> Iterator[None]:
    """For a while an operator writes at most this often (a refused create is a write too)."""
    before = len(writes(cluster, namespace))
    yield
    time.sleep(QUIET_SECONDS)
    made = writes(cluster, namespace)[before:]
    assert len(made) <= most, made


def patient(cluster: ControlPlane, folder: Path) -> AbstractContextManager[OperatorProcess]:
    """An operator whose usual resync would come too late for a condition that is due soon."""
    return operator(cluster, folder, prelude=HASTY, RZERO_RESYNC_SECONDS="60")


def stalled(run: dict[str, Any]) -> None:
    """Stalled, but still at it: somebody can mend it from outside."""
    check_conditions(run, frozenset({"Reconciling", "Stalled"}))


@pytest.mark.parametrize(
    ("reason", "kubelet_says", "message"),
    [
        ("CreateContainerConfigError", ("CreateContainerConfigError", MISSING), MISSING),
        ("ImagePullBackOff", ("ErrImagePull", PULL), PULL),
    ],
)
def test_a_container_that_cannot_start_stalls_the_run_until_another_attempt_is_asked_for(
    control_plane: ControlPlane,
    namespace: str,
    tmp_path: Path,
    reason: str,
    kubelet_says: tuple[str, str],
    message: str,
) -> None:
    install_crd(control_plane)
    with patient(control_plane, tmp_path), fake_stages(control_plane, hang_at_first) as stages:
        create_run(control_plane, namespace, "stuck")
        wait_until(lambda: runs_as_pod(control_plane, namespace, stages), 60)
        say_waiting(control_plane, namespace, stages.starts[0].pod, *kubelet_says)
        told = wait_for_condition(control_plane, namespace, "stuck", "Stalled", reason, SOON)
        assert message in told and "container main" in told
        stalled(get_run(control_plane, namespace, "stuck"))
        wait_for_event(control_plane, namespace, "stuck", reason)
        with quiet(control_plane, namespace, 1):
            # As a kubelet does after its first try.
            back_off = f"Back-off pulling image x: ErrImagePull: {kubelet_says[1]}"
            word = "ImagePullBackOff" if reason == "ImagePullBackOff" else kubelet_says[0]
            say_waiting(control_plane, namespace, stages.starts[0].pod, word, back_off)
        patch_run(control_plane, namespace, "stuck", RETRY)
        wait_for_phase(control_plane, namespace, "stuck", "Succeeded")
        check_sane(control_plane, namespace, "stuck", stages, budgets={TRAINING: (2, 0, 1)})


def test_a_pod_that_no_node_can_take_stalls_the_run(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    install_crd(control_plane)
    with patient(control_plane, tmp_path), fake_stages(control_plane) as stages:
        create_run(
            control_plane,
            namespace,
            "large",
            stages={
                "trainChallenger": {
                    "gpus": 8,
                    "podTemplate": {"spec": {"nodeSelector": {"nvidia.com/gpu.product": "H200"}}},
                }
            },
        )
        told = wait_for_condition(
            control_plane, namespace, "large", "Stalled", "Unschedulable", SOON
        )
        assert "didn't match Pod's node affinity/selector" in told
        stalled(get_run(control_plane, namespace, "large"))
        wait_for_event(control_plane, namespace, "large", "Unschedulable")
        with quiet(control_plane, namespace, 0):
            pass
        patch_run(
            control_plane,
            namespace,
            "large",
            {"spec": {"stages": {"trainChallenger": {"podTemplate": None}}}} | RETRY,
        )
        wait_for_phase(control_plane, namespace, "large", "Succeeded")
        check_sane(
            control_plane,
            namespace,
            "large",
            stages,
            budgets={TRAINING: (2, 0, 1)},
            starts={TRAINING: 1},
        )


def test_a_pod_that_the_namespace_does_not_admit_stalls_the_run(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """podTemplate gains nothing that the namespace would refuse its author."""
    install_crd(control_plane)
    label = {"pod-security.kubernetes.io/enforce": "restricted"}
    path = f"/api/v1/namespaces/{namespace}"
    control_plane.api().patch(path, {"metadata": {"labels": label}})
    volume = {"name": "host", "hostPath": {"path": "/"}}
    template = {"spec": {"volumes": [volume], "hostNetwork": True}}
    with patient(control_plane, tmp_path), fake_stages(control_plane) as stages:
        create_run(
            control_plane,
            namespace,
            "greedy",
            stages={"trainChallenger": {"podTemplate": template}},
        )
        told = wait_for_condition(
            control_plane, namespace, "greedy", "Stalled", "FailedCreate", SOON
        )
        assert 'violates PodSecurity "restricted' in told and "hostPath" in told
        stalled(get_run(control_plane, namespace, "greedy"))
        wait_for_event(control_plane, namespace, "greedy", "FailedCreate")
        # The controller tries again with other names of pods, which the message tells.
        with quiet(control_plane, namespace, 3):
            pass
        assert not stages.starts
        mended = {"spec": {"stages": {"trainChallenger": {"podTemplate": None}}}}
        patch_run(control_plane, namespace, "greedy", mended | RETRY)
        wait_for_phase(control_plane, namespace, "greedy", "Succeeded")
        check_sane(
            control_plane,
            namespace,
            "greedy",
            stages,
            budgets={TRAINING: (2, 0, 1)},
            starts={TRAINING: 1},
        )


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            {"containers": [{"name": "main", "resources": {"limits": {"cpu": "-1"}}}]},
            "must be greater than or equal to 0",
        ),
        ({"nodeSelectr": {"zone": "a"}}, 'unknown field "spec.template.spec.nodeSelectr"'),
    ],
    ids=["value", "name"],
)
def test_a_job_that_the_server_rejects_fails_the_run_with_its_words(
    control_plane: ControlPlane,
    namespace: str,
    tmp_path: Path,
    bad: dict[str, Any],
    message: str,
) -> None:
    install_crd(control_plane)
    with patient(control_plane, tmp_path), fake_stages(control_plane) as stages:
        create_run(
            control_plane,
            namespace,
            "wrong",
            stages={"trainChallenger": {"podTemplate": {"spec": bad}}},
        )
        wait_for_phase(control_plane, namespace, "wrong", "Failed", SOON)
        run = get_run(control_plane, namespace, "wrong")
        check_conditions(run, frozenset({"Failed", "Stalled"}))
        failed = next(i for i in run["status"]["conditions"] if i["type"] == "Failed")
        assert message in failed["message"]
        wait_for_event(control_plane, namespace, "wrong", "Failed")
        with quiet(control_plane, namespace, 0):
            pass
        check_no_orphans(control_plane, namespace)
        mended = {"spec": {"stages": {"trainChallenger": {"podTemplate": None}}}}
        patch_run(control_plane, namespace, "wrong", mended | RETRY)
        wait_for_phase(control_plane, namespace, "wrong", "Succeeded")
        check_sane(
            control_plane,
            namespace,
            "wrong",
            stages,
            budgets={TRAINING: (2, 0, 0)},
            starts={TRAINING: 1},
        )


def test_a_right_that_the_operator_lacks_is_no_fault_of_the_run(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """As while its Role is being replaced, or before a restarted API server has read it."""
    install_crd(control_plane)
    said = (
        'jobs.batch is forbidden: User "rzero" cannot create resource "jobs" in API group "batch"'
    )
    allowed = threading.Event()

    def forbid(asked: Asked) -> Answer | None:
        wanted = asked.method == "POST" and "/jobs" in asked.path and not allowed.is_set()
        return Answer(403, said) if wanted else None

    with api_proxy(control_plane) as proxy, fake_stages(control_plane) as stages:
        proxy.before = forbid
        config = kubeconfig_through(proxy, control_plane, tmp_path / "kubeconfig")
        with operator(control_plane, tmp_path, kubeconfig=config, prelude=HASTY):
            create_run(control_plane, namespace, "early")
            told = wait_for_condition(
                control_plane, namespace, "early", "Stalled", "Forbidden", SOON
            )
            assert told.endswith(said)
            stalled(get_run(control_plane, namespace, "early"))
            allowed.set()
            wait_for_phase(control_plane, namespace, "early", "Succeeded")
            check_sane(control_plane, namespace, "early", stages)


def test_a_job_beyond_the_quota_waits_until_there_is_room(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    install_crd(control_plane)
    quota = f"/api/v1/namespaces/{namespace}/resourcequotas"
    body = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"}}
    control_plane.api().request("POST", quota, body | {"spec": {"hard": {"count/jobs.batch": "2"}}})
    wait_until(
        lambda: "hard" in control_plane.api().get(f"{quota}/few").get("status", {}),
        60,
        "the quota to be counted",
    )
    with patient(control_plane, tmp_path), fake_stages(control_plane) as stages:
        create_run(control_plane, namespace, "third")
        told = wait_for_condition(
            control_plane, namespace, "third", "Stalled", "QuotaExceeded", SOON
        )
        assert "exceeded quota: few" in told
        assert status_of(control_plane, namespace, "third").stage is Stage.LABEL_QUESTIONS
        stalled(get_run(control_plane, namespace, "third"))
        # The end of the Job before it is news, which causes looks.
        wait_until(lambda: not live_jobs(control_plane, namespace), 60)

        def only_creates() -> bool:
            """One for each look, and nothing is told again."""
            return set(writes(control_plane, namespace)[-3:]) == {"create jobs 403"}

        wait_until(only_creates, SOON, "three looks in a row that change nothing")
        with quiet(control_plane, namespace, 3):
            pass
        assert only_creates()
        control_plane.api().patch(f"{quota}/few", {"spec": {"hard": {"count/jobs.batch": "9"}}})
        wait_for_phase(control_plane, namespace, "third", "Succeeded")
        check_sane(control_plane, namespace, "third", stages)


def test_a_job_that_a_queue_holds_back_is_no_fault(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """Kueue's webhook suspends a Job when it is created, and its controller lets it go."""
    install_crd(control_plane)
    with patient(control_plane, tmp_path), fake_stages(control_plane, hang_at_first) as stages:
        create_run(control_plane, namespace, "queued", queueName="research")
        wait_for_stage(control_plane, namespace, "queued", Stage.TRAIN_CHALLENGER)
        wait_until(lambda: len(stages.starts) == 1)
        (job,) = live_jobs(control_plane, namespace)
        assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"
        path = f"/apis/batch/v1/namespaces/{namespace}/jobs/{job['metadata']['name']}"
        control_plane.api().patch(path, {"spec": {"suspend": True}})
        wait_until(lambda: "waits in queue research" in reconciling(control_plane, namespace), SOON)
        check_conditions(get_run(control_plane, namespace, "queued"), frozenset({"Reconciling"}))
        with quiet(control_plane, namespace, 0):
            pass
        control_plane.api().patch(path, {"spec": {"suspend": False}})
        wait_for_phase(control_plane, namespace, "queued", "Succeeded")
        check_sane(control_plane, namespace, "queued", stages, starts={TRAINING: 2})


def test_a_missing_namespace_account_of_stages_is_told(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    install_crd(control_plane)
    template = {"spec": {"serviceAccountName": "nobody"}}
    with patient(control_plane, tmp_path), fake_stages(control_plane) as stages:
        create_run(
            control_plane,
            namespace,
            "orphaned",
            stages={"trainChallenger": {"podTemplate": template}},
        )
        told = wait_for_condition(
            control_plane, namespace, "orphaned", "Stalled", "FailedCreate", SOON
        )
        assert 'serviceaccount "nobody" not found' in told
        body = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody"}}
        accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
        control_plane.api().request("POST", accounts, body)
        wait_for_phase(control_plane, namespace, "orphaned", "Succeeded")
        check_sane(control_plane, namespace, "orphaned", stages)


def hang_at_first(start: Start) -> Outcome | None:
    first = start.task.stage is Stage.TRAIN_CHALLENGER and start.number == 1
    return Outcome(hang=True) if first else None


def runs_as_pod(cluster: ControlPlane, namespace: str, stages: FakeStages) -> bool:
    if not stages.starts:
        return False
    path = f"/api/v1/namespaces/{namespace}/pods/{stages.starts[0].pod}"
    return bool(cluster.api().get(path)["status"]["phase"] == "Running")


def say_waiting(cluster: ControlPlane, namespace: str, pod: str, reason: str, message: str) -> None:
    """What a kubelet reports of a container that it cannot start."""
    path = f"/api/v1/namespaces/{namespace}/pods/{pod}/status"
    status = cluster.api().get(path)["status"]
    waiting = {"waiting": {"reason": reason, "message": message}}
    for container in status["containerStatuses"]:
        container.update(state=waiting, ready=False, started=False)
    for condition in status["conditions"]:
        if condition["type"] in ("Ready", "ContainersReady"):
            condition["status"] = "False"
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    cluster.api().patch(path, {"status": status | {"phase": "Pending", "startTime": now}})


def reconciling(cluster: ControlPlane, namespace: str) -> str:
    conditions = get_run(cluster, namespace, "queued")["status"]["conditions"]
    return str(next(i for i in conditions if i["type"] == "Reconciling")["message"])
