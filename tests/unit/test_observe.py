"""What is read back of attempts from Jobs and pods as the API server gives them."""

from datetime import UTC, datetime
from typing import Any

import pytest
from job_makers import (
    JOB_UID,
    RUN,
    disrupted,
    failed,
    job_of,
    make_spec,
    make_start,
    pod_of,
    result_of,
)

from rzero_core.run import Stage
from rzero_operator.decision import QUEUED, Attempt, AttemptState
from rzero_operator.observe import finished_at, observe
from rzero_operator.tasks import Step

COMPLETE = [{"type": "Complete", "status": "True", "reason": "CompletionsReached"}]


def result(stage: Stage, shard: int | None = None) -> str:
    return result_of(make_start(make_spec(), stage).task, shard).to_json()


def seen(job: Any, *pods: Any, events: Any = ()) -> Attempt:
    (attempt,) = observe(RUN, [job], pods, events)
    return attempt


def succeeded(stage: Stage, index: int | None = None, shard: int | None = None) -> dict[str, Any]:
    return pod_of("Succeeded", index, exit_code=0, message=result(stage, shard) + "\n")


def test_a_new_job_runs() -> None:
    attempt = seen(job_of(Stage.TRAIN_SOLVER))
    assert attempt == Attempt(
        Step(1, Stage.TRAIN_SOLVER), 1, AttemptState.RUNNING, execution=JOB_UID
    )


def test_a_stage_is_done_with_its_pod_before_the_job_says_so() -> None:
    attempt = seen(job_of(Stage.TRAIN_SOLVER), succeeded(Stage.TRAIN_SOLVER))
    assert attempt.state is AttemptState.SUCCEEDED
    assert [item.to_json() for item in attempt.results] == [result(Stage.TRAIN_SOLVER)]


def test_a_stage_is_not_done_while_its_sidecar_still_runs() -> None:
    pod = pod_of("Running", exit_code=0, message=result(Stage.TRAIN_CHALLENGER))
    assert seen(job_of(Stage.TRAIN_CHALLENGER), pod).state is AttemptState.RUNNING


def test_shards_are_done_when_each_has_reported() -> None:
    job, stage = job_of(Stage.LABEL_QUESTIONS), Stage.LABEL_QUESTIONS
    pods = [succeeded(stage, shard, shard) for shard in range(3)]
    assert seen(job, *pods[:2]).state is AttemptState.RUNNING
    attempt = seen(job, *reversed(pods))
    assert attempt.state is AttemptState.SUCCEEDED
    assert (attempt.shards, [item.shard for item in attempt.results]) == (3, [0, 1, 2])


def test_without_a_readable_result_the_jobs_own_word_is_awaited() -> None:
    pod = pod_of("Succeeded", exit_code=0, message="no result")
    assert seen(job_of(Stage.EVALUATE), pod).state is AttemptState.RUNNING
    attempt = seen(job_of(Stage.EVALUATE, COMPLETE), pod)
    assert (attempt.state, attempt.reason) == (AttemptState.FAILED, "NoResult")
    assert attempt.message.startswith("the stage ended without a result: check the image")
    assert "stages.evaluate.podTemplate" in attempt.message
    assert attempt.message.endswith("it said: no result")


def test_one_shard_that_says_nothing_fails_the_attempt_and_one_that_is_gone_does_not() -> None:
    stage = Stage.LABEL_QUESTIONS
    job = job_of(stage, COMPLETE)
    pods = [succeeded(stage, 0, 0), pod_of("Succeeded", 1, exit_code=0), succeeded(stage, 2, 2)]
    attempt = seen(job, *pods)
    assert (attempt.state, attempt.preempted) == (AttemptState.FAILED, False)
    assert attempt.message.startswith("shard 1: the stage ended without a result")
    assert attempt.message.endswith("it said: nothing")
    attempt = seen(job, pods[0], pods[2])
    assert (attempt.state, len(attempt.results)) == (AttemptState.SUCCEEDED, 2)


def test_of_several_nodes_only_the_first_has_to_say_something() -> None:
    job = job_of(Stage.TRAIN_SOLVER, COMPLETE, stages={"trainSolver": {"nodes": 2}})
    second = pod_of("Succeeded", 1, exit_code=0)
    assert seen(job, second).state is AttemptState.SUCCEEDED
    assert seen(job, second, pod_of("Succeeded", 0, exit_code=0)).reason == "NoResult"


def test_a_complete_job_whose_pods_are_gone_has_no_results() -> None:
    attempt = seen(job_of(Stage.EVALUATE, COMPLETE))
    assert (attempt.state, attempt.results) == (AttemptState.SUCCEEDED, ())


def test_of_several_nodes_the_first_reports_and_all_must_end() -> None:
    job = job_of(Stage.TRAIN_SOLVER, stages={"trainSolver": {"nodes": 2}})
    first = succeeded(Stage.TRAIN_SOLVER, index=0)
    assert seen(job, first, pod_of(index=1)).state is AttemptState.RUNNING
    attempt = seen(job, succeeded(Stage.TRAIN_SOLVER, index=1), first)
    assert attempt.state is AttemptState.SUCCEEDED
    assert (attempt.shards, len(attempt.results)) == (None, 1)


@pytest.mark.parametrize("condition", ["FailureTarget", "SuccessCriteriaMet"])
def test_a_job_whose_pods_still_end_runs(condition: str) -> None:
    job = job_of(Stage.TRAIN_SOLVER, [{"type": condition, "status": "True"}])
    assert seen(job, pod_of()).state is AttemptState.RUNNING


def test_a_failed_pod_alone_is_no_failed_attempt() -> None:
    assert seen(job_of(Stage.EVALUATE), pod_of("Failed", exit_code=1)).state is AttemptState.RUNNING


def test_a_deleted_job_stops_until_it_is_gone() -> None:
    job = job_of(Stage.TRAIN_SOLVER)
    job["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert seen(job, pod_of()).state is AttemptState.STOPPING
    # What it achieved meanwhile counts.
    assert seen(job, succeeded(Stage.TRAIN_SOLVER)).state is AttemptState.SUCCEEDED


def test_a_failure_shows_its_exit_code_and_its_line() -> None:
    pod = pod_of("Failed", exit_code=75, message="s3://bucket: no answer\n")
    attempt = seen(job_of(Stage.EVALUATE, failed()), pod)
    assert attempt.state is AttemptState.FAILED
    assert (attempt.exit_code, attempt.reason, attempt.preempted) == (75, "", False)
    assert attempt.message == "s3://bucket: no answer"


def test_hostile_messages_become_one_short_line() -> None:
    message = "bad\x1b[31m\r\nrow\t\u202e: " + "x" * 4000
    attempt = seen(
        job_of(Stage.EVALUATE, failed()), pod_of("Failed", exit_code=65, message=message)
    )
    assert attempt.message.startswith("bad [31m row : xxx")
    assert len(attempt.message) == 500


def test_what_no_retry_mends_is_said_first() -> None:
    pods = [
        pod_of("Failed", 0, exit_code=1, message="crash"),
        pod_of("Failed", 1, exit_code=75, conditions=disrupted()),
        pod_of("Failed", 2, exit_code=65, message="row 7 is no JSON"),
    ]
    attempt = seen(job_of(Stage.LABEL_QUESTIONS, failed("FailedIndexes")), *pods)
    assert (attempt.exit_code, attempt.preempted) == (65, False)
    assert attempt.message == "shard 2: row 7 is no JSON"


def test_a_disrupted_pod_is_no_fault_of_the_stage() -> None:
    pod = pod_of("Failed", exit_code=75, conditions=disrupted())
    attempt = seen(job_of(Stage.TRAIN_SOLVER, failed("PodFailurePolicy")), pod)
    assert (attempt.preempted, attempt.exit_code, attempt.reason) == (True, 75, "Preempted")
    assert "EvictionByEvictionAPI" in attempt.message


def test_one_disrupted_node_explains_the_failure_of_the_others() -> None:
    job = job_of(Stage.TRAIN_SOLVER, failed(), stages={"trainSolver": {"nodes": 2}})
    pods = [
        pod_of("Failed", 0, exit_code=1, message="RuntimeError: connection closed by peer"),
        pod_of("Failed", 1, exit_code=137, conditions=disrupted("DeletionByTaintManager")),
    ]
    assert seen(job, *pods).preempted


def test_too_little_memory_is_no_preemption() -> None:
    pod = pod_of("Failed", exit_code=137, reason="OOMKilled")
    attempt = seen(job_of(Stage.TRAIN_SOLVER, failed()), pod)
    assert (attempt.exit_code, attempt.reason, attempt.preempted) == (137, "OutOfMemory", False)
    assert "microBatchSize" in attempt.message


def test_a_passed_deadline_is_named() -> None:
    condition = failed("DeadlineExceeded", "Job was active longer than specified deadline")
    pod = pod_of("Failed", exit_code=75, message="stopped on request")
    attempt = seen(job_of(Stage.TRAIN_SOLVER, condition), pod)
    assert (attempt.reason, attempt.exit_code) == ("DeadlineExceeded", None)
    assert attempt.message.startswith("ran longer than activeDeadlineSeconds")


def test_a_pod_that_its_node_refused_says_why() -> None:
    pod = pod_of("Failed")
    pod["status"] = {
        "phase": "Failed",
        "reason": "UnexpectedAdmissionError",
        "message": "Allocate failed due to no healthy devices",
    }
    attempt = seen(job_of(Stage.TRAIN_SOLVER, failed()), pod)
    assert (attempt.reason, attempt.exit_code) == ("UnexpectedAdmissionError", None)
    assert attempt.message == "Allocate failed due to no healthy devices"


def test_without_pods_the_jobs_message_is_read() -> None:
    said = "Container main for pod lab/x failed with exit code 65 matching FailJob rule at index 0"
    attempt = seen(job_of(Stage.TRAIN_SOLVER, failed("PodFailurePolicy", said)))
    assert (attempt.exit_code, attempt.preempted, attempt.message) == (65, False, said)
    said = "Pod lab/x has condition DisruptionTarget matching FailJob rule at index 1"
    attempt = seen(job_of(Stage.TRAIN_SOLVER, failed("PodFailurePolicy", said)))
    assert (attempt.exit_code, attempt.preempted) == (None, True)


@pytest.mark.parametrize(
    ("waiting", "reason", "message"),
    [
        (
            {"reason": "ErrImagePull", "message": "not found"},
            "ImagePullBackOff",
            "container main: not found",
        ),
        (
            {
                "reason": "ImagePullBackOff",
                "message": 'Back-off pulling image "x:1": ErrImagePull: not found',
            },
            "ImagePullBackOff",
            "container main: not found",
        ),
        (
            {"reason": "InvalidImageName", "message": "couldn't parse image name"},
            "InvalidImageName",
            "container main: couldn't parse image name",
        ),
        (
            {"reason": "CreateContainerConfigError", "message": 'secret "s3" not found'},
            "CreateContainerConfigError",
            'container main: secret "s3" not found',
        ),
        ({"reason": "ContainerCreating"}, "", ""),
        ({"reason": "PodInitializing"}, "", ""),
    ],
)
def test_a_container_that_cannot_start_says_why(
    waiting: dict[str, str], reason: str, message: str
) -> None:
    attempt = seen(job_of(Stage.TRAIN_SOLVER), pod_of("Pending", waiting=waiting))
    assert (attempt.state, attempt.reason, attempt.message) == (
        AttemptState.RUNNING,
        reason,
        message,
    )


UNSCHEDULABLE = [
    {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/2 nodes are available: 2 Insufficient nvidia.com/gpu.",
    }
]


def test_a_pod_without_a_node_says_why() -> None:
    pod = pod_of("Pending", conditions=UNSCHEDULABLE)
    pod["status"].pop("containerStatuses")
    attempt = seen(job_of(Stage.TRAIN_SOLVER), pod)
    assert attempt.reason == "Unschedulable"
    assert "Insufficient nvidia.com/gpu" in attempt.message


def test_shards_that_wait_for_others_are_no_obstacle_but_a_missing_node_is() -> None:
    pods = [pod_of(index=0), pod_of("Pending", 1, conditions=UNSCHEDULABLE)]
    assert seen(job_of(Stage.LABEL_QUESTIONS), *pods).reason == ""
    gang = job_of(Stage.TRAIN_SOLVER, stages={"trainSolver": {"nodes": 2}})
    assert seen(gang, *pods).reason == "Unschedulable"


def test_a_queue_that_holds_the_job_back_is_named() -> None:
    job = job_of(Stage.TRAIN_SOLVER, queueName="research")
    job["spec"]["suspend"] = True
    attempt = seen(job)
    assert (attempt.state, attempt.reason) == (AttemptState.RUNNING, QUEUED)
    assert attempt.message == "waits in queue research"
    job["metadata"]["labels"].pop("kueue.x-k8s.io/queue-name")
    assert seen(job).reason == "JobSuspended"


def test_a_job_without_pods_tells_its_newest_warning() -> None:
    def event(time: str, **changes: Any) -> dict[str, Any]:
        base = {"type": "Warning", "reason": "FailedCreate", "involvedObject": {"uid": JOB_UID}}
        return {**base, "message": f"Error creating: {time}", "lastTimestamp": time, **changes}

    events = [
        event("2026-01-01T00:00:02Z"),
        event("2026-01-01T00:00:01Z"),
        event("2026-01-01T00:00:03Z", involvedObject={"uid": "another"}),
        event("2026-01-01T00:00:04Z", type="Normal"),
    ]
    attempt = seen(job_of(Stage.TRAIN_SOLVER), events=events)
    assert attempt.reason == "FailedCreate"
    assert attempt.message == "Error creating: 2026-01-01T00:00:02Z"
    assert seen(job_of(Stage.TRAIN_SOLVER), pod_of(), events=events).reason == ""


@pytest.mark.parametrize(
    ("label", "value"),
    [
        ("rzero.dev/run-uid", "another"),
        ("rzero.dev/iteration", "one"),
        ("rzero.dev/iteration", ""),
        ("rzero.dev/attempt", "0"),
        ("rzero.dev/attempt", "-1"),
        ("rzero.dev/round", "0"),
        ("rzero.dev/stage", "Distill"),
    ],
)
def test_jobs_with_nonsense_for_labels_are_passed_over(label: str, value: str) -> None:
    job = job_of(Stage.TRAIN_SOLVER)
    job["metadata"]["labels"][label] = value
    assert observe(RUN, [job], []) == []


def test_jobs_that_the_run_does_not_own_are_passed_over() -> None:
    job = job_of(Stage.TRAIN_SOLVER)
    job["metadata"]["ownerReferences"][0]["uid"] = "an earlier run of the same name"
    assert observe(RUN, [job], []) == []


def test_pods_of_another_job_do_not_count() -> None:
    pod = pod_of("Succeeded", exit_code=0, message=result(Stage.EVALUATE), owner="another")
    assert seen(job_of(Stage.EVALUATE), pod).state is AttemptState.RUNNING


def test_the_end_of_a_stage_is_that_of_its_last_container() -> None:
    pods = [
        pod_of("Succeeded", 0, exit_code=0, finished_at="2026-01-01T00:00:07Z"),
        pod_of("Succeeded", 1, exit_code=0, finished_at="2026-01-01T00:00:09Z"),
        pod_of(index=2),
    ]
    assert finished_at(pods) == datetime(2026, 1, 1, 0, 0, 9, tzinfo=UTC)
    assert finished_at([pod_of()]) is None
