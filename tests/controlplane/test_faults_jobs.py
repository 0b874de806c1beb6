"""Jobs of a run are deleted: while they run, after they were read, and before that."""

from pathlib import Path

from operator_process import create_run, install_crd, operator, wait_for_phase, wait_until
from sanity import check_sane, live_jobs, wait_for_stage

from rzero_core.run import Stage
from rzero_operator.tasks import Step
from tests.cluster.control_plane import ControlPlane
from tests.cluster.fake_stages import Decide, FakeStages, fake_stages
from tests.cluster.stage_results import Outcome, Start

TRAINING = Step(1, Stage.TRAIN_CHALLENGER)
QUESTIONS = Step(1, Stage.GENERATE_QUESTIONS)


def hang_at(step: Step) -> Decide:
    """The first pod of each shard of a step runs until it is deleted."""

    def decide(start: Start) -> Outcome | None:
        hangs = start.task.stage is step.stage and start.number == 1
        return Outcome(hang=True) if hangs else None

    return decide


def test_a_job_deleted_while_it_runs_is_an_attempt_lost(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    install_crd(control_plane)
    with (
        operator(control_plane, tmp_path),
        fake_stages(control_plane, hang_at(QUESTIONS), stop_seconds=0.5) as stages,
    ):
        create_run(control_plane, namespace, "bereft")
        wait_for_stage(control_plane, namespace, "bereft", Stage.GENERATE_QUESTIONS)
        wait_until(lambda: started(stages, Stage.GENERATE_QUESTIONS) == 2)
        control_plane.kubectl("delete", "job", "bereft-i001-gen-a1", "-n", namespace)
        wait_for_phase(control_plane, namespace, "bereft", "Succeeded")
        check_sane(control_plane, namespace, "bereft", stages, budgets={QUESTIONS: (2, 0, 1)})


def test_jobs_deleted_after_they_were_read_are_not_missed(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """By hand, and by the cluster itself once ttlSecondsAfterFinished have passed."""
    install_crd(control_plane)
    # Time for the operator to read the results, also on a machine with much to do.
    stage = {"trainChallenger": {"ttlSecondsAfterFinished": 5}}
    with (
        operator(control_plane, tmp_path),
        fake_stages(control_plane, hang_at(Step(1, Stage.LABEL_QUESTIONS))) as stages,
    ):
        create_run(control_plane, namespace, "tidied", stages=stage)
        wait_for_stage(control_plane, namespace, "tidied", Stage.LABEL_QUESTIONS)
        wait_until(lambda: "tidied-i001-chal-a1" not in names(control_plane, namespace), 60)
        job = "tidied-i001-gen-a1"
        control_plane.kubectl("delete", "job", job, "-n", namespace)
        wait_until(lambda: started(stages, Stage.LABEL_QUESTIONS) == 2)
        stages.release()
        wait_for_phase(control_plane, namespace, "tidied", "Succeeded")
        control_plane.kubectl("delete", "jobs", "--all", "-n", namespace)
        wait_until(lambda: not names(control_plane, namespace))
        check_sane(control_plane, namespace, "tidied", stages)


def test_a_job_deleted_before_its_result_was_read_answers_from_its_manifest(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    install_crd(control_plane)
    with fake_stages(control_plane, hang_at(TRAINING)) as stages:
        with operator(control_plane, tmp_path):
            create_run(control_plane, namespace, "unread")
            wait_for_stage(control_plane, namespace, "unread", Stage.TRAIN_CHALLENGER)
            wait_until(lambda: started(stages, Stage.TRAIN_CHALLENGER) == 1)
        stages.release()
        wait_until(lambda: not live_jobs(control_plane, namespace), 60, "the Job to end")
        control_plane.kubectl("delete", "jobs", "--all", "-n", namespace)
        with operator(control_plane, tmp_path):
            wait_for_phase(control_plane, namespace, "unread", "Succeeded")
            check_sane(
                control_plane,
                namespace,
                "unread",
                stages,
                budgets={TRAINING: (2, 0, 1)},
                done={TRAINING: 2},
            )


def test_pods_deleted_before_their_results_were_read_cost_an_attempt(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """The Job is Complete, but the messages of its pods are gone."""
    install_crd(control_plane)
    with fake_stages(control_plane, hang_at(QUESTIONS)) as stages:
        with operator(control_plane, tmp_path):
            create_run(control_plane, namespace, "mute")
            wait_for_stage(control_plane, namespace, "mute", Stage.GENERATE_QUESTIONS)
            wait_until(lambda: started(stages, Stage.GENERATE_QUESTIONS) == 2)
        stages.release()
        wait_until(lambda: not live_jobs(control_plane, namespace), 60, "the Job to end")
        control_plane.kubectl("delete", "pods", "--all", "-n", namespace)
        with operator(control_plane, tmp_path):
            wait_for_phase(control_plane, namespace, "mute", "Succeeded")
            check_sane(
                control_plane,
                namespace,
                "mute",
                stages,
                budgets={QUESTIONS: (2, 0, 1)},
                done={QUESTIONS: 2},
            )


def started(stages: FakeStages, stage: Stage) -> int:
    return len([start for start in stages.starts if start.task.stage is stage])


def names(cluster: ControlPlane, namespace: str) -> list[str]:
    jobs = cluster.api().get(f"/apis/batch/v1/namespaces/{namespace}/jobs")["items"]
    return [job["metadata"]["name"] for job in jobs]
