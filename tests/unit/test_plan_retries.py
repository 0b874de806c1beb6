"""What the plan makes of attempts that fail or cannot go on: retries, budgets, failed runs."""

import pytest
from guarded_world import declare, play, trained
from plan_world import CHALLENGER, DATASETS, World, condition, later, make_spec, phase

from rzero_core.run import Stage
from rzero_core.status import Phase, StageState
from rzero_operator.decision import AttemptState, StartAttempt
from rzero_operator.guardrails import is_stopped
from rzero_operator.plan import reopen
from rzero_operator.tasks import Step


def test_a_failed_stage_is_retried_after_a_growing_pause_until_attempts_run_out() -> None:
    world = World(make_spec(stages={"trainChallenger": {"maxRetries": 2}}))
    world.turn()
    pauses = []
    for _ in range(2):
        world.fail()
        decision = world.turn()
        pauses.append(decision.requeue_after)
        assert world.entry.state is StageState.WAITING
        later(world, (decision.requeue_after or 0) - 1)
        assert not world.turn().actions
        later(world, 1)
        assert [type(action) for action in world.turn().actions] == [StartAttempt]
    world.fail(message="out of luck (log: here)")
    world.turn()
    assert pauses == [10, 20]
    assert phase(world) is Phase.FAILED
    assert (world.entry.attempts, world.entry.failures) == (3, 3)
    state, message = condition(world.status, "Failed")
    assert state == "True"
    assert "iteration 1, trainChallenger: out of luck (log: here)" in message
    assert "maxRetries" in message


@pytest.mark.parametrize("code", [64, 65, 78])
def test_what_no_retry_can_mend_fails_the_run_at_once(code: int) -> None:
    world = World(make_spec())
    world.turn()
    world.fail(code, message="spec.model: base: no such model")
    world.turn()
    assert phase(world) is Phase.FAILED
    assert len(world.started) == 1
    assert "no such model" in condition(world.status, "Failed")[1]


def test_preemptions_have_a_budget_of_their_own() -> None:
    world = World(make_spec(stages={"trainChallenger": {"maxPreemptions": 2, "maxRetries": 0}}))
    world.turn()
    for _ in range(2):
        world.fail(137, preempted=True)
        world.turn()
        assert world.live
    world.fail(137, preempted=True)
    world.turn()
    assert phase(world) is Phase.FAILED
    assert "maxPreemptions" in condition(world.status, "Failed")[1]


def test_a_passed_deadline_is_a_failure() -> None:
    world = World(make_spec())
    world.turn()
    world.fail(0, reason="DeadlineExceeded", message="ran too long")
    decision = world.turn()
    assert decision.events[0].reason == "DeadlineExceeded"
    assert world.entry.failures == 1


def test_a_stop_that_nobody_asked_for_is_a_failure() -> None:
    world = World(make_spec())
    world.turn()
    world.fail(75, message="storage does not answer")
    world.turn()
    assert (world.entry.failures, world.entry.state) == (1, StageState.WAITING)


def test_an_attempt_that_cannot_go_on_stalls_the_run_until_it_can() -> None:
    world = World(make_spec())
    world.turn()
    world.end(reason="ImagePullBackOff", message="no such image")
    world.turn()
    assert phase(world) is Phase.RUNNING
    assert condition(world.status, "Stalled") == (
        "True",
        "iteration 1, trainChallenger: attempt 1: ImagePullBackOff: no such image",
    )
    assert [event.reason for event in world.events if event.warning] == ["ImagePullBackOff"]
    world.end(reason="", message="")
    world.turn()
    assert condition(world.status, "Stalled")[0] == "False"


def test_an_attempt_in_a_queue_is_no_stall() -> None:
    world = World(make_spec())
    world.turn()
    world.end(reason="Queued", message="waits in queue research")
    world.turn()
    assert condition(world.status, "Stalled")[0] == "False"
    assert "waits in queue research" in condition(world.status, "Reconciling")[1]


def test_a_retry_replaces_an_attempt_that_cannot_go_on() -> None:
    world = World(make_spec())
    world.turn()
    world.end(reason="ImagePullBackOff", message="no such image")
    world.turn()
    world.retry = "now"
    world.turn()
    assert [attempt.state for attempt in world.live] == [AttemptState.STOPPING]
    world.attempts.clear()
    world.turn()
    assert world.started[-1].task.attempt == 2


def test_a_retry_reopens_a_failed_run_once() -> None:
    world = World(make_spec())
    world.turn()
    world.fail(78)
    world.turn()
    assert phase(world) is Phase.FAILED
    world.retry = "1"
    world.turn()
    assert (phase(world), world.started[-1].task.attempt) == (Phase.RUNNING, 2)
    world.fail(78)
    world.turn()
    assert phase(world) is Phase.FAILED


def test_a_failed_run_stays_failed_until_it_is_reopened() -> None:
    world = World(make_spec())
    world.turn()
    world.fail(78, message="spec.model: not there")
    world.turn()
    world.spec = make_spec(iterations=5)
    assert world.turn().actions == ()
    assert phase(world) is Phase.FAILED
    assert "not there" in condition(world.status, "Failed")[1]
    world.status = reopen(world.spec, world.status)
    world.turn()
    assert (world.entry.attempts, world.entry.failures) == (2, 0)
    world.succeed()
    world.walk()
    assert phase(world) is Phase.SUCCEEDED


@pytest.mark.parametrize("code", [1, 65])
def test_a_failed_evaluation_is_recorded_and_passed_over(code: int) -> None:
    world = World(make_spec(evaluation=DATASETS, stages={"evaluate": {"maxRetries": 0}}))
    world.turn()
    world.fail(code, message="heldout.jsonl:3: no answer")
    world.turn()
    base = world.status.find(0, Stage.EVALUATE)
    assert base is not None and base.state is StageState.FAILED
    assert "heldout.jsonl:3" in (base.message or "")
    assert world.started[-1].step == CHALLENGER
    world.succeed()
    world.walk()
    assert phase(world) is Phase.SUCCEEDED


def evaluated_in_vain() -> World:
    """A run of two iterations that succeeded, though the evaluation of the first Solver failed."""
    world = World(make_spec(iterations=2, evaluation=DATASETS))
    world.walk(until=Step(1, Stage.EVALUATE))
    world.fail(65, message="heldout.jsonl:3: no answer")
    world.walk(until=Step(2, Stage.EVALUATE))
    world.succeed(**{"heldout.mean": 0.5})
    world.turn()
    assert phase(world) is Phase.SUCCEEDED
    return world


def test_a_retry_of_a_run_that_succeeded_evaluates_again_and_chooses_the_best_anew() -> None:
    world = evaluated_in_vain()
    assert world.status.best_iteration == 2
    before = len(world.started)
    world.retry = "mended"
    world.turn()
    assert (phase(world), world.started[-1].step) == (Phase.RUNNING, Step(1, Stage.EVALUATE))
    assert (world.entry.attempts, world.entry.failures) == (2, 0)
    world.succeed(**{"heldout.mean": 0.9})
    world.turn()
    assert phase(world) is Phase.SUCCEEDED
    assert world.status.best_iteration == 1
    assert len(world.started) == before + 1
    assert world.turn().actions == ()


def test_a_retry_with_nothing_to_evaluate_leaves_a_run_as_it_is() -> None:
    world = evaluated_in_vain()
    world.spec = make_spec(iterations=2)
    world.retry = "mended"
    assert world.turn().actions == ()
    assert phase(world) is Phase.SUCCEEDED


def test_a_retry_of_a_run_that_goes_on_leaves_its_failed_evaluation_for_the_end() -> None:
    world = World(make_spec(iterations=2, evaluation=DATASETS))
    world.walk(until=Step(1, Stage.EVALUATE))
    world.fail(65)
    world.turn()
    assert world.started[-1].step == Step(2, Stage.TRAIN_CHALLENGER)
    world.retry = "now"
    assert world.turn().actions == ()
    entry = world.status.find(1, Stage.EVALUATE)
    assert entry is not None and entry.state is StageState.FAILED


def test_a_retry_of_a_run_that_the_guardrail_stopped_evaluates_and_trains_nothing() -> None:
    world = declare("Stop", evaluated=True)
    world.walk(until=Step(1, Stage.EVALUATE))
    world.fail(65)
    play(world, {2: 0.3})
    assert (phase(world), trained(world)) == (Phase.SUCCEEDED, [1])
    world.retry = "mended"
    play(world, {})
    assert (phase(world), trained(world)) == (Phase.SUCCEEDED, [1])
    assert is_stopped(world.status)
    again = world.status.find(1, Stage.EVALUATE)
    assert again is not None and again.state is StageState.DONE


def test_a_retry_of_a_failed_run_goes_on_where_it_failed_and_its_evaluation_comes_later() -> None:
    world = World(make_spec(evaluation=DATASETS))
    world.turn()
    world.fail(65)
    world.turn()
    world.fail(65)
    world.turn()
    assert phase(world) is Phase.FAILED
    world.retry = "mended"
    world.turn()
    assert world.started[-1].step == Step(1, Stage.TRAIN_CHALLENGER)
    world.succeed()
    world.walk()
    assert phase(world) is Phase.SUCCEEDED
    world.retry = "again"
    world.turn()
    assert world.started[-1].step == Step(0, Stage.EVALUATE)
    world.succeed()
    world.walk()
    assert phase(world) is Phase.SUCCEEDED
