"""The history of a run stays within the size of one object, and nothing that is needed is lost."""

from pathlib import Path

import pytest
from fake_run import FakeRun
from guarded_world import declare, play, trained
from plan_world import make_spec

from rzero_core.run import Stage
from rzero_core.status import RunStatus
from rzero_operator import plan
from rzero_operator.decision import Event
from rzero_operator.history import fitted
from rzero_operator.scores import best, score
from rzero_operator.tasks import Step
from rzero_operator.views import tree
from rzero_stages import report


def size(status: RunStatus) -> int:
    return len(status.to_json().encode())


def test_a_history_that_fits_stays_as_it_is(tmp_path: Path) -> None:
    status = FakeRun(tmp_path).whole().status()
    assert fitted(status) == status


def test_the_first_iterations_lose_metrics_first_and_only_as_many_as_are_in_the_way(
    tmp_path: Path,
) -> None:
    status = FakeRun(tmp_path, iterations=5).whole().status()
    smaller = fitted(status, size(status) - 1)
    assert size(smaller) < size(status)
    assert smaller.iterations[2:] == status.iterations[2:]
    smallest = fitted(status, 0)
    assert smallest.iterations[-2:] == status.iterations[-2:]
    assert fitted(smallest, 0) == smallest
    for number in range(6):
        assert score(smallest, number) == score(status, number)
        pool = smallest.find(number, Stage.LABEL_QUESTIONS)
        assert number == 0 or (pool is not None and pool.metrics["shards"] == "2")


def test_a_run_goes_on_from_a_history_that_was_cut() -> None:
    world = declare("Warn", evaluated=True)
    scores = {0: 0.5, 1: 0.9, 2: 0.6, 3: 0.7, 4: 0.8}
    play(world, {1: 0.9, 2: 0.9, 3: 0.9}, scores)
    world.status = fitted(world.status, 0)
    world.spec = make_spec(**{**world.spec.to_dict(), "iterations": 4})
    play(world, {4: 0.9}, scores)
    assert trained(world) == [1, 2, 3, 4]
    assert best(world.spec, world.status).iteration == 1


def test_canaries_and_verdicts_are_the_same_from_a_history_that_was_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    metrics = {
        Step(number, Stage.BUILD_CURRICULUM): {
            **{"questions": 1000.0, "kept": 500.0 + number % 3 if number < 8 else 100.0},
            **{"duplicates": 0.0, "nearDuplicates": 0.0, "agreementSum": 500.0, "other": 1.0},
        }
        for number in range(1, 9)
    }
    accuracies = {number: 0.9 if number < 8 else 0.7 for number in range(1, 9)}

    def played() -> tuple[list[str], list[Event]]:
        world = declare("Warn")
        world.spec = make_spec(**{**world.spec.to_dict(), "iterations": 8})
        play(world, accuracies, metrics=metrics)
        verdict = world.status.iterations[-1].guardrail
        assert verdict is not None and verdict.canaries
        return [verdict.message, *verdict.canaries], world.events

    whole = played()
    monkeypatch.setattr(plan, "fitted", lambda status: fitted(status, 0))
    assert played() == whole


def test_a_cut_history_can_be_shown(tmp_path: Path) -> None:
    fake = FakeRun(tmp_path / "run", iterations=5).whole()
    status, manifest = fake.write()
    status.write_text(fitted(fake.status(), 0).to_json())
    report.write(status, manifest, tmp_path / "report.html", status_only=True)
    assert "iteration 5" in (tmp_path / "report.html").read_text("utf-8").lower()
    assert tree("tiny", 5, fitted(fake.status(), 0)).children
