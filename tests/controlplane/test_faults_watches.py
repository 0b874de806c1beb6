"""Watches are cut, expire, and go silent."""

import threading
from pathlib import Path

import pytest
from api_proxy import api_proxy, kubeconfig_through
from operator_process import (
    create_run,
    get_run,
    install_crd,
    operator,
    wait_for_phase,
    wait_until,
)
from sanity import check_sane, live_jobs, wait_for_stage

from rzero_core.run import Stage
from tests.cluster.control_plane import ControlPlane
from tests.cluster.fake_stages import fake_stages
from tests.cluster.stage_results import Outcome


@pytest.mark.parametrize("gone", [False, True], ids=["cut", "410"])
def test_a_run_survives_watches_that_end_again_and_again(
    control_plane: ControlPlane, namespace: str, tmp_path: Path, gone: bool
) -> None:
    install_crd(control_plane)
    with api_proxy(control_plane) as proxy, fake_stages(control_plane, seconds=0.5) as stages:
        config = kubeconfig_through(proxy, control_plane, tmp_path / "kubeconfig")
        with operator(control_plane, tmp_path, kubeconfig=config) as process:
            over = threading.Event()

            def cut() -> None:
                while not over.wait(0.7):
                    proxy.cut_watches(gone=gone)

            cutting = threading.Thread(target=cut)
            cutting.start()
            try:
                create_run(control_plane, namespace, "cut")
                wait_for_phase(control_plane, namespace, "cut", "Succeeded")
            finally:
                over.set()
                cutting.join()
            check_sane(control_plane, namespace, "cut", stages)
            wait_until(lambda: process.get("/livez") == (200, "ok"))
    assert len([asked for asked in proxy.asked if asked.watch]) > 9


def test_a_run_ends_and_the_probe_fails_when_the_watches_go_silent(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    install_crd(control_plane)
    with api_proxy(control_plane) as proxy, fake_stages(control_plane) as stages:
        config = kubeconfig_through(proxy, control_plane, tmp_path / "kubeconfig")
        with operator(
            control_plane,
            tmp_path,
            kubeconfig=config,
            prelude="import rzero_operator.health as health; health.WATCH_LAG = 4.0",
            RZERO_RESYNC_SECONDS="1",
        ) as process:
            wait_until(lambda: process.get("/livez") == (200, "ok"))
            proxy.silent = True
            create_run(control_plane, namespace, "unheard")
            wait_for_phase(control_plane, namespace, "unheard", "Succeeded")
            check_sane(control_plane, namespace, "unheard", stages)
            wait_until(lambda: process.get("/livez")[0] == 503, 30, "the probe to fail")
            assert "the watch is dead" in process.get("/livez")[1]
            proxy.silent = False
            proxy.cut_watches()
            wait_until(lambda: process.get("/livez") == (200, "ok"), 30, "the probe to recover")


def test_a_run_that_is_deleted_while_the_watches_are_silent_is_forgotten(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    install_crd(control_plane)
    with (
        api_proxy(control_plane) as proxy,
        fake_stages(control_plane, lambda _: Outcome(hang=True)),
    ):
        config = kubeconfig_through(proxy, control_plane, tmp_path / "kubeconfig")
        with operator(
            control_plane, tmp_path, kubeconfig=config, RZERO_RESYNC_SECONDS="1"
        ) as process:
            create_run(control_plane, namespace, "dropped")
            wait_for_stage(control_plane, namespace, "dropped", Stage.TRAIN_CHALLENGER)
            assert get_run(control_plane, namespace, "dropped")["metadata"]["name"] == "dropped"
            assert 'run="dropped"' in process.get("/metrics")[1]
            proxy.silent = True
            control_plane.kubectl("delete", "coevolutionrun", "dropped", "-n", namespace)
            wait_until(lambda: not live_jobs(control_plane, namespace), 60)
            wait_until(lambda: 'run="dropped"' not in process.get("/metrics")[1], 30)
            wait_until(lambda: process.get("/livez") == (200, "ok"))
