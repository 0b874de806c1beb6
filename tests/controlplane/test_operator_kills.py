"""An operator killed before, and after, every single write that a run needs."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from api_proxy import RESET, Answer, ApiProxy, Asked, api_proxy, kubeconfig_through
from operator_process import (
    OperatorProcess,
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

MOST_INCARNATIONS = 120
STAGES = tuple(Stage)[:5]
# The server shows a write before the operator is killed for it: a loop that looks for the phase
# alone could end before the last death.
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
    deaths: list[str] = []
    with api_proxy(control_plane) as proxy, fake_stages(control_plane) as stages:
        config = kubeconfig_through(proxy, control_plane, tmp_path / "kubeconfig")
        for _ in range(MOST_INCARNATIONS):
            with (
                operator(
                    control_plane,
                    tmp_path,
                    kubeconfig=config,
                    wait=False,
                    RZERO_RESYNC_SECONDS="1",
                ) as process,
                killing(proxy, process, moment, deaths) as dead,
            ):
                while not dead.wait(0.1):
                    if LAST in deaths and is_over(control_plane, namespace):
                        break
            if LAST in deaths and is_over(control_plane, namespace):
                break
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
    deaths: list[str] = []
    with api_proxy(control_plane) as proxy, fake_stages(control_plane, outcome) as stages:
        config = kubeconfig_through(proxy, control_plane, tmp_path / "kubeconfig")
        with operator(control_plane, tmp_path):
            wait_until(lambda: bool(stages.starts))
        patch_run(control_plane, namespace, "killed", {"spec": {"suspend": True}})
        for _ in range(MOST_INCARNATIONS):
            with (
                operator(control_plane, tmp_path, kubeconfig=config, wait=False) as process,
                killing(proxy, process, moment, deaths, kind_of) as dead,
            ):
                while not dead.wait(0.1):
                    if LAST_OF_SUSPENSION in deaths and is_suspended(control_plane, namespace):
                        break
            if LAST_OF_SUSPENSION in deaths and is_suspended(control_plane, namespace):
                break
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


@contextmanager
def killing(
    proxy: ApiProxy,
    process: OperatorProcess,
    moment: str,
    deaths: list[str],
    name: Callable[[Asked], str | None] = death_of,
) -> Iterator[threading.Event]:
    """Kill the operator at the first write whose name is not among `deaths`, and add that."""
    dead = threading.Event()

    def before(asked: Asked) -> Answer | None:
        if dead.is_set():
            return RESET if asked.is_write else None
        return die(asked) if moment == "before" else None

    def after(asked: Asked) -> Answer | None:
        return die(asked) if moment == "after" and not dead.is_set() else None

    def die(asked: Asked) -> Answer | None:
        death = name(asked)
        if death is None or death in deaths:
            return None
        deaths.append(death)
        process.process.kill()
        dead.set()
        return RESET

    proxy.before, proxy.after = before, after
    try:
        yield dead
    finally:
        proxy.before, proxy.after = lambda _: None, lambda _: None


def is_over(cluster: ControlPlane, namespace: str) -> bool:
    return is_in(cluster, namespace, Phase.SUCCEEDED)


def is_suspended(cluster: ControlPlane, namespace: str) -> bool:
    return is_in(cluster, namespace, Phase.SUSPENDED)


def is_in(cluster: ControlPlane, namespace: str, phase: Phase) -> bool:
    return status_of(cluster, namespace, "killed").phase is phase
