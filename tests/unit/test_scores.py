"""Which Solver is the best, and whether the last one still learned."""

import pytest
from guarded_world import declare, play, trained
from plan_world import make_spec

from rzero_core.run import Stage
from rzero_core.status import IterationStatus, RunStatus, StageState, StageStatus
from rzero_core.task import EvaluateTask
from rzero_operator.scores import best, gain
from rzero_operator.tasks import Step


def evaluated(*scores: dict[str, str]) -> RunStatus:
    """Iterations 0.. whose evaluations reported this."""
    done = StageState.DONE
    trained = StageStatus(stage=Stage.TRAIN_SOLVER, state=done, outputs={"checkpoint": "solver"})
    groups = []
    for number, metrics in enumerate(scores):
        entry = StageStatus(stage=Stage.EVALUATE, state=done, metrics=metrics)
        stages = [trained, entry] if number else [entry]
        groups.append(IterationStatus(iteration=number, stages=stages))
    return RunStatus(iterations=groups)


def gained(name: str, low: str, middle: str, high: str) -> dict[str, str]:
    figures = {"gain": middle, "gainLower": low, "gainUpper": high, "mean": "0.5"}
    return {f"{name}.{key}": value for key, value in figures.items()}


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


def test_scores_under_other_settings_are_not_compared() -> None:
    old, new = {"settings": "1"}, {"settings": "2"}
    longer = evaluated(
        {"h.mean": "0.5"} | old,
        {"h.mean": "0.7"} | old,
        {"h.mean": "0.4"} | new,
        {"h.mean": "0.3"} | new,
    )
    assert best(make_spec(iterations=3), longer).iteration == 2
    back = evaluated({"h.mean": "0.5"} | old, {"h.mean": "0.9"} | new, {"h.mean": "0.4"} | old)
    assert best(make_spec(iterations=2), back).iteration == 0


def test_solvers_without_a_common_dataset_are_not_compared() -> None:
    status = evaluated({"a.mean": "0.9"}, {"a.mean": "0.9", "b.mean": "0.6"}, {"b.mean": "0.5"})
    assert best(make_spec(iterations=2), status).iteration == 1


def test_a_higher_score_is_the_best_also_where_the_difference_may_be_chance() -> None:
    status = evaluated({"h.mean": "0.5"}, {"h.mean": "0.501"}, {"h.mean": "0.501"})
    assert best(make_spec(iterations=2), status).iteration == 1


def test_a_gain_is_the_mean_over_datasets_of_what_was_compared_question_by_question() -> None:
    scores = gained("a", "0.06", "0.1", "0.14") | gained("b", "-0.03", "0", "0.03")
    found = gain(evaluated({}, scores), 1)
    assert found is not None
    assert found.estimate == pytest.approx(0.05)
    assert (found.lower, found.upper) == pytest.approx((0.025, 0.075))


def test_a_dataset_that_could_not_be_compared_is_left_out_of_the_gain() -> None:
    scores = gained("a", "0.06", "0.1", "0.14") | {"new.mean": "0.9"}
    found = gain(evaluated({}, scores), 1)
    assert found is not None and found.estimate == pytest.approx(0.1)


def test_scores_that_were_not_compared_say_nothing_about_a_gain() -> None:
    """As of a version that did not compare: its intervals of single scores are too wide."""
    bounds = {"h.mean": "0.9", "h.meanLower": "0.88", "h.meanUpper": "0.92"}
    assert gain(evaluated({**bounds, "h.mean": "0.1"}, bounds), 1) is None
    assert gain(evaluated(bounds), 0) is None
    assert gain(RunStatus(), 0) is None


def test_each_solver_is_compared_with_the_one_before_unless_that_evaluation_failed() -> None:
    world = declare("Warn", evaluated=True)
    for iteration in range(4):
        world.walk(until=Step(iteration, Stage.EVALUATE))
        if iteration == 1:
            world.fail(65)
        else:
            world.succeed()
    tasks = [start.task for start in world.started if start.step.stage is Stage.EVALUATE]
    previous = [task.previous for task in tasks if isinstance(task, EvaluateTask)]
    third = "s3://bucket/base/test-01234567/i0002/evaluate"
    assert previous == [None, "s3://bucket/base/test-01234567/i0000/evaluate", None, third]
