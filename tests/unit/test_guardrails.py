"""The guardrail in the plan, by exact sequences: what happens before a Solver is trained."""

from collections.abc import Mapping
from typing import Any

import pytest
from plan_world import DATASETS, World, make_spec

from rzero_core.intervals import wilson
from rzero_core.run import Stage
from rzero_core.status import Condition, GuardrailAction, Phase, RunStatus
from rzero_core.task import LabelAudit
from rzero_operator.guardrails import CONDITION
from rzero_operator.tasks import Step

Accuracies = Mapping[int, "float | LabelAudit"]


def audit(share: float, n: int = 400, method: str = "Oracle") -> LabelAudit:
    """As an auditor reports it of n labels."""
    right = round(share * n)
    found = wilson(right, n)
    return LabelAudit(
        estimate=found.estimate,
        lower=found.lower,
        upper=found.upper,
        sample_size=n,
        right=right,
        method=method,
    )


def declare(on_violation: str, *, evaluated: bool = False, **limits: Any) -> World:
    datasets = {"evaluation": DATASETS} if evaluated else {}
    accuracy = {"auditor": {"type": "Programmatic"}, "onViolation": on_violation, **limits}
    return World(make_spec(iterations=3, labelAccuracy=accuracy, **datasets))


def change(world: World, **limits: Any) -> None:
    """What a user edits while the run waits."""
    spec = world.spec.to_dict()
    world.spec = make_spec(**{**spec, "labelAccuracy": {**spec["labelAccuracy"], **limits}})


def play(world: World, accuracies: Accuracies, scores: Mapping[int, float] | None = None) -> None:
    """Let every attempt succeed until the run ends or waits, with these findings by iteration."""
    for _ in range(100):
        world.turn()
        if not world.live:
            return
        step, found = world.live[0].step, None
        metrics: dict[str, float] = {}
        if step.stage is Stage.BUILD_CURRICULUM:
            share = accuracies.get(step.iteration)
            found = audit(share) if isinstance(share, float) else share
        if step.stage is Stage.EVALUATE and scores:
            mean = scores[step.iteration]
            metrics = {"h.mean": mean, "h.meanLower": mean - 0.02, "h.meanUpper": mean + 0.02}
        world.succeed(found, **metrics)
    raise AssertionError("the run does not end")


def healthy(status: RunStatus) -> Condition:
    return next(condition for condition in status.conditions if condition.type == CONDITION)


def trained(world: World) -> list[int]:
    return [s.step.iteration for s in world.started if s.step.stage is Stage.TRAIN_SOLVER]


def reasons(world: World) -> list[str]:
    """The events that are not about attempts and stages."""
    routine = ("AttemptStarted", "StageDone")
    return [event.reason for event in world.events if event.reason not in routine]


def test_right_labels_make_the_condition_true_and_change_nothing() -> None:
    world = declare("Stop")
    play(world, {1: 0.9, 2: 0.9, 3: 0.9})
    found = healthy(world.status)
    assert (found.status, found.reason) == ("True", "LabelAccuracyHealthy")
    assert found.message == "iteration 3: accuracy is 0.900 [0.867, 0.926]"
    assert trained(world) == [1, 2, 3]
    assert reasons(world) == ["LabelAccuracyHealthy", "Succeeded"]


def test_what_the_auditor_found_is_in_the_status_with_its_interval() -> None:
    world = declare("Warn")
    play(world, {1: 0.9, 2: 0.8, 3: 0.85})
    found = world.status.iterations[1].label_accuracy
    assert found is not None
    assert (found.estimate, found.sample_size, found.method) == ("0.8", 400, "Oracle")
    assert float(found.lower or 0) == pytest.approx(0.758, abs=1e-3)
    assert float(found.upper or 0) == pytest.approx(0.836, abs=1e-3)
    assert world.status.latest_label_accuracy == "0.850"


def test_warn_tells_once_and_trains_on() -> None:
    world = declare("Warn")
    play(world, {1: 0.9, 2: 0.45, 3: 0.4})
    found = healthy(world.status)
    assert (found.status, found.reason) == ("False", "LabelAccuracyBelowFloor")
    assert "below the floor of 0.60" in found.message
    assert trained(world) == [1, 2, 3]
    assert reasons(world) == ["LabelAccuracyHealthy", "LabelAccuracyBelowFloor", "Succeeded"]
    event = next(e for e in world.events if e.reason == "LabelAccuracyBelowFloor")
    assert event.warning and event.message.startswith("iteration 2: accuracy is 0.450")
    records = [group.guardrail for group in world.status.iterations]
    assert [record and record.action for record in records] == [None, "Warned", "Warned"]


def test_a_condition_that_holds_keeps_its_time() -> None:
    world = declare("Warn")
    play(world, {1: 0.9, 2: 0.9})
    assert healthy(world.status).last_transition_time == "2026-01-01T00:00:00Z"


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


def test_the_best_solver_is_chosen_by_its_score_and_not_by_its_labels() -> None:
    world = declare("Stop", evaluated=True)
    play(world, {1: 0.7, 2: 0.9, 3: 0.4}, {0: 0.5, 1: 0.8, 2: 0.6})
    assert trained(world) == [1, 2]
    assert (world.status.best_iteration, world.status.latest_score) == (1, "0.600")


def test_the_base_model_is_the_best_when_training_only_hurt() -> None:
    world = declare("Stop", evaluated=True)
    play(world, {1: 0.9, 2: 0.4}, {0: 0.7, 1: 0.6})
    assert (world.status.best_iteration, world.status.best_checkpoint) == (0, "base")


def test_a_run_that_ends_by_itself_names_its_best_solver_too() -> None:
    world = declare("Warn", evaluated=True)
    play(world, {1: 0.9, 2: 0.9, 3: 0.9}, {0: 0.5, 1: 0.6, 2: 0.9, 3: 0.8})
    assert world.status.best_iteration == 2
    assert world.status.best_checkpoint == "s3://bucket/base/test-01234567/i0002/trainSolver"


def test_without_an_evaluation_the_last_solver_is_named() -> None:
    world = declare("Warn")
    play(world, {})
    assert world.status.best_iteration == 3


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


def test_a_stopped_run_goes_on_when_a_user_resumes_it_with_other_limits() -> None:
    world = declare("Stop")
    play(world, {1: 0.5})
    world.resume = "again"
    world.turn()
    assert (world.status.phase, trained(world)) == (Phase.SUCCEEDED, [])
    change(world, onViolation="Warn")
    world.resume = "and again"
    play(world, {2: 0.9, 3: 0.9})
    assert trained(world) == [1, 2, 3]


def test_a_drop_beyond_the_limit_acts() -> None:
    world = declare("Stop")
    play(world, {1: 0.9, 2: 0.75})
    assert trained(world) == [1]
    found = healthy(world.status)
    assert (found.status, found.reason) == ("False", "LabelAccuracyDropped")
    assert "since iteration 1" in found.message


def test_a_smaller_drop_is_told_and_nothing_more() -> None:
    world = declare("Stop")
    play(world, {1: 0.9, 2: 0.82, 3: 0.82})
    assert trained(world) == [1, 2, 3]
    assert "LabelAccuracyDropped" in reasons(world)


def test_a_drop_is_borne_while_held_out_scores_certainly_rise() -> None:
    world = declare("Stop", evaluated=True)
    play(world, {1: 0.9, 2: 0.75, 3: 0.7}, {0: 0.5, 1: 0.6, 2: 0.61})
    # 50 to 60 % is certain, 60 to 61 % may be chance.
    assert trained(world) == [1, 2]
    assert world.status.phase is Phase.SUCCEEDED
    borne = world.status.iterations[2].guardrail
    assert borne is not None and not borne.acts
    assert "the held-out score of the last Solver still rose by 0.100" in borne.message


def test_the_floor_acts_whatever_the_scores_say() -> None:
    world = declare("Stop", evaluated=True)
    play(world, {1: 0.9, 2: 0.4}, {0: 0.5, 1: 0.9})
    assert trained(world) == [1]


def test_the_papers_own_decline_is_told_and_stops_where_scores_do_not_rise() -> None:
    shares: Accuracies = {1: audit(0.79, 200), 2: audit(0.69, 200), 3: audit(0.63, 200)}
    world = declare("Stop")
    play(world, shares)
    assert trained(world) == [1, 2]
    assert reasons(world)[:2] == ["LabelAccuracyHealthy", "LabelAccuracyDropped"]
    rising = declare("Stop", evaluated=True)
    play(rising, shares, {0: 0.40, 1: 0.46, 2: 0.52, 3: 0.55})
    assert trained(rising) == [1, 2, 3]


def test_estimates_by_another_method_are_not_compared() -> None:
    world = declare("Stop")
    play(world, {1: 0.95, 2: audit(0.7, method="Oracle of another prompt"), 3: 0.9})
    assert trained(world) == [1, 2, 3]


def test_an_upper_bound_never_acts() -> None:
    bound = audit(0.3).model_copy(update={"is_upper_bound": True, "method": "raters"})
    world = declare("Stop")
    play(world, {1: bound, 2: bound, 3: bound})
    assert trained(world) == [1, 2, 3]
    found = healthy(world.status)
    assert (found.status, found.reason) == ("Unknown", "LabelAccuracyUnknown")
    assert world.status.latest_label_accuracy == "<=0.300"


def test_what_nobody_could_judge_is_unknown_and_does_not_act() -> None:
    nothing = LabelAudit(sample_size=0, abstained=300, method="Oracle big x3")
    world = declare("Stop")
    play(world, {1: 0.9, 2: nothing, 3: 0.9})
    assert trained(world) == [1, 2, 3]
    assert "LabelAccuracyUnknown" in reasons(world)
    record = world.status.iterations[1].guardrail
    assert record is not None
    assert record.message == (
        "iteration 2: accuracy is unknown: Oracle big x3 judged 0 of 300 labels"
    )


def test_too_small_a_sample_is_inconclusive_and_does_not_act() -> None:
    world = declare("Stop")
    play(world, {1: audit(0.58, 60), 2: 0.9, 3: 0.9})
    assert trained(world) == [1, 2, 3]
    assert reasons(world)[0] == "LabelAccuracyInconclusive"
    record = world.status.iterations[0].guardrail
    assert record is not None and "too wide to tell" in record.message


def test_a_sample_that_was_enlarged_three_times_is_judged_more_strictly() -> None:
    """Each look could have raised a false alarm, so each gets a third of the chance for one."""
    world = declare("Stop")
    just_below = audit(0.555, 400)
    world.walk(until=Step(1, Stage.BUILD_CURRICULUM))
    world.succeed(just_below, auditLooks=3)
    world.turn()
    assert healthy(world.status).reason == "LabelAccuracyHealthy"
    once = declare("Stop")
    play(once, {1: just_below})
    assert healthy(once.status).reason == "LabelAccuracyBelowFloor"


def test_a_curriculum_that_was_not_audited_says_nothing() -> None:
    world = declare("Stop")
    play(world, {})
    assert trained(world) == [1, 2, 3]
    assert [c for c in world.status.conditions if c.type == CONDITION] == []


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
