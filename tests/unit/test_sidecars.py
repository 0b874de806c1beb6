"""A sidecar that does not come up: what is observed of it, and what the plan does about it."""

from datetime import UTC, datetime
from typing import Any

import pytest
from job_makers import RUN, job_of, pod_of
from plan_world import CHALLENGER, DATASETS, World, condition, later, make_spec, phase

from rzero_core.run import Stage
from rzero_core.status import Phase, StageState
from rzero_operator.decision import Attempt, AttemptState, StopAttempt
from rzero_operator.observe import observe
from rzero_operator.run_gauges import samples
from rzero_operator.tasks import Step

PROGRESS = "rzero_run_last_progress_timestamp_seconds"
RUNS = {"running": {"startedAt": "2026-01-01T00:00:01Z"}}
PAUSES = {
    "waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s restarting container"}
}


def pod(
    state: dict[str, Any],
    restarts: int,
    code: int = 1,
    *,
    message: str = "CUDA out of memory",
    name: str = "solver",
    policy: str | None = "Always",
    main: dict[str, Any] | None = None,
    index: int | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """A pod that waits for its sidecar, or whose `main` is in another state."""
    made = pod_of("Pending", index)
    ended = {"exitCode": code, "reason": "Error", "message": message}
    status = {
        "name": name,
        "started": False,
        "restartCount": restarts,
        "state": state,
        "lastState": {"terminated": ended} if restarts else {},
        **changes,
    }
    made["spec"] = {"initContainers": [{"name": name, "restartPolicy": policy}]}
    made["status"]["initContainerStatuses"] = [status]
    waits = {"waiting": {"reason": "PodInitializing"}}
    made["status"]["containerStatuses"][0]["state"] = main or waits
    return made


def seen(*pods: Any, stage: Stage = Stage.TRAIN_CHALLENGER) -> Attempt:
    (attempt,) = observe(RUN, [job_of(stage)], pods)
    return attempt


@pytest.mark.parametrize("state", [RUNS, PAUSES, {"terminated": {"exitCode": 1, "message": "oh"}}])
def test_a_sidecar_that_was_started_again_is_in_the_way_whatever_it_does(
    state: dict[str, Any],
) -> None:
    attempt = seen(pod(state, 1))
    said = "oh" if "terminated" in state else "CUDA out of memory"
    assert (attempt.state, attempt.reason) == (AttemptState.RUNNING, "SidecarFailed")
    assert attempt.message == f"container solver does not come up: {said}"


def test_a_sidecar_that_only_takes_its_time_is_not_in_the_way() -> None:
    assert seen(pod(RUNS, 0)) == seen()
    assert seen(pod(RUNS, 2, started=True)).reason == ""


def test_a_sidecar_without_last_words_shows_how_it_ended() -> None:
    # The startup probe had it killed.
    assert seen(pod(RUNS, 1, 137, message="")).message.endswith("come up: Error, exit code 137")


def test_a_sidecar_that_was_started_three_times_again_fails_the_attempt() -> None:
    assert seen(pod(PAUSES, 2)).state is AttemptState.RUNNING
    # The third time it may still come up.
    assert seen(pod(RUNS, 3)).state is AttemptState.RUNNING
    attempt = seen(pod(PAUSES, 3))
    assert (attempt.state, attempt.reason) == (AttemptState.FAILING, "SidecarFailed")
    assert (attempt.exit_code, attempt.preempted) == (None, False)
    assert attempt.message == "container solver does not come up: CUDA out of memory"


@pytest.mark.parametrize("code", [64, 65, 78])
@pytest.mark.parametrize("restarts", [0, 1])
def test_a_solver_that_no_retry_can_mend_fails_the_attempt_at_once(
    code: int, restarts: int
) -> None:
    ended = {"terminated": {"exitCode": code, "message": "no such model folder\n"}}
    attempt = seen(pod(ended, restarts))
    assert (attempt.state, attempt.exit_code) == (AttemptState.FAILING, code)
    assert attempt.message == "container solver does not come up: no such model folder"


def test_codes_of_a_sidecar_that_an_author_added_mean_nothing_to_us() -> None:
    attempt = seen(pod(RUNS, 1, 78, name="proxy"))
    assert (attempt.state, attempt.exit_code) == (AttemptState.RUNNING, None)
    # Its server may be away: to wait costs the run nothing.
    attempt = seen(pod(PAUSES, 9, 78, name="proxy"))
    assert (attempt.state, attempt.reason) == (AttemptState.RUNNING, "SidecarFailed")


def test_a_stage_that_has_begun_is_not_stopped_for_restarts_of_its_sidecar() -> None:
    attempt = seen(pod(RUNS, 9, main=RUNS))
    assert (attempt.state, attempt.reason) == (AttemptState.RUNNING, "SidecarFailed")


@pytest.mark.parametrize("over", ["ended", "deleted", "disrupted", "no sidecar"])
def test_what_a_sidecar_does_after_its_stage_or_in_a_pod_that_goes_is_no_trouble(over: str) -> None:
    ended = {"terminated": {"exitCode": 0}}
    hopeless = {"terminated": {"exitCode": 78}}
    seen_pod = pod(hopeless, 3, 78, main=ended if over == "ended" else None)
    if over == "disrupted":
        # A node that is short of memory, or shuts down, deletes nothing.
        disrupted = {"type": "DisruptionTarget", "status": "True"}
        seen_pod["status"]["conditions"] = [disrupted]
    if over == "deleted":
        seen_pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    if over == "no sidecar":
        # A new sandbox starts what prepares a pod again.
        seen_pod["spec"]["initContainers"][0].pop("restartPolicy")
    attempt = seen(seen_pod)
    assert (attempt.state, attempt.reason) == (AttemptState.RUNNING, "")


def test_one_shard_whose_sidecar_does_not_come_up_fails_the_attempt() -> None:
    attempt = seen(pod_of(index=0), pod(PAUSES, 3, index=1), stage=Stage.LABEL_QUESTIONS)
    assert attempt.state is AttemptState.FAILING
    assert attempt.message.startswith("shard 1: container solver does not come up")


def failing(world: World, code: int | None = None) -> None:
    world.end(
        state=AttemptState.FAILING,
        exit_code=code,
        reason="SidecarFailed",
        message="container solver does not come up: oh",
        execution="job-1",
    )


def test_a_failing_attempt_is_counted_and_stopped_and_the_next_waits_for_its_end() -> None:
    world = World(make_spec())
    world.turn()
    failing(world)
    decision = world.turn()
    assert decision.actions == (StopAttempt(CHALLENGER, 1),)
    assert decision.events[0].reason == "SidecarFailed"
    assert (world.entry.state, world.entry.failures) == (StageState.WAITING, 1)
    assert phase(world) is Phase.RUNNING
    assert condition(world.status, "Reconciling")[1].endswith(
        "attempt 1 is stopped: container solver does not come up: oh"
    )
    # The pod takes its time to go, longer than the pause.
    later(world, 60)
    assert world.turn().actions == ()
    world.attempts.clear()
    world.turn()
    assert [start.task.attempt for start in world.started] == [1, 2]
    assert (world.entry.failures, world.entry.preemptions) == (1, 0)


def test_the_next_attempt_waits_out_the_pause_of_a_failure() -> None:
    world = World(make_spec())
    world.turn()
    failing(world)
    world.turn()
    world.attempts.clear()
    assert world.turn().requeue_after == 10
    assert len(world.started) == 1


@pytest.mark.parametrize("looks", ["Failing", "Running"])
def test_an_attempt_that_was_counted_is_stopped_by_whoever_comes_next(looks: str) -> None:
    world = World(make_spec())
    world.turn()
    failing(world)
    world.write(world.decide())  # The caller dies before it acts.
    # Its sidecar may even have come up meanwhile: it is counted, so it ends.
    world.end(state=AttemptState(looks))
    assert world.turn().actions == (StopAttempt(CHALLENGER, 1),)
    assert (world.entry.failures, world.entry.preemptions) == (1, 0)


def test_sidecars_that_never_come_up_fail_the_run_when_the_devices_are_free() -> None:
    world = World(make_spec(stages={"trainChallenger": {"maxRetries": 1}}))
    for _ in range(2):
        world.turn()
        failing(world)
        world.turn()
        assert phase(world) is Phase.RUNNING
        world.attempts.clear()
        later(world, 60)
    world.turn()
    assert phase(world) is Phase.FAILED
    assert "failed 2 times, more than maxRetries" in condition(world.status, "Failed")[1]


def test_a_solver_that_no_retry_can_mend_fails_the_run_and_a_retry_tries_again() -> None:
    world = World(make_spec())
    world.turn()
    failing(world, 65)
    decision = world.turn()
    assert decision.actions == (StopAttempt(CHALLENGER, 1),)
    assert phase(world) is Phase.RUNNING
    world.attempts.clear()
    world.turn()
    assert phase(world) is Phase.FAILED
    assert condition(world.status, "Failed")[1].endswith("container solver does not come up: oh")
    world.retry = "mended"
    world.turn()
    assert (world.entry.attempts, world.entry.failures) == (2, 0)


def test_a_retry_while_the_failed_attempt_still_ends_is_heard() -> None:
    world = World(make_spec())
    world.turn()
    failing(world, 65)
    world.turn()
    world.retry = "mended"
    assert world.turn().actions == ()
    world.attempts.clear()
    world.turn()
    assert (phase(world), world.entry.attempts) == (Phase.RUNNING, 2)


def test_a_suspension_meanwhile_holds_and_costs_no_more() -> None:
    world = World(make_spec())
    world.turn()
    failing(world)
    world.spec = make_spec(suspend=True)
    assert world.turn().actions == (StopAttempt(CHALLENGER, 1),)
    assert phase(world) is Phase.SUSPENDING
    world.attempts.clear()
    world.turn()
    assert (phase(world), world.entry.failures) == (Phase.SUSPENDED, 1)


def test_a_failed_evaluation_is_passed_over_when_its_devices_are_free() -> None:
    world = World(make_spec(evaluation=DATASETS, stages={"evaluate": {"maxRetries": 0}}))
    world.turn()
    failing(world)
    assert world.turn().actions == (StopAttempt(Step(0, Stage.EVALUATE), 1),)
    assert len(world.started) == 1
    world.attempts.clear()
    world.turn()
    assert world.started[-1].step == CHALLENGER


def test_attempts_that_get_stuck_by_turns_are_no_progress() -> None:
    """So that the alert on a run that stands still is not put off by each of them."""

    def progress() -> float:
        (found,) = [
            sample.value for sample in samples(world.spec, world.status) if sample.gauge == PROGRESS
        ]
        return found

    world = World(make_spec())
    world.turn()
    begun = progress()
    for reason in ("SidecarFailed", "") * 3:
        later(world, 3600)
        world.end(reason=reason)
        world.turn()
    failing(world)
    world.turn()
    assert condition(world.status, "Stalled")[0] == "False"
    assert progress() == begun == datetime(2026, 1, 1, tzinfo=UTC).timestamp()
