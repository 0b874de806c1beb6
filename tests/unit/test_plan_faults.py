"""What the plan makes of clocks that disagree, refused starts, and a status edited by hand."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from plan_world import RUN, World, later, make_spec

from rzero_core.run import Stage
from rzero_core.status import Phase, StageState
from rzero_core.task import LabelAudit
from rzero_operator.attempts import FIRST_BACK_OFF
from rzero_operator.conditions import condition_of, rfc3339
from rzero_operator.decision import Attempt, AttemptState
from rzero_operator.plan import decide
from rzero_operator.tasks import Step

TRAINING = Step(1, Stage.TRAIN_CHALLENGER)


def failed_world() -> World:
    """Between the first failure of the first stage and its second attempt."""
    world = World(make_spec())
    world.turn()
    world.fail()
    world.turn()
    assert world.entry.state is StageState.WAITING
    return world


@pytest.mark.parametrize("hours", [1, 24, 24 * 365])
def test_a_pause_noted_by_a_clock_that_is_ahead_lasts_no_longer_than_a_pause(hours: int) -> None:
    world = failed_world()
    later(world, -3600.0 * hours)
    decision = world.turn()
    assert decision.requeue_after is not None
    assert 0 < decision.requeue_after <= FIRST_BACK_OFF
    later(world, FIRST_BACK_OFF + 1)
    world.turn()
    assert [start.task.attempt for start in world.started] == [1, 2]


def test_a_pause_noted_by_a_clock_that_is_behind_is_over() -> None:
    world = failed_world()
    later(world, 3600.0)
    world.turn()
    assert [start.task.attempt for start in world.started] == [1, 2]


def test_a_clock_that_jumps_back_and_forth_does_not_stop_a_run() -> None:
    world = World(make_spec())
    for turn in range(1000):
        later(world, 3600.0 * (-1) ** turn + 4.0)
        world.turn()
        if world.status.phase is Phase.SUCCEEDED:
            break
        if world.live:
            if turn % 7 == 0 and world.entry.failures < 3:
                world.fail()
            else:
                world.succeed()
    assert world.status.phase is Phase.SUCCEEDED


def test_a_start_that_the_server_refuses_costs_nothing_and_is_tried_under_the_same_name() -> None:
    world = World(make_spec())
    reserved = world.decide()
    refusal = Attempt(
        TRAINING, 1, AttemptState.RUNNING, execution="", reason="QuotaExceeded", message="few"
    )
    world.write(reserved)
    told = decide(RUN, world.spec, world.status, [refusal], world.now)
    assert (told.actions, told.status.phase) == ((), Phase.RUNNING)
    stalled = condition_of(told.status, "Stalled")
    assert stalled is not None and (stalled.status, stalled.reason) == ("True", "QuotaExceeded")
    assert [event.reason for event in told.events] == ["QuotaExceeded"]
    world.write(told)
    later(world, 10)
    again = world.decide()
    assert [action.task.attempt for action in again.actions] == [1]
    same = decide(RUN, world.spec, world.status, [refusal], world.now)
    assert (same.status, same.events, same.actions) == (world.status, (), ())
    world.turn()
    world.succeed()
    world.walk()
    entry = world.status.find(*TRAINING)
    assert entry is not None
    assert (entry.attempts, entry.failures, entry.preemptions) == (1, 0, 0)


def test_a_result_that_names_an_artifact_of_somebody_else_proves_nothing() -> None:
    world = World(make_spec())
    world.turn()
    world.succeed()
    (attempt,) = world.observed
    (result,) = attempt.results
    false = result.model_copy(update={"outputs": {"checkpoint": "s3://elsewhere/model"}})
    world.attempts[TRAINING, 1] = replace(attempt, results=(false,))
    world.turn()
    entry = world.status.find(*TRAINING)
    assert entry is not None and entry.state is StageState.WAITING
    assert (entry.attempts, entry.failures, entry.preemptions) == (1, 1, 0)


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        (Stage.GENERATE_QUESTIONS, {"metrics": {"rows": 1e308}}),
        (Stage.GENERATE_QUESTIONS, {"outputs": "shard-0000x"}),
        (
            Stage.BUILD_CURRICULUM,
            {"label_audit": LabelAudit(estimate=1.5, sample_size=9, method="m")},
        ),
    ],
)
def test_results_that_would_be_taken_for_forged_use_up_the_budget_and_no_more(
    stage: Stage, changes: dict[str, Any]
) -> None:
    world, step = World(make_spec(stages={stage: {"maxRetries": 2}})), Step(1, stage)
    world.walk(until=step)
    for _ in range(10):
        if not world.live:
            break
        world.succeed()
        attempt = world.attempts[step, world.entry.attempts]
        results = [result.model_copy(update=changes) for result in attempt.results]
        if "outputs" in changes:
            wrong = f"{world.started[-1].task.prefix}/{changes['outputs']}"
            results[0] = results[0].model_copy(update={"outputs": {"questions": wrong}})
            results[1:] = attempt.results[1:]
        world.attempts[step, attempt.number] = replace(attempt, results=tuple(results))
        world.turn()
        later(world, 20)
        world.turn()
    assert world.status.phase is Phase.FAILED
    assert (world.entry.attempts, world.entry.failures) == (3, 3)


@pytest.mark.parametrize("time", ["tomorrow", "", "2026-01-01", "2026-01-01T00:00:00"])
def test_a_pause_until_a_time_that_cannot_be_read_is_over(time: str) -> None:
    world = failed_world()
    group = world.status.iterations[0]
    entry = group.stages[0].model_copy(update={"not_before": time})
    edit = group.model_copy(update={"stages": [entry]})
    world.status = world.status.model_copy(update={"iterations": [edit]})
    world.turn()
    assert [start.task.attempt for start in world.started] == [1, 2]


def test_a_pause_is_kept_to_the_second() -> None:
    world = failed_world()
    assert world.entry.not_before == rfc3339(world.now + timedelta(seconds=FIRST_BACK_OFF))
    later(world, FIRST_BACK_OFF - 1)
    assert world.decide().requeue_after == 1.0
