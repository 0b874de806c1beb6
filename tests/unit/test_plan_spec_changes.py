"""What the plan makes of a spec that changes: suspended, resumed, more iterations."""

from dataclasses import replace

from plan_world import CHALLENGER, DATASETS, RUN, World, condition, make_spec, phase

from rzero_core.run import Stage
from rzero_core.status import Phase, StageState
from rzero_core.task import LabelQuestionsTask
from rzero_operator.decision import StopAttempt
from rzero_operator.plan import decide
from rzero_operator.tasks import Step


def test_suspending_stops_the_attempt_and_resuming_starts_the_next_without_cost() -> None:
    world = World(make_spec())
    world.turn()
    world.spec = make_spec(suspend=True)
    assert world.turn().actions == (StopAttempt(CHALLENGER, 1),)
    assert phase(world) is Phase.SUSPENDING
    world.fail(75)
    assert world.turn().actions == ()
    assert phase(world) is Phase.SUSPENDED
    assert condition(world.status, "Suspended")[0] == "True"
    world.spec = make_spec()
    world.turn()
    assert phase(world) is Phase.RUNNING
    assert (world.entry.attempts, world.entry.failures, world.entry.preemptions) == (2, 0, 0)


def test_a_run_resumed_while_it_stops_waits_for_the_stop_and_goes_on() -> None:
    world = World(make_spec())
    world.turn()
    world.spec = make_spec(suspend=True)
    world.turn()
    world.spec = make_spec()
    assert world.turn().actions == ()
    assert phase(world) is Phase.SUSPENDING
    world.fail(75)
    world.turn()
    assert phase(world) is Phase.RUNNING
    assert (world.entry.attempts, world.entry.failures) == (2, 0)


def test_an_attempt_that_finishes_while_it_is_stopped_counts() -> None:
    world = World(make_spec())
    world.turn()
    world.spec = make_spec(suspend=True)
    world.turn()
    world.succeed()
    world.turn()
    assert phase(world) is Phase.SUSPENDED
    done = world.status.find(*CHALLENGER)
    assert done is not None and done.state is StageState.DONE
    assert len(world.started) == 1


def test_a_run_declared_suspended_starts_nothing() -> None:
    world = World(make_spec(suspend=True))
    assert world.turn().actions == ()
    assert phase(world) is Phase.SUSPENDED


def test_a_reservation_waits_through_a_suspension() -> None:
    world = World(make_spec())
    world.write(world.decide())
    world.spec = make_spec(suspend=True)
    world.turn()
    assert (phase(world), world.started) == (Phase.SUSPENDED, [])
    world.spec = make_spec()
    world.turn()
    assert [start.task.attempt for start in world.started] == [1]


def test_a_run_goes_on_when_its_iterations_grow() -> None:
    world = World(make_spec(iterations=1))
    world.walk()
    world.spec = make_spec(iterations=2)
    world.walk()
    assert phase(world) is Phase.SUCCEEDED
    assert [start.step.iteration for start in world.started] == [1] * 5 + [2] * 5
    assert condition(world.status, "Succeeded") == ("True", "all 2 iterations are done")


def test_a_run_that_succeeded_is_left_alone_when_anything_else_changes() -> None:
    world = World(make_spec())
    world.walk()
    world.spec = make_spec(evaluation=DATASETS, suspend=True)
    assert world.turn().actions == ()
    assert phase(world) is Phase.SUCCEEDED


def test_a_changed_spec_applies_to_the_next_attempt_only() -> None:
    world = World(make_spec())
    world.walk(until=Step(1, Stage.LABEL_QUESTIONS))
    world.spec = make_spec(questions={"shards": 4})
    assert world.turn().actions == ()
    world.attempts.clear()
    world.turn()
    task = world.started[-1].task
    assert isinstance(task, LabelQuestionsTask) and len(task.pool) == 2


def test_the_status_answers_the_generation_it_was_decided_for() -> None:
    world = World(make_spec())
    decision = decide(replace(RUN, generation=7), world.spec, world.status, [], world.now)
    assert decision.status.observed_generation == 7
    assert {c.observed_generation for c in decision.status.conditions} == {7}
