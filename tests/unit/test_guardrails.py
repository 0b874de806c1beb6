"""What the guardrail does before a Solver is trained, by exact sequences."""

from typing import Any

import pytest
from guarded_world import audit, change, declare, healthy, play, reasons, trained
from plan_world import World, make_spec

from rzero_core.run import Stage
from rzero_core.status import GuardrailAction, Phase, RunStatus
from rzero_operator.tasks import Step


def test_warn_tells_of_each_bad_curriculum_once_and_trains_on() -> None:
    world = declare("Warn")
    play(world, {1: 0.9, 2: 0.45, 3: 0.4})
    found = healthy(world.status)
    assert (found.status, found.reason) == ("False", "LabelAccuracyBelowFloor")
    assert "below the floor of 0.60" in found.message
    assert trained(world) == [1, 2, 3]
    below = "LabelAccuracyBelowFloor"
    assert reasons(world) == ["LabelAccuracyHealthy", below, below, "Succeeded"]
    event = next(e for e in world.events if e.reason == "LabelAccuracyBelowFloor")
    assert event.warning and event.message.startswith("iteration 2: accuracy is 0.450")
    records = [group.guardrail for group in world.status.iterations]
    assert [record and record.action for record in records] == [None, "Warned", "Warned"]


def test_stop_ends_the_run_before_the_solver_is_trained_on_bad_labels() -> None:
    world = declare("Stop")
    play(world, {1: 0.9, 2: 0.5})
    assert world.status.phase is Phase.SUCCEEDED
    assert trained(world) == [1]
    succeeded = next(c for c in world.status.conditions if c.type == "Succeeded")
    assert succeeded.reason == "LabelAccuracyBelowFloor"
    assert succeeded.message.startswith(
        "stopped before trainSolver: iteration 2: accuracy is 0.500"
    )
    assert reasons(world)[-3:] == ["LabelAccuracyBelowFloor", "Stopped", "Succeeded"]
    assert world.status.best_iteration == 1
    assert world.status.best_checkpoint == "s3://bucket/base/test-01234567/i0001/trainSolver"


def test_a_run_that_was_stopped_stays_stopped() -> None:
    world = declare("Stop")
    play(world, {1: 0.5})
    before = world.status
    change(world, onViolation="Warn", floor=0.1)
    world.spec = world.spec.model_copy(update={"iterations": 7})
    world.turn()
    assert world.status.phase is Phase.SUCCEEDED
    assert trained(world) == []
    told = {c.type: (c.status, c.reason, c.message) for c in world.status.conditions}
    assert told == {c.type: (c.status, c.reason, c.message) for c in before.conditions}


def test_pause_waits_before_the_solver_is_trained_and_says_why() -> None:
    world = declare("Pause")
    play(world, {1: 0.9, 2: 0.5})
    assert world.status.phase is Phase.SUSPENDED
    assert trained(world) == [1]
    suspended = next(c for c in world.status.conditions if c.type == "Suspended")
    assert (suspended.status, suspended.reason) == ("True", "LabelAccuracyBelowFloor")
    assert suspended.message.startswith("paused before trainSolver: iteration 2: accuracy is 0.500")
    assert reasons(world)[-2:] == ["LabelAccuracyBelowFloor", "Paused"]
    assert world.status.best_iteration == 1


def test_a_pause_ends_when_a_user_resumes_and_the_same_word_is_heard_once() -> None:
    world = declare("Pause")
    play(world, {1: 0.5})
    world.resume = "first"
    play(world, {2: 0.4})
    assert trained(world) == [1]
    assert world.status.phase is Phase.SUSPENDED
    assert world.status.iteration == 2
    assert [e for e in reasons(world) if e in ("Paused", "Resumed")] == [
        "Paused",
        "Resumed",
        "Paused",
    ]
    world.resume = "second"
    play(world, {3: 0.9})
    assert trained(world) == [1, 2, 3]


def test_a_solver_whose_pause_was_ended_is_tried_again_without_another_pause() -> None:
    world = declare("Pause")
    play(world, {1: 0.5})
    world.resume = "go"
    world.turn()
    world.fail(137, preempted=True)
    world.turn()
    assert world.live[0].step == Step(1, Stage.TRAIN_SOLVER)
    assert world.status.phase is Phase.RUNNING


def test_a_resume_before_the_pause_permits_nothing() -> None:
    world = declare("Pause")
    world.resume = "too early"
    play(world, {1: 0.5})
    assert world.status.phase is Phase.SUSPENDED


@pytest.mark.parametrize("limits", [{"floor": 0.4}, {"onViolation": "Warn"}])
def test_a_pause_ends_when_the_limits_no_longer_act(limits: dict[str, Any]) -> None:
    world = declare("Pause")
    play(world, {1: 0.5})
    change(world, **limits)
    world.turn()
    assert world.live[0].step == Step(1, Stage.TRAIN_SOLVER)
    assert "Resumed" in reasons(world)
    group = world.status.iterations[0]
    assert group.guardrail is not None
    assert group.guardrail.action is GuardrailAction.RESUMED


def test_a_raised_floor_is_heard_by_the_condition_too() -> None:
    world = declare("Pause")
    play(world, {1: 0.5})
    change(world, floor=0.4)
    world.turn()
    assert healthy(world.status).status == "True"


def test_a_pause_that_becomes_a_stop_ends_the_run() -> None:
    world = declare("Pause")
    play(world, {1: 0.5})
    change(world, onViolation="Stop")
    world.turn()
    assert world.status.phase is Phase.SUCCEEDED
    assert (world.status.best_iteration, world.status.best_checkpoint) == (0, "base")


def test_a_stopped_run_goes_on_when_a_user_resumes_it_and_stops_at_the_next_violation() -> None:
    world = declare("Stop")
    play(world, {1: 0.5})
    world.resume = "again"
    play(world, {2: 0.4})
    assert trained(world) == [1]
    assert (world.status.phase, world.status.iteration) == (Phase.SUCCEEDED, 2)
    told = [e for e in reasons(world) if e in ("Stopped", "Resumed")]
    assert told == ["Stopped", "Resumed", "Stopped"]
    change(world, onViolation="Warn")
    world.resume = "and again"
    play(world, {3: 0.9})
    assert trained(world) == [1, 2, 3]


def test_the_labels_of_a_top_up_count_and_not_those_it_replaces() -> None:
    world = World(
        make_spec(
            questions={"shards": 1, "topUps": 1},
            labelAccuracy={"auditor": {"type": "Programmatic"}, "onViolation": "Stop"},
        )
    )
    world.walk(until=Step(1, Stage.BUILD_CURRICULUM))
    world.succeed(short=1)
    world.walk(until=Step(1, Stage.BUILD_CURRICULUM, 2))
    world.succeed(audit(0.4), short=0)
    world.turn()
    assert (world.status.phase, trained(world)) == (Phase.SUCCEEDED, [])


def test_a_suspended_run_is_not_stopped_before_it_is_resumed() -> None:
    world = declare("Stop")
    world.walk(until=Step(1, Stage.BUILD_CURRICULUM))
    world.spec = world.spec.model_copy(update={"suspend": True})
    world.succeed(audit(0.4))
    world.turn()
    assert world.status.phase is Phase.SUSPENDED
    world.spec = world.spec.model_copy(update={"suspend": False})
    world.turn()
    assert world.status.phase is Phase.SUCCEEDED


def test_a_phase_written_by_hand_does_not_get_past_the_guardrail() -> None:
    world = declare("Stop")
    play(world, {1: 0.4})
    world.status = world.status.model_copy(update={"phase": Phase.RUNNING})
    world.turn()
    assert (world.status.phase, trained(world)) == (Phase.SUCCEEDED, [])


def test_a_lost_status_leads_to_the_same_end() -> None:
    world = declare("Stop")
    play(world, {1: 0.9, 2: 0.4})
    world.status = RunStatus()
    world.turn()
    assert (world.status.phase, trained(world)) == (Phase.SUCCEEDED, [1])
    assert world.status.best_iteration == 1
