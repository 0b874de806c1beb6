"""The frozen Solver's sidecar does not come up: what its kubelet says of it, on a real API server.

A sidecar is started again for ever, and a Job does not see that: the operator has to.
"""

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from api_proxy import Asked, api_proxy, kubeconfig_through
from operator_deaths import deaths_at
from operator_process import (
    HASTY,
    create_run,
    get_run,
    install_crd,
    operator,
    patch_run,
    status_of,
    wait_for_phase,
    wait_until,
)
from sanity import check_conditions, check_no_orphans, check_sane, wait_for_condition, writes

from rzero_core.run import Stage
from rzero_core.status import StageState
from rzero_operator.conditions import message_of
from rzero_operator.tasks import Step
from tests.cluster.control_plane import ControlPlane
from tests.cluster.fake_stages import STRATEGIC, FakeStages, fake_stages
from tests.cluster.stage_results import Outcome, Start

TRAINING = Step(1, Stage.TRAIN_CHALLENGER)
SIDECAR = {"trainChallenger": {"solverGpus": 0}}
RETRY = {"metadata": {"annotations": {"rzero.dev/retry": "now"}}}
OUT_OF_MEMORY = "CUDA out of memory"
STOP_SECONDS = 2.0
"""What a deleted pod takes."""
LAST = "status with the next stage"


def hang_at_first(start: Start) -> Outcome | None:
    first = start.task.stage is Stage.TRAIN_CHALLENGER and start.number == 1
    return Outcome(hang=True) if first else None


def wait_for_pod(cluster: ControlPlane, namespace: str, stages: FakeStages) -> str:
    """The path of the first pod, once its node has said all that it will say by itself."""
    wait_until(lambda: bool(stages.starts), 60, "a pod")
    path = f"/api/v1/namespaces/{namespace}/pods/{stages.starts[0].pod}"
    wait_until(lambda: bool(cluster.api().get(path)["status"].get("phase") == "Running"), 60)
    return path


def say(
    cluster: ControlPlane,
    pod: str,
    restarts: int,
    *,
    pauses: bool = False,
    code: int = 1,
    message: str = OUT_OF_MEMORY,
) -> None:
    """What a kubelet reports of a sidecar that it has started again, or is about to."""
    now = "2026-01-01T00:00:00Z"
    waiting = {"reason": "CrashLoopBackOff", "message": f"back-off {restarts}0s restarting"}
    ended = {"exitCode": code, "reason": "Error", "message": message}
    runs = {"running": None if pauses else {"startedAt": now}}
    solver = {
        "name": "solver",
        "ready": False,
        "started": False,
        "restartCount": restarts,
        "state": runs | {"waiting": waiting if pauses else None},
        "lastState": {"terminated": ended | {"startedAt": now, "finishedAt": now}},
    }
    main = {
        "name": "main",
        "ready": False,
        "started": False,
        "state": {"running": None, "waiting": {"reason": "PodInitializing"}},
    }
    status = {
        "phase": "Pending",
        "initContainerStatuses": [solver],
        "containerStatuses": [main],
        "conditions": [{"type": kind, "status": "False"} for kind in ("Ready", "ContainersReady")],
    }
    cluster.api().request("PATCH", f"{pod}/status", {"status": status}, STRATEGIC)


def jobs_of(cluster: ControlPlane, namespace: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cluster.api().get(f"/apis/batch/v1/namespaces/{namespace}/jobs")[
        "items"
    ]
    return found


def test_a_sidecar_that_is_started_again_stalls_the_run_until_another_attempt_is_asked_for(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    install_crd(control_plane)
    with (
        operator(control_plane, tmp_path, prelude=HASTY),
        fake_stages(control_plane, hang_at_first) as stages,
    ):
        create_run(control_plane, namespace, "looping", stages=SIDECAR)
        pod = wait_for_pod(control_plane, namespace, stages)
        say(control_plane, pod, 1, pauses=True)
        told = wait_for_condition(
            control_plane, namespace, "looping", "Stalled", "SidecarFailed", 60
        )
        assert told.endswith(f"SidecarFailed: container solver does not come up: {OUT_OF_MEMORY}")
        before = get_run(control_plane, namespace, "looping")["status"]
        written = len(writes(control_plane, namespace))
        for restarts, pauses in ((1, False), (2, True), (2, False)):
            say(control_plane, pod, restarts, pauses=pauses)
            time.sleep(1)
        # It runs, it pauses, it runs again: to the run that is all the same.
        assert get_run(control_plane, namespace, "looping")["status"] == before
        # The event about it may have come after the condition.
        assert set(writes(control_plane, namespace)[written:]) <= {"create events 201"}
        patch_run(control_plane, namespace, "looping", RETRY)
        wait_for_phase(control_plane, namespace, "looping", "Succeeded")
        check_sane(control_plane, namespace, "looping", stages, budgets={TRAINING: (2, 0, 1)})


def test_a_sidecar_that_never_comes_up_fails_its_attempt_and_frees_its_devices_first(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    install_crd(control_plane)
    with (
        operator(control_plane, tmp_path, prelude=HASTY),
        fake_stages(control_plane, hang_at_first, stop_seconds=STOP_SECONDS) as stages,
    ):
        create_run(control_plane, namespace, "looping", stages=SIDECAR)
        pod = wait_for_pod(control_plane, namespace, stages)
        say(control_plane, pod, 3, pauses=True)
        wait_until(lambda: failures(control_plane, namespace) == 1, 60, "the failure to be counted")
        told = message_of(status_of(control_plane, namespace, "looping"), "Reconciling")
        assert "attempt 1 is stopped" in told and told.endswith(OUT_OF_MEMORY)
        most = 0

        def is_past() -> bool:
            nonlocal most
            jobs = [job for job in jobs_of(control_plane, namespace) if "-chal-" in name_of(job)]
            most = max(most, len(jobs))
            return any(name_of(job).endswith("-a2") for job in jobs)

        # The pause is over long before the pod is gone.
        wait_until(is_past, 60, "the next attempt")
        assert most == 1
        wait_for_phase(control_plane, namespace, "looping", "Succeeded")
        check_sane(control_plane, namespace, "looping", stages, budgets={TRAINING: (2, 1, 0)})


def test_a_sidecar_that_no_retry_can_mend_fails_the_run_with_its_words(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    install_crd(control_plane)
    words = "s3://models/base: no such model"
    with (
        operator(control_plane, tmp_path, prelude=HASTY),
        fake_stages(control_plane, hang_at_first) as stages,
    ):
        create_run(control_plane, namespace, "hopeless", stages=SIDECAR)
        pod = wait_for_pod(control_plane, namespace, stages)
        say(control_plane, pod, 1, pauses=True, code=78, message=f"{words}\n")
        wait_for_phase(control_plane, namespace, "hopeless", "Failed", 60)
        assert not jobs_of(control_plane, namespace)
        run = get_run(control_plane, namespace, "hopeless")
        check_conditions(run, frozenset({"Failed", "Stalled"}))
        failed = next(i for i in run["status"]["conditions"] if i["type"] == "Failed")
        assert failed["message"].endswith(f"container solver does not come up: {words}")
        check_no_orphans(control_plane, namespace)
        patch_run(control_plane, namespace, "hopeless", RETRY)
        wait_for_phase(control_plane, namespace, "hopeless", "Succeeded")
        check_sane(control_plane, namespace, "hopeless", stages, budgets={TRAINING: (2, 0, 0)})


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_operator_killed_at_every_write_about_a_failing_sidecar_counts_it_once(
    control_plane: ControlPlane, namespace: str, tmp_path: Path, moment: str
) -> None:
    install_crd(control_plane)
    create_run(control_plane, namespace, "killed", stages=SIDECAR)
    with (
        api_proxy(control_plane) as proxy,
        fake_stages(control_plane, hang_at_first, stop_seconds=STOP_SECONDS) as stages,
    ):
        config = kubeconfig_through(proxy, control_plane, tmp_path / "kubeconfig")
        with operator(control_plane, tmp_path):
            pod = wait_for_pod(control_plane, namespace, stages)
        say(control_plane, pod, 3, pauses=True)
        start = partial(
            operator, control_plane, tmp_path, kubeconfig=config, wait=False, prelude=HASTY
        )
        deaths = deaths_at(
            proxy, start, moment, death_of, LAST, lambda: is_trained(control_plane, namespace)
        )
        with operator(control_plane, tmp_path):
            status = wait_for_phase(control_plane, namespace, "killed", "Succeeded")
    assert len(deaths) == len(set(deaths))
    # A stage may be over before it was seen at work.
    assert set(deaths) - {"status Running 2 failed 1 seen"} == {
        "status Waiting 1 failed 1",
        "delete killed-i001-chal-a1",
        "status Running 2 failed 1",
        "create killed-i001-chal-a2",
        LAST,
    }
    spent = [
        (item.attempts, item.failures, item.preemptions) for item in status.iterations[0].stages
    ]
    assert spent == [(2, 1, 0)] + [(1, 0, 0)] * 4
    assert len([start for start in stages.starts if start.task.stage is TRAINING.stage]) == 2


def death_of(asked: Asked) -> str | None:
    """What a write says of the training, None for one that no incarnation dies at."""
    if not asked.is_write:
        return None
    path = asked.path.split("?")[0]
    if asked.method == "DELETE":
        return f"delete {path.split('/')[-1]}"
    said: dict[str, Any] = json.loads(asked.body)
    if path.endswith("/jobs") and "-chal-" in name_of(said):
        return f"create {name_of(said)}"
    if not path.endswith("/status") or len(said["status"]["iterations"][0]["stages"]) > 1:
        return LAST if path.endswith("/status") else None
    (entry,) = said["status"]["iterations"][0]["stages"]
    seen = " seen" if entry["attempts"] == 2 and "execution" in entry else ""
    return f"status {entry['state']} {entry['attempts']} failed {entry.get('failures', 0)}{seen}"


def failures(cluster: ControlPlane, namespace: str) -> int:
    entry = status_of(cluster, namespace, "looping").find(*TRAINING)
    return entry.failures if entry is not None else 0


def is_trained(cluster: ControlPlane, namespace: str) -> bool:
    entry = status_of(cluster, namespace, "killed").find(*TRAINING)
    return entry is not None and entry.state is StageState.DONE


def name_of(job: dict[str, Any]) -> str:
    return str(job["metadata"]["name"])
