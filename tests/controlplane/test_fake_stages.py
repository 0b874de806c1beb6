"""The fake stages: pods of runs on fake nodes end as stages would, or as a test says."""

import json
from typing import Any

import pytest
from cluster_makers import (
    RUN,
    SPEC,
    create,
    ended,
    make_job,
    make_task,
    pods_of,
    wait,
    wait_for_end,
)

from rzero_core.run import Stage
from rzero_core.status import IterationStatus, RunStatus, StageState, StageStatus
from rzero_core.task import StageResult
from rzero_operator.tasks import build_task, steps
from tests.cluster.control_plane import ControlPlane
from tests.cluster.fake_stages import fake_stages
from tests.cluster.stage_results import Outcome


def test_a_stage_pod_leaves_the_result_of_its_task(
    control_plane: ControlPlane, namespace: str
) -> None:
    task = make_task()
    with fake_stages(control_plane) as stages:
        path = create(control_plane, namespace, make_job("stage", task))

        assert wait_for_end(control_plane, path) == "Complete"

    (pod,) = pods_of(control_plane, path)
    result = StageResult.parse(json.loads(ended(pod)["message"]))
    assert (result.run_uid, result.stage, result.outputs) == (
        task.run.uid,
        task.stage,
        {"checkpoint": task.prefix},
    )
    assert [start.task for start in stages.starts] == [task]


def test_each_shard_leaves_its_own_result(control_plane: ControlPlane, namespace: str) -> None:
    trained = StageStatus(
        stage=Stage.TRAIN_CHALLENGER,
        state=StageState.DONE,
        outputs={"checkpoint": "s3://bucket/checkpoint"},
    )
    status = RunStatus(iterations=[IterationStatus(iteration=1, stages=[trained])])
    step = list(steps(SPEC, status))[1]
    task = build_task(SPEC, status, RUN, step, attempt=1)
    with fake_stages(control_plane, seconds=0):
        path = create(control_plane, namespace, make_job("shards", task, pods=3))

        assert wait_for_end(control_plane, path) == "Complete"

    found = [json.loads(ended(pod)["message"]) for pod in pods_of(control_plane, path)]
    results = sorted(map(StageResult.parse, found), key=lambda result: result.shard or 0)
    assert [result.shard for result in results] == [0, 1, 2]
    assert results[2].outputs == {"questions": f"{task.prefix}/shard-0002"}


@pytest.mark.parametrize(
    "outcome", [Outcome(exit_code=75), Outcome(exit_code=137, reason="OOMKilled")]
)
def test_a_test_decides_how_a_stage_pod_ends(
    control_plane: ControlPlane, namespace: str, outcome: Outcome
) -> None:
    with fake_stages(control_plane, decide=lambda start: outcome):
        path = create(control_plane, namespace, make_job("told", make_task()))

        assert wait_for_end(control_plane, path) == "Failed"

    (pod,) = pods_of(control_plane, path)
    assert ended(pod)["exitCode"] == outcome.exit_code
    assert ended(pod)["reason"] == (outcome.reason or "Error")


def test_an_evicted_stage_pod_has_the_condition_of_a_disruption(
    control_plane: ControlPlane, namespace: str
) -> None:
    with fake_stages(control_plane):
        path = create(control_plane, namespace, make_job("gone", make_task(), evicted="true"))

        assert wait_for_end(control_plane, path) == "Failed"

    (pod,) = pods_of(control_plane, path)
    assert "DisruptionTarget" in {entry["type"] for entry in pod["status"]["conditions"]}


def test_a_deleted_stage_pod_ends_before_it_is_gone(
    control_plane: ControlPlane, namespace: str
) -> None:
    with fake_stages(control_plane) as stages:
        path = create(control_plane, namespace, make_job("hang", make_task(), hang="true"))
        wait(lambda: stages.starts)
        (pod,) = wait(lambda: running(control_plane, path))

        control_plane.kubectl("delete", "pod", "-n", namespace, pod["metadata"]["name"])

        assert wait_for_end(control_plane, path) == "Failed"


def running(cluster: ControlPlane, job: str) -> list[dict[str, Any]]:
    return [pod for pod in pods_of(cluster, job) if pod["status"]["phase"] == "Running"]


def test_a_restart_of_the_api_server_loses_no_stage(
    control_plane: ControlPlane, namespace: str
) -> None:
    with fake_stages(control_plane) as stages:
        path = create(control_plane, namespace, make_job("slow", make_task(), seconds="1"))
        wait(lambda: stages.starts)

        control_plane.restart_api_server()

        assert wait_for_end(control_plane, path) == "Complete"
    assert len(stages.starts) == 1


def test_two_hundred_stages_at_once_are_done_within_a_minute(
    control_plane: ControlPlane, namespace: str
) -> None:
    with fake_stages(control_plane, seconds=0) as stages:
        path = create(control_plane, namespace, make_job("many", make_task(), pods=200))

        assert wait_for_end(control_plane, path, 60) == "Complete"

    assert len(stages.starts) == 200
