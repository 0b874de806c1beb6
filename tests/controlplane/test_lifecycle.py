"""What an author asks of a run while it lives: suspend it, resume it, let it grow, try again."""

import json
from pathlib import Path

from operator_process import (
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
    wait_for_stage,
    writes,
)

from rzero_core.run import Stage
from rzero_operator.tasks import Step
from tests.cluster.control_plane import ControlPlane
from tests.cluster.fake_stages import fake_stages
from tests.cluster.stage_results import Outcome, Start

TRAINING = Step(1, Stage.TRAIN_CHALLENGER)
QUESTIONS = Step(1, Stage.GENERATE_QUESTIONS)


def test_a_suspended_run_stops_its_job_and_goes_on_without_a_loss(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    install_crd(control_plane)

    def decide(start: Start) -> Outcome | None:
        first = start.task.stage is Stage.GENERATE_QUESTIONS and start.number == 1
        return Outcome(hang=True) if first else None

    with (
        operator(control_plane, tmp_path),
        fake_stages(control_plane, decide, stop_seconds=5) as stages,
    ):
        create_run(control_plane, namespace, "paused")
        wait_for_stage(control_plane, namespace, "paused", Stage.GENERATE_QUESTIONS)
        wait_until(lambda: len(stages.starts) == 3)
        patch_run(control_plane, namespace, "paused", {"spec": {"suspend": True}})
        wait_for_phase(control_plane, namespace, "paused", "Suspending")
        # Asked for again before the pods have ended in their grace period: it ends first.
        patch_run(control_plane, namespace, "paused", {"spec": {"suspend": False}})
        wait_for_phase(control_plane, namespace, "paused", "Succeeded")
        check_sane(control_plane, namespace, "paused", stages, budgets={QUESTIONS: (2, 0, 0)})


def test_a_run_that_is_suspended_has_no_pods_and_says_so(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    install_crd(control_plane)

    def decide(start: Start) -> Outcome | None:
        return Outcome(hang=True) if start.number == 1 else None

    with operator(control_plane, tmp_path), fake_stages(control_plane, decide) as stages:
        create_run(control_plane, namespace, "asleep")
        create_run(control_plane, namespace, "unborn", suspend=True)
        wait_for_stage(control_plane, namespace, "asleep", Stage.TRAIN_CHALLENGER)
        wait_until(lambda: len(stages.starts) == 1)
        patch_run(control_plane, namespace, "asleep", {"spec": {"suspend": True}})
        for name in ("asleep", "unborn"):
            wait_for_phase(control_plane, namespace, name, "Suspended")
            check_conditions(get_run(control_plane, namespace, name), frozenset({"Suspended"}))
        assert not control_plane.api().get(f"/api/v1/namespaces/{namespace}/pods")["items"]
        assert not live_jobs(control_plane, namespace)
        stages.decide = None
        for name, attempts in (("asleep", 2), ("unborn", 1)):
            patch_run(control_plane, namespace, name, {"spec": {"suspend": False}})
            wait_for_phase(control_plane, namespace, name, "Succeeded")
            budgets = {TRAINING: (attempts, 0, 0)}
            check_sane(control_plane, namespace, name, stages, budgets=budgets)


def test_a_run_that_is_done_goes_on_when_its_iterations_grow(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    install_crd(control_plane)
    with operator(control_plane, tmp_path), fake_stages(control_plane) as stages:
        create_run(control_plane, namespace, "growing")
        wait_for_phase(control_plane, namespace, "growing", "Succeeded")
        first = check_sane(control_plane, namespace, "growing", stages)
        patch_run(control_plane, namespace, "growing", {"spec": {"iterations": 2}})
        wait_until(lambda: len(status_of(control_plane, namespace, "growing").iterations) == 2)
        wait_for_phase(control_plane, namespace, "growing", "Succeeded")
        second = check_sane(control_plane, namespace, "growing", stages)
    assert second.iterations[0] == first.iterations[0]
    assert len(stages.starts) == 14


def test_a_run_that_failed_for_good_is_tried_again_when_asked(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    install_crd(control_plane)

    def decide(start: Start) -> Outcome | None:
        first = start.task.stage is Stage.GENERATE_QUESTIONS and start.number == 1
        message = "storage: the Secret has no AWS_ACCESS_KEY_ID"
        return Outcome(exit_code=78, message=message) if first and start.shard == 1 else None

    with operator(control_plane, tmp_path), fake_stages(control_plane, decide) as stages:
        create_run(control_plane, namespace, "mended")
        status = wait_for_phase(control_plane, namespace, "mended", "Failed")
        check_conditions(
            get_run(control_plane, namespace, "mended"), frozenset({"Failed", "Stalled"})
        )
        entry = status.find(*QUESTIONS)
        assert entry is not None
        assert (entry.attempts, entry.failures, entry.preemptions) == (1, 1, 0)
        assert entry.message == "shard 1: storage: the Secret has no AWS_ACCESS_KEY_ID"
        check_no_orphans(control_plane, namespace)
        for nonce in ("once", "once"):
            note = {"metadata": {"annotations": {"rzero.dev/retry": nonce}}}
            patch_run(control_plane, namespace, "mended", note)
            wait_for_phase(control_plane, namespace, "mended", "Succeeded")
        # The shard that had succeeded answers from its manifest.
        done = {start.shard for start in stages.done if start.task.stage is QUESTIONS.stage}
        assert done == {0, 1}
        entry = status_of(control_plane, namespace, "mended").find(*QUESTIONS)
        assert entry is not None
        assert (entry.attempts, entry.failures, entry.preemptions) == (2, 0, 0)
        assert status_of(control_plane, namespace, "mended").last_retry == "once"


def test_what_an_author_wants_of_pods_and_jobs_reaches_them(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    install_crd(control_plane)
    template = {
        "metadata": {"labels": {"team": "maths"}, "annotations": {"note": "mine"}},
        "spec": {
            "nodeSelector": {"type": "kwok"},
            "priorityClassName": "system-node-critical",
            "containers": [{"name": "main", "env": [{"name": "HF_HOME", "value": "/cache/hf"}]}],
        },
    }
    stage = {"gpus": 4, "podTemplate": template, "activeDeadlineSeconds": 600}
    with operator(control_plane, tmp_path), fake_stages(control_plane):
        create_run(
            control_plane,
            namespace,
            "tailored",
            queueName="research",
            stages={"trainSolver": stage},
        )
        wait_for_phase(control_plane, namespace, "tailored", "Succeeded")
        path = f"/apis/batch/v1/namespaces/{namespace}/jobs/tailored-i001-solv-a1"
        job = control_plane.api().get(path)
        assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"
        assert job["spec"]["activeDeadlineSeconds"] == 600
        (pod,) = control_plane.api().get(
            f"/api/v1/namespaces/{namespace}/pods"
            "?labelSelector=batch.kubernetes.io/job-name=tailored-i001-solv-a1"
        )["items"]
        assert pod["metadata"]["labels"]["team"] == "maths"
        assert pod["metadata"]["annotations"]["note"] == "mine"
        assert pod["spec"]["nodeSelector"] == {"type": "kwok"}
        main = next(item for item in pod["spec"]["containers"] if item["name"] == "main")
        assert {"name": "HF_HOME", "value": "/cache/hf"} in main["env"]
        assert main["resources"]["limits"]["nvidia.com/gpu"] == "4"
        assert json.loads(next(e["value"] for e in main["env"] if e["name"] == "RZERO_TASK"))


def test_a_namespaced_operator_leaves_other_namespaces_alone(
    control_plane: ControlPlane, namespace: str, other_namespace: str, tmp_path: Path
) -> None:
    install_crd(control_plane)
    with (
        operator(control_plane, tmp_path, RZERO_NAMESPACES=namespace),
        fake_stages(control_plane) as stages,
    ):
        create_run(control_plane, other_namespace, "foreign")
        create_run(control_plane, namespace, "own")
        wait_for_phase(control_plane, namespace, "own", "Succeeded")
        check_sane(control_plane, namespace, "own", stages)
        assert "status" not in get_run(control_plane, other_namespace, "foreign")
        assert not writes(control_plane, other_namespace)
