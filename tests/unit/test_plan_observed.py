"""The plan believes what it observes: attempts that vanished, a status lost or edited."""

from plan_world import CHALLENGER, DATASETS, RUN, World, make_spec, phase

from rzero_core.run import Stage
from rzero_core.status import Phase, RunStatus
from rzero_operator.decision import Attempt, AttemptState, StopAttempt
from rzero_operator.plan import decide
from rzero_operator.tasks import Step


def test_a_vanished_attempt_is_replaced_at_once_and_is_no_failure() -> None:
    world = World(make_spec())
    world.turn()
    world.attempts.clear()
    world.turn()
    assert (world.entry.attempts, world.entry.failures, world.entry.preemptions) == (2, 0, 1)
    assert world.started[-1].task.attempt == 2


def test_an_attempt_that_somebody_else_deletes_is_lost_and_no_suspension() -> None:
    world = World(make_spec())
    world.turn()
    world.end(state=AttemptState.STOPPING)
    world.turn()
    assert phase(world) is Phase.RUNNING
    world.attempts.clear()
    world.turn()
    assert (world.entry.attempts, world.entry.preemptions) == (2, 1)


def test_a_reservation_that_was_never_carried_out_is_carried_out_and_costs_nothing() -> None:
    world = World(make_spec())
    world.write(world.decide())  # The caller dies between writing and acting.
    world.turn()
    assert [start.task.attempt for start in world.started] == [1]
    assert (world.entry.attempts, world.entry.failures, world.entry.preemptions) == (1, 0, 0)


def test_a_phase_written_by_hand_ends_nothing() -> None:
    for lie in (Phase.SUCCEEDED, Phase.FAILED):
        world = World(make_spec())
        world.turn()
        world.status = world.status.model_copy(update={"phase": lie})
        world.turn()
        assert phase(world) is Phase.RUNNING
        assert len(world.started) == 1


def test_a_done_stage_stays_done_when_its_attempt_is_deleted() -> None:
    world = World(make_spec())
    world.walk(until=Step(1, Stage.TRAIN_SOLVER))
    world.attempts = {key: a for key, a in world.attempts.items() if a in world.live}
    world.turn()
    world.succeed()
    world.turn()
    assert phase(world) is Phase.SUCCEEDED
    assert len(world.started) == 5


def test_a_lost_status_is_recovered_from_what_is_observed() -> None:
    world = World(make_spec())
    world.walk(until=Step(1, Stage.LABEL_QUESTIONS))
    world.status = RunStatus()
    world.turn()
    assert len(world.started) == 3
    assert [entry.stage for entry in world.status.iterations[0].stages] == [
        Stage.TRAIN_CHALLENGER,
        Stage.GENERATE_QUESTIONS,
        Stage.LABEL_QUESTIONS,
    ]
    world.succeed()
    world.walk()
    assert len(world.started) == 5


def test_of_two_live_attempts_the_older_is_stopped() -> None:
    world = World(make_spec())
    world.turn()
    second = Attempt(CHALLENGER, 2, AttemptState.RUNNING)
    world.attempts[CHALLENGER, 2] = second
    assert world.turn().actions == (StopAttempt(CHALLENGER, 1),)
    assert world.entry.attempts == 2


def test_live_attempts_of_a_failed_run_are_stopped() -> None:
    world = World(make_spec())
    world.walk(until=Step(1, Stage.TRAIN_SOLVER))
    world.fail(65)
    world.turn()
    stray = Attempt(CHALLENGER, 9, AttemptState.RUNNING)
    decision = decide(RUN, world.spec, world.status, [stray], world.now)
    assert decision.actions == (StopAttempt(CHALLENGER, 9),)


def test_the_order_of_observations_does_not_matter() -> None:
    world = World(make_spec(iterations=2))
    world.walk(until=Step(2, Stage.LABEL_QUESTIONS))
    world.fail()
    seen = world.observed
    forward = decide(RUN, world.spec, world.status, seen, world.now)
    assert decide(RUN, world.spec, world.status, seen[::-1], world.now) == forward
    assert decide(RUN, world.spec, world.status, seen * 2, world.now) == forward


def test_the_plan_survives_the_status_going_through_json() -> None:
    world = World(make_spec(iterations=2, evaluation=DATASETS))
    world.walk(until=Step(2, Stage.TRAIN_SOLVER))
    assert RunStatus.model_validate_json(world.status.to_json()) == world.status
