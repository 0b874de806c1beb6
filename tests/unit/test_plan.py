"""`plan.decide` by exact sequences."""

import hashlib
from dataclasses import replace

import pytest
from plan_world import DATASETS, RUN, World, later, make_spec, results_of

from rzero_core.run import Stage
from rzero_core.status import Phase, RunStatus, StageState
from rzero_core.task import (
    BuildCurriculumTask,
    EvaluateTask,
    GenerateQuestionsTask,
    LabelQuestionsTask,
    TrainChallengerTask,
    TrainSolverTask,
)
from rzero_operator.decision import Attempt, AttemptState, StartAttempt, StopAttempt
from rzero_operator.plan import decide, reopen
from rzero_operator.tasks import Step, decimal_string

ROOT = "s3://bucket/base/test-01234567"
CHALLENGER = Step(1, Stage.TRAIN_CHALLENGER)


def phase(world: World) -> Phase:
    return world.status.phase


def condition(status: RunStatus, name: str) -> tuple[str, str]:
    return next((c.status, c.message) for c in status.conditions if c.type == name)


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
    world.turn()
    assert world.entry.state is StageState.RUNNING
    assert (world.entry.attempts, world.entry.preemptions) == (2, 1)


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


def test_a_vanished_attempt_is_replaced_at_once_and_is_no_failure() -> None:
    world = World(make_spec())
    world.turn()
    world.attempts.clear()
    world.turn()
    assert (world.entry.attempts, world.entry.failures, world.entry.preemptions) == (2, 0, 1)
    assert world.started[-1].task.attempt == 2


def test_a_reservation_that_was_never_carried_out_is_carried_out_and_costs_nothing() -> None:
    world = World(make_spec())
    world.write(world.decide())  # The caller dies between writing and acting.
    world.turn()
    assert [start.task.attempt for start in world.started] == [1]
    assert (world.entry.attempts, world.entry.failures, world.entry.preemptions) == (1, 0, 0)


def test_a_reservation_waits_through_a_suspension() -> None:
    world = World(make_spec())
    world.write(world.decide())
    world.spec = make_spec(suspend=True)
    world.turn()
    assert (phase(world), world.started) == (Phase.SUSPENDED, [])
    world.spec = make_spec()
    world.turn()
    assert [start.task.attempt for start in world.started] == [1]


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


def test_an_attempt_that_somebody_else_deletes_is_lost_and_no_suspension() -> None:
    world = World(make_spec())
    world.turn()
    world.end(state=AttemptState.STOPPING)
    world.turn()
    assert phase(world) is Phase.RUNNING
    world.attempts.clear()
    world.turn()
    assert (world.entry.attempts, world.entry.preemptions) == (2, 1)


def test_a_phase_written_by_hand_ends_nothing() -> None:
    for lie in (Phase.SUCCEEDED, Phase.FAILED):
        world = World(make_spec())
        world.turn()
        world.status = world.status.model_copy(update={"phase": lie})
        world.turn()
        assert phase(world) is Phase.RUNNING
        assert len(world.started) == 1


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


def test_a_stop_that_nobody_asked_for_is_a_failure() -> None:
    world = World(make_spec())
    world.turn()
    world.fail(75, message="storage does not answer")
    world.turn()
    assert (world.entry.failures, world.entry.state) == (1, StageState.WAITING)


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


def test_a_failed_run_stays_failed_until_it_is_reopened() -> None:
    world = World(make_spec())
    world.turn()
    world.fail(78, message="spec.model: not there")
    world.turn()
    world.spec = make_spec(iterations=5)
    assert world.turn().actions == ()
    assert phase(world) is Phase.FAILED
    assert "not there" in condition(world.status, "Failed")[1]
    world.status = reopen(world.status)
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


def test_a_changed_spec_applies_to_the_next_attempt_only() -> None:
    world = World(make_spec())
    world.walk(until=Step(1, Stage.LABEL_QUESTIONS))
    world.spec = make_spec(questions={"shards": 4})
    assert world.turn().actions == ()
    world.attempts.clear()
    world.turn()
    task = world.started[-1].task
    assert isinstance(task, LabelQuestionsTask) and len(task.pool) == 2


def test_the_order_of_observations_does_not_matter() -> None:
    world = World(make_spec(iterations=2))
    world.walk(until=Step(2, Stage.LABEL_QUESTIONS))
    world.fail()
    seen = world.observed
    forward = decide(RUN, world.spec, world.status, seen, world.now)
    assert decide(RUN, world.spec, world.status, seen[::-1], world.now) == forward
    assert decide(RUN, world.spec, world.status, seen * 2, world.now) == forward


def test_the_status_answers_the_generation_it_was_decided_for() -> None:
    world = World(make_spec())
    decision = decide(replace(RUN, generation=7), world.spec, world.status, [], world.now)
    assert decision.status.observed_generation == 7
    assert {c.observed_generation for c in decision.status.conditions} == {7}


def test_the_plan_survives_the_status_going_through_json() -> None:
    world = World(make_spec(iterations=2, evaluation=DATASETS))
    world.walk(until=Step(2, Stage.TRAIN_SOLVER))
    assert RunStatus.model_validate_json(world.status.to_json()) == world.status


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
