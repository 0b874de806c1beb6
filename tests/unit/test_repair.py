"""What is taken out of a status that somebody has edited by hand."""

from typing import Any

import pytest
from plan_world import RUN, World, later, make_spec

from rzero_core.run import Stage
from rzero_core.status import (
    EarlierLabelAccuracy,
    LabelAccuracyStatus,
    Phase,
    RunStatus,
    StageState,
    StageStatus,
    UncorrectedLabelAccuracy,
)
from rzero_operator.conditions import rfc3339
from rzero_operator.repair import repair
from rzero_operator.tasks import Step

LABELS = Step(1, Stage.LABEL_QUESTIONS)
QUESTIONS = Step(1, Stage.GENERATE_QUESTIONS)
AUDIT = LabelAccuracyStatus(estimate="0.9", lower="0.86", upper="0.93", method="oracle")


def done_world(**fields: Any) -> World:
    world = World(make_spec(**fields))
    world.walk()
    return world


def edited(status: RunStatus, step: Step, **changes: Any) -> RunStatus:
    groups = [
        group.model_copy(
            update={
                "stages": [
                    entry.model_copy(update=changes)
                    if (group.iteration, entry.stage, entry.round) == step
                    else entry
                    for entry in group.stages
                ]
            }
        )
        for group in status.iterations
    ]
    return status.model_copy(update={"iterations": groups})


def test_what_the_plan_writes_is_left_as_it_is() -> None:
    world = World(make_spec(iterations=2))
    while world.status.phase is not Phase.SUCCEEDED:
        world.turn()
        assert repair(RUN.ref, world.spec, world.status) == world.status
        if world.live:
            world.succeed()


@pytest.mark.parametrize(
    "changes",
    [
        {"outputs": {"questions": "s3://elsewhere/questions"}},
        {"outputs": {}},
        {"metrics": {}},
        {"metrics": {"shards": "two"}},
        {"metrics": {"shards": "0"}},
        {"metrics": {"shards": "1000000000"}},
        {"metrics": {"shards": "2", "rows": "many"}},
        {"metrics": {"shards": "2", "rows": "NaN"}},
    ],
)
def test_a_false_proof_is_no_proof(changes: dict[str, dict[str, str]]) -> None:
    world = done_world()
    status = repair(RUN.ref, world.spec, edited(world.status, QUESTIONS, **changes))
    entry = status.find(*QUESTIONS)
    assert entry is not None and entry.state is StageState.WAITING
    assert (entry.outputs, entry.metrics, entry.manifest_digest) == ({}, {}, None)
    assert entry.attempts == 1
    labels = status.find(*LABELS)
    assert labels is not None and labels.state is StageState.DONE


def test_outputs_of_another_run_prove_nothing() -> None:
    world = done_world()
    entry = world.status.find(*LABELS)
    assert entry is not None
    other = {name: uri.replace("0123", "3210") for name, uri in entry.outputs.items()}
    assert other != entry.outputs
    repaired = repair(RUN.ref, world.spec, edited(world.status, LABELS, outputs=other))
    entry = repaired.find(*LABELS)
    assert entry is not None and entry.state is StageState.WAITING


def test_iterations_that_nobody_asked_for_are_dropped() -> None:
    world = done_world()
    late = world.status.iterations[-1].model_copy(update={"iteration": 7})
    status = world.status.model_copy(update={"iterations": [*world.status.iterations, late]})
    assert repair(RUN.ref, world.spec, status) == world.status


def test_times_that_cannot_be_read_are_dropped() -> None:
    world = done_world()
    nonsense = {"started_at": "noon", "finished_at": "2026-01-01T00:00:00", "not_before": ""}
    status = repair(RUN.ref, world.spec, edited(world.status, LABELS, **nonsense))
    entry = status.find(*LABELS)
    assert entry is not None and entry.state is StageState.DONE
    assert (entry.started_at, entry.finished_at, entry.not_before) == (None, None, None)


def test_conditions_since_a_time_that_cannot_be_read_begin_anew() -> None:
    world = World(make_spec())
    world.turn()
    told = [
        item.model_copy(update={"last_transition_time": "?"}) for item in world.status.conditions
    ]
    world.status = world.status.model_copy(update={"conditions": told})
    assert repair(RUN.ref, world.spec, world.status).conditions == []
    world.turn()
    assert {item.last_transition_time for item in world.status.conditions} == {rfc3339(world.now)}


@pytest.mark.parametrize("end", ["estimate", "lower", "upper"])
def test_what_was_judged_again_must_be_shares_too(end: str) -> None:
    world = done_world()
    ends = {"estimate": "0.9", "lower": "0.86", "upper": "0.93"}
    for value, kept in (("0.9", True), ("lots", False), ("2", False)):
        earlier = EarlierLabelAccuracy(**{**ends, end: value}, sample_size=100)
        audit = AUDIT.model_copy(update={"earlier": earlier})
        group = world.status.iterations[0].model_copy(update={"label_accuracy": audit})
        edit = world.status.model_copy(update={"iterations": [group]})
        found = repair(RUN.ref, world.spec, edit).iterations[0].label_accuracy
        assert (found is not None) is kept


@pytest.mark.parametrize(
    ("skill", "kept"), [("0.7", True), ("0", False), ("-1", False), ("good", False), ("2", False)]
)
@pytest.mark.parametrize("again", [True, False])
def test_the_skill_of_an_oracle_must_be_one_that_can_correct(
    skill: str, *, kept: bool, again: bool
) -> None:
    ends = {"estimate": "0.8", "lower": "0.75", "upper": "0.84"}
    said = {"uncorrected": UncorrectedLabelAccuracy(**ends, skill=skill)}
    earlier = EarlierLabelAccuracy(**ends, sample_size=100, **said)
    audit = AUDIT.model_copy(update={"earlier": earlier} if again else said)
    world = done_world()
    group = world.status.iterations[0].model_copy(update={"label_accuracy": audit})
    edit = world.status.model_copy(update={"iterations": [group]})
    found = repair(RUN.ref, world.spec, edit).iterations[0].label_accuracy
    assert (found is not None) is kept


@pytest.mark.parametrize("estimate", ["high", "1.5", "-0.1", "NaN"])
def test_a_curriculum_whose_label_accuracy_was_edited_is_audited_again(estimate: str) -> None:
    world = done_world()
    group = world.status.iterations[0].model_copy(update={"label_accuracy": AUDIT})
    sound = world.status.model_copy(update={"iterations": [group]})
    assert repair(RUN.ref, world.spec, sound) == sound
    audit = AUDIT.model_copy(update={"estimate": estimate})
    edit = group.model_copy(update={"label_accuracy": audit})
    status = repair(RUN.ref, world.spec, world.status.model_copy(update={"iterations": [edit]}))
    assert status.iterations[0].label_accuracy is None
    states = {entry.stage: entry.state for entry in status.iterations[0].stages}
    assert states.pop(Stage.BUILD_CURRICULUM) is StageState.WAITING
    assert set(states.values()) == {StageState.DONE}


def test_a_run_goes_on_from_any_nonsense_and_does_nothing_twice() -> None:
    world = World(make_spec())
    world.walk(until=LABELS)
    world.status = edited(world.status, QUESTIONS, outputs={"questions": "s3://elsewhere/x"})
    world.turn()
    world.walk()
    starts = [start.step.stage for start in world.started]
    assert starts == list(Stage)[:5]
    entries = [entry for group in world.status.iterations for entry in group.stages]
    assert all(entry.state is StageState.DONE for entry in entries)


@pytest.mark.parametrize("seen", [True, False])
@pytest.mark.parametrize(
    "changes",
    [
        {"state": StageState.RUNNING, "attempts": 0},
        {"state": StageState.RUNNING, "attempts": 10**12},
        {"state": StageState.WAITING, "attempts": 10**9},
        {"state": StageState.WAITING, "failures": 10**6, "not_before": "9999-01-01T00:00:00Z"},
    ],
)
def test_a_run_goes_on_after_numbers_that_no_attempt_can_have(
    changes: dict[str, Any], seen: bool
) -> None:
    world = World(make_spec())
    world.walk(until=LABELS)
    if not seen:
        del world.attempts[LABELS, 1]
    world.status = edited(world.status, LABELS, **changes)
    world.turn()
    later(world, 3600.0)
    world.walk()
    assert world.status.phase is Phase.SUCCEEDED
    assert {start.task.attempt for start in world.started} <= {1, 2}


def test_a_stage_that_waits_keeps_its_budgets() -> None:
    entry = StageStatus(
        stage=Stage.TRAIN_CHALLENGER,
        state=StageState.WAITING,
        attempts=2,
        failures=1,
        preemptions=1,
        not_before="2026-01-01T00:00:10Z",
        message="broke",
    )
    group = World(make_spec()).status.iterations
    assert group == []
    status = RunStatus.parse({"iterations": [{"iteration": 1, "stages": [entry.to_dict()]}]})
    assert repair(RUN.ref, make_spec(), status) == status
