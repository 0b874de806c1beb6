"""Two operators at once, one after the other, and with clocks that do not agree."""

import signal
import time
from pathlib import Path

import pytest
from api_proxy import api_proxy, kubeconfig_through
from operator_process import (
    OperatorProcess,
    create_run,
    install_crd,
    operator,
    status_of,
    wait_for_phase,
    wait_until,
)
from sanity import check_sane, wait_for_stage

from rzero_core.run import Stage
from rzero_core.status import StageState
from rzero_operator.leader import LEASE_SECONDS, RETRY_SECONDS
from rzero_operator.tasks import Step
from tests.cluster.control_plane import ControlPlane
from tests.cluster.fake_stages import fake_stages
from tests.cluster.stage_results import Outcome, Start

TRAINING = Step(1, Stage.TRAIN_CHALLENGER)
RUNS = [f"shared-{number}" for number in range(6)]


def test_two_operators_at_once_do_everything_once(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    install_crd(control_plane)
    with (
        operator(control_plane, tmp_path / "one"),
        operator(control_plane, tmp_path / "two"),
        fake_stages(control_plane) as stages,
    ):
        for name in RUNS:
            create_run(control_plane, namespace, name)
        for name in RUNS:
            wait_for_phase(control_plane, namespace, name, "Succeeded")
            check_sane(control_plane, namespace, name, stages)


def test_a_second_replica_takes_over_when_the_leader_is_killed(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    install_crd(control_plane)
    election = {"RZERO_LEADER_ELECTION": "true", "RZERO_LEASE_NAMESPACE": namespace}

    def decide(start: Start) -> Outcome | None:
        return Outcome(hang=True) if start.task.stage is Stage.LABEL_QUESTIONS else None

    with (
        api_proxy(control_plane) as to_leader,
        api_proxy(control_plane) as to_follower,
        fake_stages(control_plane, decide) as stages,
    ):
        first = kubeconfig_through(to_leader, control_plane, tmp_path / "first")
        second = kubeconfig_through(to_follower, control_plane, tmp_path / "second")
        with operator(
            control_plane, tmp_path, kubeconfig=first, POD_NAME="first", **election
        ) as leader:
            wait_until(lambda: holder(control_plane, namespace) == "first", 60, "a leader")
            with operator(
                control_plane, tmp_path, kubeconfig=second, POD_NAME="second", **election
            ) as follower:
                create_run(control_plane, namespace, "inherited")
                wait_for_stage(control_plane, namespace, "inherited", Stage.LABEL_QUESTIONS)
                wait_until(lambda: len(stages.starts) == 5, 60, "both shards to run")
                assert not [asked for asked in to_follower.asked if asked.is_write]
                assert follower.get("/readyz") == follower.get("/livez") == (200, "ok")
                leader.kill()
                stages.release()
                wait_until(
                    lambda: holder(control_plane, namespace) == "second",
                    2 * LEASE_SECONDS + 3 * RETRY_SECONDS,
                    "the lead to pass on",
                )
                wait_for_phase(control_plane, namespace, "inherited", "Succeeded")
                check_sane(control_plane, namespace, "inherited", stages)


@pytest.mark.parametrize(("before", "after"), [("+1h", "-1h"), ("-1h", "+1h")])
def test_clocks_an_hour_off_neither_stop_a_run_nor_repeat_a_stage(
    control_plane: ControlPlane, namespace: str, tmp_path: Path, before: str, after: str
) -> None:
    """The first operator writes down when to try again; the second lives two hours apart."""
    install_crd(control_plane)

    def decide(start: Start) -> Outcome | None:
        first = start.task.stage is Stage.TRAIN_CHALLENGER and start.number == 1
        return Outcome(exit_code=1) if first else None

    with api_proxy(control_plane) as proxy, fake_stages(control_plane, decide) as stages:
        config = kubeconfig_through(proxy, control_plane, tmp_path / "kubeconfig")
        with operator(control_plane, tmp_path, kubeconfig=config, **clock(before)):
            create_run(control_plane, namespace, "skewed")
            status = wait_for_phase(control_plane, namespace, "skewed", "Running")
            wait_until(lambda: waits(control_plane, namespace, "skewed"))
        with operator(control_plane, tmp_path, kubeconfig=config, **clock(after)):
            status = wait_for_phase(control_plane, namespace, "skewed", "Succeeded")
            budgets = {TRAINING: (2, 1, 0)}
            check_sane(control_plane, namespace, "skewed", stages, budgets=budgets)
    entry = status.find(*TRAINING)
    assert entry is not None and entry.started_at is not None and entry.finished_at is not None
    assert (entry.started_at < entry.finished_at) is (before == "-1h")


def clock(offset: str) -> dict[str, str]:
    """Variables that move a process' clock."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if not found:
        pytest.skip("there is no libfaketime: install the package faketime")
    return {
        "LD_PRELOAD": str(found[0]),
        "FAKETIME": offset,
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


def waits(cluster: ControlPlane, namespace: str, name: str) -> bool:
    entry = status_of(cluster, namespace, name).find(*TRAINING)
    return entry is not None and entry.state is StageState.WAITING


def holder(cluster: ControlPlane, namespace: str) -> str | None:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
    leases = cluster.api().get(path)["items"]
    return leases[0]["spec"].get("holderIdentity") if leases else None


def test_a_leader_that_ends_hands_over_in_seconds(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    install_crd(control_plane)
    election = {"RZERO_LEADER_ELECTION": "true", "RZERO_LEASE_NAMESPACE": namespace}

    def hang_in_training(start: Start) -> Outcome | None:
        return Outcome(hang=True) if start.task.stage is Stage.TRAIN_CHALLENGER else None

    with operator(control_plane, tmp_path, POD_NAME="first", **election) as leader:
        wait_until(lambda: holder(control_plane, namespace) == "first", 60, "a leader")
        with (
            operator(control_plane, tmp_path, POD_NAME="second", **election),
            fake_stages(control_plane, hang_in_training) as stages,
        ):
            create_run(control_plane, namespace, "handed")
            wait_for_stage(control_plane, namespace, "handed", Stage.TRAIN_CHALLENGER)
            leader.process.terminate()
            wait_until(
                lambda: holder(control_plane, namespace) == "second",
                LEASE_SECONDS / 2,
                "the lead to be handed over",
            )
            stages.release()
            wait_for_phase(control_plane, namespace, "handed", "Succeeded")
            check_sane(control_plane, namespace, "handed", stages)
    assert "has given the Lease back" in leader.log.read_text()


def test_a_run_that_ended_is_shown_by_the_next_leader_and_no_longer_by_the_last(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    install_crd(control_plane)
    election = {"RZERO_LEADER_ELECTION": "true", "RZERO_LEASE_NAMESPACE": namespace}
    with (
        fake_stages(control_plane),
        operator(control_plane, tmp_path, POD_NAME="first", **election) as old,
    ):
        create_run(control_plane, namespace, "shown")
        wait_for_phase(control_plane, namespace, "shown", "Succeeded")
        wait_until(lambda: shows(old, namespace), 60, "the leader to show the run")
        with operator(control_plane, tmp_path, POD_NAME="second", **election) as new:
            assert not shows(new, namespace)
            old.process.send_signal(signal.SIGSTOP)
            wait_until(lambda: shows(new, namespace), 3 * LEASE_SECONDS, "the other to take over")
            old.process.send_signal(signal.SIGCONT)
            wait_until(lambda: not shows(old, namespace), 2 * LEASE_SECONDS, "the gauges to go")
            # Longer than a resync of the follower.
            time.sleep(6)
            assert shows(new, namespace) and not shows(old, namespace)


def shows(process: OperatorProcess, namespace: str) -> bool:
    """Whether an operator has gauges of a run of this namespace."""
    return f'namespace="{namespace}",run="shown"' in process.get("/metrics")[1]
