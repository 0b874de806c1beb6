"""What the gauges say of an audit, and of what the guardrail does with it."""

import pytest
from guarded_world import audit, change, declare, play
from metric_makers import known
from plan_world import World
from test_metrics import ACCURACY, RUN, Page, accurate, page_of, stage

from rzero_core.intervals import Interval, at_confidence
from rzero_core.run import Stage
from rzero_core.status import IterationStatus, LabelAccuracyStatus, Phase, RunStatus
from rzero_operator.metrics import Metrics


def test_the_floor_is_compared_with_the_upper_end_that_the_guardrail_reads() -> None:
    half = known("0.54", "0.4708", "0.6077")
    page = page_of(accurate(half, LabelAccuracyStatus(abstained=300, method="oracle/1")))
    upper = at_confidence(Interval(0.54, 0.4708, 0.6077), 0.90).upper
    assert page.of(f"{ACCURACY}_upper90_ratio") == upper == pytest.approx(0.597, abs=1e-3)
    computed = page_of(accurate(half.model_copy(update={"method": "Programmatic"})))
    assert computed.of(f"{ACCURACY}_upper90_ratio") == 0.6077


def bound(abstained: int = 0) -> LabelAccuracyStatus:
    return known("0.9", method="upper bound", is_upper_bound=True, abstained=abstained)


def test_an_oracle_that_is_down_is_told_where_an_upper_bound_stands_in() -> None:
    page = page_of(accurate(known("0.7"), bound(abstained=100)))
    assert page.of(f"{ACCURACY}_sample_size") == 0
    assert page.of(f"{ACCURACY}_abstained") == 100
    assert page.of(f"{ACCURACY}_at_most_ratio") == 0.9


def test_an_oracle_that_probes_show_to_be_of_no_use_is_told_where_a_bound_stands_in() -> None:
    built = stage(Stage.BUILD_CURRICULUM, metrics={"oracleCalls": "600"})
    group = IterationStatus(iteration=1, stages=[built], label_accuracy=bound())
    page = page_of(RunStatus(iterations=[group]))
    assert page.of(f"{ACCURACY}_sample_size") == 0
    assert page.of(f"{ACCURACY}_abstained") == 0


@pytest.mark.parametrize("report", [bound(), LabelAccuracyStatus(method="None")])
def test_labels_that_no_auditor_looked_at_are_neither_judged_nor_abstained_from(
    report: LabelAccuracyStatus,
) -> None:
    page = page_of(accurate(report))
    assert page.of(f"{ACCURACY}_sample_size") is None
    assert page.of(f"{ACCURACY}_abstained") is None


def test_a_run_that_its_guardrail_paused_says_so_until_it_goes_on() -> None:
    world = declare("Pause")
    play(world, {1: 0.5})
    assert paused(world) == 1
    world.resume = "now"
    world.turn()
    assert paused(world) == 0


def test_a_paused_run_goes_on_with_another_limit() -> None:
    world = declare("Pause")
    play(world, {1: 0.5})
    change(world, floor=0.4)
    world.turn()
    assert paused(world) == 0


def test_a_small_drop_that_pauses_a_run_is_told() -> None:
    world = declare("Pause")
    play(world, {1: audit(0.80, 200), 2: audit(0.69, 200)})
    assert paused(world) == 1


def test_a_run_that_its_user_suspended_waits_for_nobody() -> None:
    world = declare("Pause")
    world.turn()
    world.spec = world.spec.model_copy(update={"suspend": True})
    world.turn()
    world.fail(75)
    world.turn()
    assert (world.status.phase, paused(world)) == (Phase.SUSPENDED, 0)


def test_a_paused_run_that_its_user_suspends_waits_again_when_that_ends() -> None:
    world = declare("Pause")
    play(world, {1: 0.5})
    for suspended in (True, False):
        world.spec = world.spec.model_copy(update={"suspend": suspended})
        world.turn()
        assert (world.status.phase, paused(world)) == (Phase.SUSPENDED, not suspended)


def test_a_run_that_its_guardrail_ended_does_not_wait() -> None:
    world = declare("Stop")
    play(world, {1: 0.5})
    assert world.status.phase is Phase.SUCCEEDED
    assert paused(world) == 0


def paused(world: World) -> float | None:
    metrics = Metrics()
    metrics.seen(*RUN, world.spec, world.status)
    return Page(metrics).of("rzero_run_paused")
