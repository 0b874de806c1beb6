"""An operator killed before, and after, every single write that a run needs."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from api_proxy import Asked, api_proxy, kubeconfig_through
from operator_deaths import deaths_at
from operator_process import (
    create_run,
    install_crd,
    operator,
    patch_run,
    status_of,
    wait_for_phase,
    wait_until,
)
from sanity import check_sane

from rzero_core.run import Stage
from rzero_core.status import Phase
from rzero_operator.tasks import Step
from tests.cluster.control_plane import ControlPlane
from tests.cluster.fake_stages import fake_stages
from tests.cluster.stage_results import Outcome, Start

STAGES = tuple(Stage)[:5]
LAST = "status Succeeded [] "
LAST_OF_SUSPENSION = "PUT status Suspended"
JOBS = {f"job killed-i001-{part}-a1" for part in ("chal", "gen", "label", "curr", "solv")}
TOLD = {
    *(f"StageDone iteration 2, {stage}: done" for stage in STAGES),
    # The first of them is told right after the end of iteration 2, at which an operator dies.
    *(f"AttemptStarted iteration 3, {stage}: attempt 1" for stage in STAGES[1:]),
}


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.timeout(600)
def test_an_operator_killed_at_every_write_leaves_every_stage_done_once(
    control_plane: ControlPlane, namespace: str, tmp_path: Path, moment: str
) -> None:
    """Each incarnation dies at the first write that none has died at yet: before the server sees

    it, or after the server answered. A dead operator tells no more events, so those get iterations
    of their own: in the first one it dies at all statuses and Jobs, then at events.
    """
    install_crd(control_plane)
    nodes = {"trainSolver": {"nodes": 2, "gpus": 1}}
    create_run(control_plane, namespace, "killed", iterations=3, stages=nodes)
    with api_proxy(control_plane) as proxy, fake_stages(control_plane) as stages:
        config = kubeconfig_through(proxy, control_plane, tmp_path / "kubeconfig")
        start = partial(
            operator,
            control_plane,
            tmp_path,
            kubeconfig=config,
            wait=False,
            RZERO_RESYNC_SECONDS="1",
        )
        deaths = deaths_at(
            proxy, start, moment, death_of, LAST, lambda: is_over(control_plane, namespace)
        )
        with operator(control_plane, tmp_path):
            wait_for_phase(control_plane, namespace, "killed", "Succeeded")
            pods = {Step(number, Stage.TRAIN_SOLVER): 2 for number in (1, 2, 3)}
            check_sane(control_plane, namespace, "killed", stages, starts=pods, done=pods)
    assert len(deaths) == len(set(deaths))
    assert {death for death in deaths if death.startswith("job ")} == JOBS
    assert {death.removeprefix("event ") for death in deaths if "event " in death} == TOLD
    statuses = [death for death in deaths if death.startswith("status ")]
    for stage in STAGES:
        assert any(f"Running 1 {stage}" in status for status in statuses)
    assert LAST in statuses
    written = {death for asked in proxy.asked if (death := death_of(asked)) is not None}
    assert written == set(deaths)
    kinds = {asked.path.split("?")[0].split("/")[-1] for asked in proxy.asked if asked.is_write}
    assert kinds == {"jobs", "services", "events", "status"}
    assert "services" in deaths


def death_of(asked: Asked) -> str | None:
    """What a write says, None for one that no incarnation dies at."""
    if not asked.is_write:
        return None
    said: dict[str, Any] = json.loads(asked.body)
    match asked.path.split("?")[0].split("/")[-1]:
        case "jobs":
            name = said["metadata"]["name"]
            return f"job {name}" if "-i001-" in name else None
        case "services" as kind:
            return kind
        case "events":
            told = f"{said['reason']} {said['message']}"
            return f"event {told}" if told in TOLD else None
        case _:
            status = said["status"]
            over = status["phase"] == Phase.SUCCEEDED
            if status["iteration"] != 1 and not over:
                return None
            entries = [] if over else status["iterations"][0]["stages"]
            words = [f"{item['state']} {item['attempts']} {item['stage']}" for item in entries]
            seen = "seen" if entries and "execution" in entries[-1] else ""
            return f"status {status['phase']} {words} {seen}"


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_operator_killed_at_every_write_of_a_suspension_stops_the_stage_once(
    control_plane: ControlPlane, namespace: str, tmp_path: Path, moment: str
) -> None:
    def outcome(start: Start) -> Outcome | None:
        first = start.task.stage is Stage.TRAIN_CHALLENGER and start.number == 1
        return Outcome(hang=True) if first else None

    install_crd(control_plane)
    create_run(control_plane, namespace, "killed")
    with api_proxy(control_plane) as proxy, fake_stages(control_plane, outcome) as stages:
        config = kubeconfig_through(proxy, control_plane, tmp_path / "kubeconfig")
        with operator(control_plane, tmp_path):
            wait_until(lambda: bool(stages.starts))
        patch_run(control_plane, namespace, "killed", {"spec": {"suspend": True}})
        start = partial(operator, control_plane, tmp_path, kubeconfig=config, wait=False)
        deaths = deaths_at(
            proxy,
            start,
            moment,
            kind_of,
            LAST_OF_SUSPENSION,
            lambda: is_suspended(control_plane, namespace),
        )
        patch_run(control_plane, namespace, "killed", {"spec": {"suspend": False}})
        with operator(control_plane, tmp_path):
            status = wait_for_phase(control_plane, namespace, "killed", "Succeeded")
    assert {"DELETE jobs", "PUT status Suspending", LAST_OF_SUSPENSION} <= set(deaths)
    spent = [
        (item.attempts, item.failures, item.preemptions) for item in status.iterations[0].stages
    ]
    assert spent == [(2, 0, 0)] + [(1, 0, 0)] * 4


def kind_of(asked: Asked) -> str | None:
    """The kind of a write, with the phase where it is a status."""
    if not asked.is_write:
        return None
    parts = asked.path.split("?")[0].split("/")
    if parts[-1] == "status":
        return f"PUT status {json.loads(asked.body)['status']['phase']}"
    return f"{asked.method} {'jobs' if 'jobs' in parts else parts[-1]}"


def is_over(cluster: ControlPlane, namespace: str) -> bool:
    return is_in(cluster, namespace, Phase.SUCCEEDED)


def is_suspended(cluster: ControlPlane, namespace: str) -> bool:
    return is_in(cluster, namespace, Phase.SUSPENDED)


def is_in(cluster: ControlPlane, namespace: str, phase: Phase) -> bool:
    return status_of(cluster, namespace, "killed").phase is phase
