"""The stages a plan walks through, what their tasks read, and what counts as a result."""

import hashlib

import pytest
from plan_world import DATASETS, ROOT, World, condition, make_spec, phase, results_of

from rzero_core.run import Stage
from rzero_core.status import Phase, StageState
from rzero_core.task import (
    BuildCurriculumTask,
    EvaluateTask,
    GenerateQuestionsTask,
    LabelQuestionsTask,
    TrainChallengerTask,
    TrainSolverTask,
)
from rzero_operator.decision import AttemptState
from rzero_operator.tasks import Step, decimal_string


def test_a_run_walks_every_stage_of_every_iteration() -> None:
    world = World(make_spec(iterations=2, evaluation=DATASETS))
    world.walk()
    assert [tuple(start.step) for start in world.started] == [
        (0, "evaluate", 1),
        (1, "trainChallenger", 1),
        (1, "generateQuestions", 1),
        (1, "labelQuestions", 1),
        (1, "buildCurriculum", 1),
        (1, "trainSolver", 1),
        (1, "evaluate", 1),
        (2, "trainChallenger", 1),
        (2, "generateQuestions", 1),
        (2, "labelQuestions", 1),
        (2, "buildCurriculum", 1),
        (2, "trainSolver", 1),
        (2, "evaluate", 1),
    ]
    assert phase(world) is Phase.SUCCEEDED
    assert world.status.stage is None
    assert condition(world.status, "Ready") == ("True", "all 2 iterations are done")
    assert condition(world.status, "Reconciling") == ("False", "")


def test_without_datasets_nothing_is_evaluated() -> None:
    world = World(make_spec())
    world.walk()
    assert [start.step.stage for start in world.started] == [
        stage for stage in Stage if stage is not Stage.EVALUATE
    ]


def test_each_task_reads_what_the_stages_before_it_wrote() -> None:
    world = World(make_spec(iterations=2, evaluation=DATASETS))
    world.walk()
    tasks = {(s.step.iteration, s.step.stage): s.task for s in world.started}
    base = tasks[0, Stage.EVALUATE]
    assert isinstance(base, EvaluateTask) and base.solver == "base"
    first = tasks[1, Stage.TRAIN_CHALLENGER]
    assert isinstance(first, TrainChallengerTask)
    assert (first.challenger, first.solver) == ("base", "base")
    generate = tasks[2, Stage.GENERATE_QUESTIONS]
    assert isinstance(generate, GenerateQuestionsTask)
    assert generate.challenger == f"{ROOT}/i0002/trainChallenger"
    second = tasks[2, Stage.TRAIN_CHALLENGER]
    assert isinstance(second, TrainChallengerTask)
    assert second.challenger == f"{ROOT}/i0001/trainChallenger"
    assert second.solver == f"{ROOT}/i0001/trainSolver"
    label = tasks[2, Stage.LABEL_QUESTIONS]
    assert isinstance(label, LabelQuestionsTask)
    assert label.solver == f"{ROOT}/i0001/trainSolver"
    assert label.pool == [f"{ROOT}/i0002/generateQuestions/shard-000{n}" for n in (0, 1)]
    build = tasks[2, Stage.BUILD_CURRICULUM]
    assert isinstance(build, BuildCurriculumTask)
    assert build.votes == [f"{ROOT}/i0002/labelQuestions/shard-000{n}" for n in (0, 1)]
    assert build.minimum == world.spec.solver.batch_size
    train = tasks[2, Stage.TRAIN_SOLVER]
    assert isinstance(train, TrainSolverTask)
    assert train.solver == f"{ROOT}/i0001/trainSolver"
    assert train.curriculum == f"{ROOT}/i0002/buildCurriculum"
    assert train.base_model == "base"
    assert train.prefix == f"{ROOT}/i0002/trainSolver"
    last = tasks[2, Stage.EVALUATE]
    assert isinstance(last, EvaluateTask) and last.solver == f"{ROOT}/i0002/trainSolver"


def test_results_of_shards_are_added_and_their_digests_digested_in_order() -> None:
    world = World(make_spec())
    world.walk(until=Step(1, Stage.GENERATE_QUESTIONS))
    start = world.started[-1]
    assert start.shards == 2
    world.end(state=AttemptState.SUCCEEDED, results=tuple(reversed(results_of(start, kept=1.5))))
    world.turn()
    entry = world.status.find(1, Stage.GENERATE_QUESTIONS)
    assert entry is not None and entry.state is StageState.DONE
    assert entry.metrics == {"rows": "8", "kept": "3", "shards": "2", "seconds": "2"}
    prefix = f"{ROOT}/i0001/generateQuestions"
    assert entry.outputs == {"questions": prefix}
    joined = f"{prefix}:0\n{prefix}:1".encode()
    assert entry.manifest_digest == hashlib.sha256(joined).hexdigest()


def test_a_missing_shard_is_no_success() -> None:
    world = World(make_spec())
    world.walk(until=Step(1, Stage.GENERATE_QUESTIONS))
    world.end(state=AttemptState.SUCCEEDED, results=results_of(world.started[-1])[:1])
    decision = world.turn()
    assert world.started[-1].task.attempt == 2
    assert decision.events[0].reason == "AttemptLost"


@pytest.mark.parametrize(
    "change",
    [
        {"run_uid": "another"},
        {"iteration": 2},
        {"stage": Stage.TRAIN_SOLVER},
        {"round": 2},
        {"shard": 0},
        {"outputs": {}},
    ],
)
def test_results_of_something_else_prove_nothing(change: dict[str, object]) -> None:
    world = World(make_spec())
    world.turn()
    results = tuple(r.model_copy(update=change) for r in results_of(world.started[-1]))
    world.end(state=AttemptState.SUCCEEDED, results=results)
    decision = world.turn()
    # An image of another version would report the same again at once, and use up the budget.
    assert (world.entry.state, decision.requeue_after) == (StageState.WAITING, 10)
    assert (world.entry.failures, world.entry.preemptions) == (1, 0)
    assert "no result of this attempt" in (world.entry.message or "")


def test_too_small_a_curriculum_is_topped_up_from_a_further_pool() -> None:
    world = World(make_spec(questions={"shards": 2, "topUps": 2}))
    world.walk(until=Step(1, Stage.BUILD_CURRICULUM))
    first = world.started[-1].task
    assert isinstance(first, BuildCurriculumTask) and not first.last_round
    world.succeed(short=40)
    world.walk(until=Step(1, Stage.BUILD_CURRICULUM, 2))
    second = world.started[-1].task
    assert isinstance(second, BuildCurriculumTask) and not second.last_round
    votes = f"{ROOT}/i0001/labelQuestions"
    assert second.votes == [
        f"{votes}/shard-0000",
        f"{votes}/shard-0001",
        f"{votes}-r2/shard-0000",
        f"{votes}-r2/shard-0001",
    ]
    world.succeed(short=0)
    world.walk()
    assert [tuple(start.step)[1:] for start in world.started][4:] == [
        ("generateQuestions", 2),
        ("labelQuestions", 2),
        ("buildCurriculum", 2),
        ("trainSolver", 1),
    ]
    train = world.started[-1].task
    assert isinstance(train, TrainSolverTask)
    assert train.curriculum == f"{ROOT}/i0001/buildCurriculum-r2"


def test_the_last_top_up_is_told_that_none_follows() -> None:
    world = World(make_spec(questions={"shards": 2, "topUps": 1}))
    world.walk(until=Step(1, Stage.BUILD_CURRICULUM))
    world.succeed(short=1)
    world.walk(until=Step(1, Stage.BUILD_CURRICULUM, 2))
    task = world.started[-1].task
    assert isinstance(task, BuildCurriculumTask) and task.last_round


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12.0, "12"),
        (0.1 + 0.2, "0.3"),
        (1e-6, "0.000001"),
        (1e9, "1000000000"),
        (-2.5, "-2.5"),
    ],
)
def test_numbers_are_written_without_an_exponent(value: float, text: str) -> None:
    assert decimal_string(value) == text
