"""Canaries: figures that leave the band of the iterations before are told, and nothing else."""

import re
from typing import Any

import pytest
from guarded_world import declare, play, reasons, trained
from plan_world import make_spec

from rzero_core.run import Stage
from rzero_core.status import (
    LONGEST_CANARY,
    MOST_CANARIES,
    GuardrailStatus,
    IterationStatus,
    RunStatus,
    StageState,
    StageStatus,
)
from rzero_operator import canaries
from rzero_operator.tasks import Step

BUILT, DRAWN, VOTED = Stage.BUILD_CURRICULUM, Stage.GENERATE_QUESTIONS, Stage.LABEL_QUESTIONS


def iterations(*figures: dict[Stage, dict[str, float]]) -> RunStatus:
    """Iterations 1.. whose stages reported this."""
    return RunStatus(
        iterations=[
            IterationStatus(
                iteration=number,
                stages=[
                    StageStatus(
                        stage=stage,
                        state=StageState.DONE,
                        metrics={name: str(value) for name, value in metrics.items()},
                    )
                    for stage, metrics in stages.items()
                ],
            )
            for number, stages in enumerate(figures, start=1)
        ]
    )


def kept(*counts: int, questions: int = 1000) -> RunStatus:
    return iterations(*({BUILT: {"kept": count, "questions": questions}} for count in counts))


def test_a_figure_that_leaves_the_band_of_its_history_is_named_with_the_band() -> None:
    assert canaries.found(kept(500, 510, 490, 505, 495, 400), 6) == [
        "questions kept: 0.400, outside the band from 0.453 to 0.547 of 5 iterations before"
    ]
    assert canaries.found(kept(500, 510, 490, 505, 495, 540), 6) == []


def test_four_iterations_make_no_band() -> None:
    assert canaries.found(kept(500, 500, 500, 500, 100), 5) == []


def test_a_history_without_spread_has_the_band_of_chance() -> None:
    assert canaries.found(kept(*[500] * 5, 546), 6) == []
    assert len(canaries.found(kept(*[500] * 5, 549), 6)) == 1


def test_a_history_that_varies_by_itself_has_a_wide_band() -> None:
    assert canaries.found(kept(500, 600, 400, 550, 450, 700), 6) == []


def test_without_chance_there_is_no_band() -> None:
    assert canaries.found(kept(*[0] * 5, 900), 6) == []


@pytest.mark.parametrize(
    ("stage", "usual", "strange", "told"),
    [
        (DRAWN, {"questions": 1000, "valid": 900}, {"valid": 500}, "valid questions: 0.500"),
        (
            VOTED,
            {"questions": 900, "votes": 9000, "abstained": 90},
            {"abstained": 4500},
            "votes without an answer: 0.500",
        ),
        (
            BUILT,
            {"questions": 900, "duplicates": 9, "nearDuplicates": 9},
            {"nearDuplicates": 441},
            "repeated questions: 0.500",
        ),
        (
            BUILT,
            {"questions": 1000, "duplicates": 50, "probeDuplicates": 50, "agreementSum": 540},
            {"agreementSum": 810},
            "mean agreement: 0.900",
        ),
    ],
)
def test_each_of_the_watched_figures_is_told(
    stage: Stage, usual: dict[str, float], strange: dict[str, float], told: str
) -> None:
    status = iterations(*[{stage: usual}] * 5, {stage: usual | strange})
    (found,) = canaries.found(status, 6)
    assert found.startswith(f"{told}, outside the band from ")
    assert canaries.found(status, 5) == []


@pytest.mark.parametrize(
    ("lost", "gained", "p", "told"),
    [(14, 1, 0.001, True), (1, 14, 0.001, False), (8, 2, 0.109, False)],
)
def test_probes_that_are_certainly_lost_are_told_from_the_second_iteration(
    lost: int, gained: int, p: float, told: bool
) -> None:
    figures = {"probesLost": lost, "probesGained": gained, "probesPValue": p}
    found = canaries.found(iterations({BUILT: {}}, {BUILT: figures}), 2)
    sentence = "probes: 14 are no longer right, 1 now are (p = 0.0010)"
    assert found == ([sentence] if told else [])


def test_all_canaries_at_once_fit_the_status() -> None:
    usual: dict[Stage, dict[str, float]] = {
        DRAWN: {"questions": 1000, "valid": 900},
        VOTED: {"questions": 1000, "votes": 9000, "abstained": 90},
        BUILT: {"questions": 900, "duplicates": 9, "nearDuplicates": 9, "kept": 450}
        | {"agreementSum": 450},
    }
    strange: dict[Stage, dict[str, float]] = {
        DRAWN: {"questions": 10**6, "valid": 1},
        VOTED: {"questions": 10**6, "votes": 10**7, "abstained": 10**7},
        BUILT: {"questions": 10**6, "duplicates": 9, "nearDuplicates": 9 * 10**5, "kept": 9}
        | {"agreementSum": 10**6 - 9, "probesLost": 10**6, "probesGained": 0, "probesPValue": 0},
    }
    found = canaries.found(iterations(*[usual] * 99, strange), 100)
    assert len(found) == 6 <= MOST_CANARIES
    assert max(map(len, found)) <= LONGEST_CANARY
    GuardrailStatus.parse({"outcome": "Healthy", "message": "", "canaries": found})


@pytest.mark.parametrize("wild", ["1e150", "1e200", "1e400", "-1", "0"])
@pytest.mark.parametrize("name", ["kept", "questions", "agreementSum"])
@pytest.mark.parametrize("iteration", [1, 6])
def test_numbers_that_no_stage_counts_do_not_keep_the_plan_from_deciding(
    wild: str, name: str, iteration: int
) -> None:
    edited = iterations(*[{BUILT: {"kept": 500, "questions": 1000, "agreementSum": 400}}] * 6)
    edited.iterations[iteration - 1].stages[0].metrics[name] = wild
    told = canaries.found(edited, 6)
    assert all(re.search(r": [01]\.\d{3}, outside the band from [01]\.", line) for line in told)


@pytest.mark.parametrize("wild", [0.0, 1e-300])
def test_votes_on_no_question_have_no_band(wild: float) -> None:
    voted = {VOTED: {"questions": wild, "votes": 10, "abstained": 1}}
    strange = {VOTED: voted[VOTED] | {"abstained": 9}}
    assert canaries.found(iterations(*[voted] * 5, strange), 6) == []


def test_a_canary_of_wild_numbers_fits_the_status() -> None:
    figures = {"probesLost": 1e300, "probesGained": 1.0, "probesPValue": 0.0}
    (told,) = canaries.found(iterations({BUILT: {}}, {BUILT: figures}), 2)
    assert told.startswith("probes: 1000") and len(told) == LONGEST_CANARY


def test_a_canary_is_told_once_and_the_run_goes_on() -> None:
    world = declare("Stop")
    spec: dict[str, Any] = {**world.spec.to_dict(), "iterations": 7}
    world.spec = make_spec(**spec)
    usual, strange = {"kept": 500.0, "questions": 1000.0}, {"kept": 400.0, "questions": 1000.0}
    metrics = {Step(i, BUILT): strange if i == 6 else usual for i in range(1, 8)}
    play(world, dict.fromkeys(range(1, 8), 0.9), metrics=metrics)
    assert trained(world) == [1, 2, 3, 4, 5, 6, 7]
    assert reasons(world) == ["LabelAccuracyHealthy", "Canary", "Succeeded"]
    event = next(event for event in world.events if event.reason == "Canary")
    assert event.warning
    assert event.message.startswith("iteration 6: questions kept: 0.400, outside the band")
    records = [group.guardrail for group in world.status.iterations]
    assert [len(record.canaries) for record in records if record] == [0, 0, 0, 0, 0, 1, 0]
    assert records[5] is not None and records[5].outcome == "Healthy"
