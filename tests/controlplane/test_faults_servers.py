"""The API server and etcd restart in the middle of runs."""

from pathlib import Path

import pytest
from operator_process import create_run, install_crd, operator, wait_for_phase
from sanity import check_sane, wait_for_stage

from rzero_core.run import Stage
from tests.cluster.control_plane import ControlPlane
from tests.cluster.fake_stages import fake_stages


@pytest.mark.parametrize("server", ["kube-apiserver", "etcd"])
def test_runs_survive_the_restart_of_a_server(
    control_plane: ControlPlane, namespace: str, tmp_path: Path, server: str
) -> None:
    """One run has a stage at work, another is between two stages, a third is new after it."""
    install_crd(control_plane)
    with (
        operator(control_plane, tmp_path) as process,
        fake_stages(control_plane, seconds=1) as stages,
    ):
        create_run(control_plane, namespace, "early", iterations=2)
        wait_for_stage(control_plane, namespace, "early", Stage.GENERATE_QUESTIONS)
        create_run(control_plane, namespace, "late")
        for _ in range(2):
            if server == "etcd":
                control_plane.restart_etcd()
            else:
                control_plane.restart_api_server()
        create_run(control_plane, namespace, "new")
        for name in ("early", "late", "new"):
            wait_for_phase(control_plane, namespace, name, "Succeeded")
            check_sane(control_plane, namespace, name, stages)
        assert process.process.poll() is None
        assert process.get("/livez") == (200, "ok")
