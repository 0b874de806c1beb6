"""A run is deleted, and another one of its name is created at once."""

import json
from pathlib import Path

import pytest
from operator_process import HASTY, create_run, install_crd, operator, wait_for_phase, wait_until
from sanity import check_no_orphans, check_sane, live_jobs, wait_for_condition, wait_for_stage

from rzero_core.run import Stage
from tests.cluster.control_plane import ControlPlane
from tests.cluster.fake_stages import fake_stages
from tests.cluster.stage_results import Outcome, Start


def hang_at_first(start: Start) -> Outcome | None:
    first = start.task.stage is Stage.TRAIN_CHALLENGER and start.number == 1
    return Outcome(hang=True) if first else None


@pytest.mark.parametrize("cascade", ["background", "foreground"])
def test_a_run_created_again_under_its_name_starts_over(
    control_plane: ControlPlane, namespace: str, tmp_path: Path, cascade: str
) -> None:
    install_crd(control_plane)
    with (
        operator(control_plane, tmp_path),
        fake_stages(control_plane, hang_at_first, stop_seconds=2) as stages,
    ):
        old = create_run(control_plane, namespace, "phoenix")
        wait_for_stage(control_plane, namespace, "phoenix", Stage.TRAIN_CHALLENGER)
        wait_until(lambda: len(stages.starts) == 1)
        control_plane.kubectl(
            "delete", "coevolutionrun", "phoenix", "-n", namespace, f"--cascade={cascade}"
        )
        new = create_run(control_plane, namespace, "phoenix")
        wait_for_phase(control_plane, namespace, "phoenix", "Succeeded")
        check_sane(control_plane, namespace, "phoenix", stages)
    runs = [start.task.run.uid for start in stages.starts]
    assert runs == [old["metadata"]["uid"]] + [new["metadata"]["uid"]] * 7


def test_a_run_waits_for_the_job_of_another_owner_to_go(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """The Job that a deleted run left behind by `--cascade=orphan` is never taken for its own."""
    install_crd(control_plane)
    with (
        operator(control_plane, tmp_path, prelude=HASTY),
        fake_stages(control_plane, hang_at_first) as stages,
    ):
        old = create_run(control_plane, namespace, "heir")
        wait_for_stage(control_plane, namespace, "heir", Stage.TRAIN_CHALLENGER)
        wait_until(lambda: len(stages.starts) == 1)
        control_plane.kubectl(
            "delete", "coevolutionrun", "heir", "-n", namespace, "--cascade=orphan"
        )
        (job,) = live_jobs(control_plane, namespace)
        assert "ownerReferences" not in job["metadata"], json.dumps(job["metadata"])
        new = create_run(control_plane, namespace, "heir")
        message = wait_for_condition(control_plane, namespace, "heir", "Stalled", "NameConflict")
        assert "a Job heir-i001-chal-a1 of another owner exists" in message
        control_plane.kubectl("delete", "job", job["metadata"]["name"], "-n", namespace)
        wait_for_phase(control_plane, namespace, "heir", "Succeeded")
        check_sane(control_plane, namespace, "heir", stages)
        check_no_orphans(control_plane, namespace)
    assert {start.task.run.uid for start in stages.starts[1:]} == {new["metadata"]["uid"]}
    assert old["metadata"]["uid"] != new["metadata"]["uid"]
