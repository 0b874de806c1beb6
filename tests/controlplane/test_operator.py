"""The operator on a real control plane: what a user applies, changes, and sees."""

from pathlib import Path

from operator_process import create_run, install_crd, operator, wait_for_phase

from rzero_core.run import Stage
from tests.cluster.control_plane import ControlPlane
from tests.cluster.fake_stages import fake_stages


def test_an_applied_run_succeeds(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    install_crd(control_plane)
    with operator(control_plane, tmp_path), fake_stages(control_plane) as stages:
        create_run(control_plane, namespace, "first", iterations=2)
        status = wait_for_phase(control_plane, namespace, "first", "Succeeded")
    assert [group.iteration for group in status.iterations] == [1, 2]
    done = [(entry.stage, entry.attempts) for entry in status.iterations[1].stages]
    assert done == [(stage, 1) for stage in list(Stage)[:5]]
    assert len(stages.starts) == 2 * 7
