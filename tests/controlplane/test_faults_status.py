"""Somebody edits the status of runs by hand into nonsense."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from operator_process import (
    RUNS,
    create_run,
    get_run,
    install_crd,
    operator,
    wait_for_phase,
    wait_until,
)
from sanity import Budget, check_sane, wait_for_stage

from rzero_core.run import Stage
from rzero_operator.tasks import Step
from tests.cluster.api import ApiError
from tests.cluster.control_plane import ControlPlane
from tests.cluster.fake_stages import fake_stages
from tests.cluster.stage_results import Outcome, Start

Status = dict[str, Any]
ELSEWHERE = {"checkpoint": "s3://somebody-else/checkpoint"}
TRAINING, LABELS = Step(1, Stage.TRAIN_CHALLENGER), Step(1, Stage.LABEL_QUESTIONS)


def entry(status: Status, place: int) -> dict[str, Any]:
    found: dict[str, Any] = status["iterations"][0]["stages"][place]
    return found


def claim_the_end(status: Status) -> None:
    status |= {"phase": "Succeeded", "iteration": 7, "attempt": 99, "stage": "evaluate"}


def claim_a_failure(status: Status) -> None:
    status |= {"phase": "Failed"}


def claim_a_suspension(status: Status) -> None:
    status |= {"phase": "Suspended"}


def point_elsewhere(status: Status) -> None:
    entry(status, 0)["outputs"] = ELSEWHERE


def forget_outputs(status: Status) -> None:
    entry(status, 1)["outputs"] = {}
    entry(status, 1)["metrics"] = {"shards": "1e9"}


def forget_the_attempt(status: Status) -> None:
    entry(status, 2).update(attempts=0, state="Waiting")
    entry(status, 2).pop("execution")


def add_iterations(status: Status) -> None:
    done = {"stage": "trainSolver", "state": "Done", "attempts": 3, "outputs": ELSEWHERE}
    status["iterations"] += [{"iteration": 9, "stages": [done]}, {"iteration": 5}]


def claim_a_stage(status: Status) -> None:
    done = {"stage": "trainSolver", "state": "Done", "outputs": ELSEWHERE}
    status["iterations"][0]["stages"].append(done)


def write_words_for_numbers(status: Status) -> None:
    entry(status, 0)["metrics"] = {"steps": "many"}
    entry(status, 1).update(startedAt="noon", finishedAt="later")
    entry(status, 2).update(notBefore="tomorrow", metrics={"short": "tall"})


def remove_conditions(status: Status) -> None:
    status["conditions"] = []
    status["observedGeneration"] = 77


def remove_everything(status: Status) -> None:
    status.clear()


EDITS: Mapping[str, Callable[[Status], None]] = {
    edit.__name__.replace("_", "-"): edit
    for edit in (
        claim_the_end,
        claim_a_failure,
        claim_a_suspension,
        point_elsewhere,
        forget_outputs,
        forget_the_attempt,
        add_iterations,
        claim_a_stage,
        write_words_for_numbers,
        remove_conditions,
        remove_everything,
    )
}


def test_nonsense_in_a_status_is_put_right_from_what_jobs_say(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """One run for each edit, all of which have their third stage at work when it is made."""
    install_crd(control_plane)
    with operator(control_plane, tmp_path), fake_stages(control_plane, hang_at_labels) as stages:
        for name in EDITS:
            create_run(control_plane, namespace, name)
        for name in EDITS:
            wait_for_stage(control_plane, namespace, name, Stage.LABEL_QUESTIONS)
        for name, edit in EDITS.items():
            write_status(control_plane, namespace, name, edit)
        for name in EDITS:
            wait_until(lambda name=name: is_labelling(control_plane, namespace, name), 60, name)
        wait_until(lambda: len(stages.starts) == 5 * len(EDITS), 60, "all shards to run")
        stages.release()
        for name in EDITS:
            wait_for_phase(control_plane, namespace, name, "Succeeded")
            check_sane(control_plane, namespace, name, stages)


def test_a_false_proof_whose_job_is_gone_is_done_again(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    install_crd(control_plane)
    budgets: dict[Step, Budget] = {TRAINING: (2, 0, 0), LABELS: (2, 0, 1)}
    with operator(control_plane, tmp_path), fake_stages(control_plane, hang_at_labels) as stages:
        create_run(control_plane, namespace, "forged")
        wait_for_stage(control_plane, namespace, "forged", Stage.LABEL_QUESTIONS)
        wait_until(lambda: len(stages.starts) == 5)
        job = "forged-i001-chal-a1"
        control_plane.kubectl("delete", "job", job, "-n", namespace)
        write_status(control_plane, namespace, "forged", point_elsewhere)
        wait_for_phase(control_plane, namespace, "forged", "Succeeded")
        check_sane(control_plane, namespace, "forged", stages, budgets=budgets, done={TRAINING: 2})


def test_the_server_refuses_a_status_that_says_things_twice_or_unheard_of(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    install_crd(control_plane)
    create_run(control_plane, namespace, "refused")
    twice = {"iterations": [{"iteration": 1}, {"iteration": 1}]}
    unheard = {"iterations": [{"iteration": 1, "stages": [{"stage": "dream", "state": "Done"}]}]}
    for status in (twice, unheard, {"phase": "Asleep"}, {"iterations": [{"iteration": -1}]}):
        with pytest.raises(ApiError) as refused:
            write_status(control_plane, namespace, "refused", lambda old, s=status: old.update(s))
        assert refused.value.status == 422


def hang_at_labels(start: Start) -> Outcome | None:
    hangs = start.task.stage is Stage.LABEL_QUESTIONS and start.number == 1
    return Outcome(hang=True) if hangs else None


def write_status(
    cluster: ControlPlane, namespace: str, name: str, edit: Callable[[Status], None]
) -> None:
    """As `kubectl edit --subresource=status` does."""
    path = f"{RUNS.format(namespace)}/{name}/status"
    while True:
        run = get_run(cluster, namespace, name)
        run.setdefault("status", {})
        edit(run["status"])
        try:
            cluster.api().request("PUT", path, run)
        except ApiError as error:
            if error.status != 409:
                raise
        else:
            return


def is_labelling(cluster: ControlPlane, namespace: str, name: str) -> bool:
    status = get_run(cluster, namespace, name)["status"]
    return (status.get("phase"), status.get("stage")) == ("Running", "labelQuestions") and {
        "True",
        "False",
    } == {item["status"] for item in status.get("conditions", [])}
