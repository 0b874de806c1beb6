"""What the guardrail holds of a curriculum, as the plan tells it."""

import pytest
from guarded_world import Accuracies, audit, declare, healthy, play, reasons, trained

from rzero_core.intervals import wilson
from rzero_core.run import Stage
from rzero_core.status import Phase
from rzero_core.task import EarlierLabelAudit, LabelAudit, UncorrectedLabelAudit
from rzero_operator.guardrails import CONDITION
from rzero_operator.tasks import Step


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


def test_a_condition_that_holds_keeps_its_time() -> None:
    world = declare("Warn")
    play(world, {1: 0.9, 2: 0.9})
    assert healthy(world.status).last_transition_time == "2026-01-01T00:00:00Z"


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
    dropped = "LabelAccuracyDropped"
    assert reasons(world)[:4] == ["LabelAccuracyHealthy", dropped, dropped, "Stopped"]
    rising = declare("Stop", evaluated=True)
    play(rising, shares, {0: 0.40, 1: 0.46, 2: 0.52, 3: 0.55})
    assert trained(rising) == [1, 2, 3]


def test_estimates_by_another_method_are_not_compared() -> None:
    world = declare("Stop")
    play(world, {1: 0.95, 2: audit(0.7, method="Oracle of another prompt"), 3: 0.9})
    assert trained(world) == [1, 2, 3]


def corrected(share: float, agreed: float, n: int = 400) -> LabelAudit:
    """By an oracle of which probes tell badly how often it errs."""
    said = UncorrectedLabelAudit(**wilson(round(agreed * n), n)._asdict(), skill=0.7)
    wide = {"lower": share - 0.1, "upper": share + 0.1, "uncorrected": said}
    return audit(share).model_copy(update=wide)


def test_a_drop_is_measured_by_what_a_corrected_oracle_said() -> None:
    world = declare("Stop")
    play(world, {1: corrected(0.86, 0.8), 2: corrected(0.71, 0.7), 3: 0.9})
    assert trained(world) == [1]
    # 0.8 - 0.7 on the scale of an oracle that agrees with right labels more by 0.7.
    assert healthy(world.status).message == (
        "iteration 2: accuracy fell by 0.143 [0.050, 0.234] since iteration 1"
    )


def judged_again(share: float, before: float, n: int = 200) -> LabelAudit:
    """By a new method, which judged the labels of the iteration before as well."""
    found = wilson(round(before * n), n)
    earlier = EarlierLabelAudit(**found._asdict(), sample_size=n)
    return audit(share, method="Oracle of another prompt").model_copy(update={"earlier": earlier})


def test_after_a_change_of_method_a_drop_is_measured_from_what_was_judged_again() -> None:
    world = declare("Stop")
    play(world, {1: 0.7, 2: judged_again(0.72, before=0.9), 3: 0.9})
    assert trained(world) == [1]
    assert healthy(world.status).message == (
        "iteration 2: accuracy fell by 0.180 [0.126, 0.228] since iteration 1; "
        "iteration 1, judged again, had 0.900 [0.851, 0.934]"
    )


def test_a_stricter_auditor_is_no_drop_where_it_finds_the_same_of_the_iteration_before() -> None:
    world = declare("Stop")
    play(world, {1: 0.95, 2: judged_again(0.7, before=0.72), 3: 0.9})
    assert trained(world) == [1, 2, 3]
    found = world.status.iterations[1].guardrail
    assert found is not None and found.outcome == "Healthy"
    assert found.message.endswith("; iteration 1, judged again, had 0.720 [0.654, 0.778]")


def test_what_was_judged_again_stays_a_baseline_of_later_iterations() -> None:
    new = audit(0.74, method="Oracle of another prompt")
    world = declare("Stop")
    play(world, {1: 0.7, 2: judged_again(0.85, before=0.9), 3: new})
    assert trained(world) == [1, 2]
    assert "since iteration 1" in healthy(world.status).message


@pytest.mark.parametrize(("agreement", "told"), [(0.62, True), (0.5, False), (0.48, False)])
def test_a_drop_beside_growing_agreement_is_told_as_what_it_is(
    agreement: float, told: bool
) -> None:
    world = declare("Warn")
    metrics = {
        Step(1, Stage.BUILD_CURRICULUM): {"questions": 110.0, "duplicates": 10, "agreementSum": 50},
        Step(2, Stage.BUILD_CURRICULUM): {"questions": 100.0, "agreementSum": 100 * agreement},
    }
    play(world, {1: 0.9, 2: 0.7, 3: 0.9}, metrics=metrics)
    found = world.status.iterations[1].guardrail
    assert found is not None and found.outcome == "Dropped"
    words = "; meanwhile mean agreement rose from 0.500 to 0.620: the Solver grows sure of wrong"
    assert (words in found.message) is told


def test_an_upper_bound_never_acts() -> None:
    why = {"is_upper_bound": True, "method": "raters", "why": "300 HTTP 401"}
    bound = audit(0.3).model_copy(update=why)
    world = declare("Stop")
    play(world, {1: bound, 2: bound, 3: bound})
    assert trained(world) == [1, 2, 3]
    found = healthy(world.status)
    assert (found.status, found.reason) == ("Unknown", "LabelAccuracyUnknown")
    assert found.message.endswith(": 300 HTTP 401")
    assert world.status.latest_label_accuracy == "<=0.300"


def test_what_nobody_could_judge_is_unknown_and_does_not_act() -> None:
    why = "280 no connection, 20 out of time"
    nothing = LabelAudit(sample_size=0, abstained=300, method="Oracle big x3", why=why)
    world = declare("Stop")
    play(world, {1: 0.9, 2: nothing, 3: 0.9})
    assert trained(world) == [1, 2, 3]
    assert "LabelAccuracyUnknown" in reasons(world)
    record = world.status.iterations[1].guardrail
    assert record is not None
    assert record.message == (
        f"iteration 2: accuracy is unknown: Oracle big x3 judged 0 of 300 labels: {why}"
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


@pytest.mark.parametrize(("n", "iterations"), [(64, [1, 2, 3]), (640, [1])])
def test_what_may_be_chance_in_a_small_curriculum_is_no_drop_though_all_of_it_was_judged(
    n: int, iterations: list[int]
) -> None:
    def computed(share: float) -> LabelAudit:
        ends = {"estimate": share, "lower": share, "upper": share}
        return LabelAudit(**ends, sample_size=n, method="Programmatic")

    world = declare("Stop")
    play(world, {1: computed(0.81), 2: computed(0.69), 3: computed(0.81)})
    assert trained(world) == iterations


@pytest.mark.parametrize("looks", ["1e9999999", "-1e9999999", "2.5"])
def test_looks_that_nobody_took_are_read_in_no_time(looks: str) -> None:
    world = declare("Pause")
    play(world, {1: audit(0.4)})
    entry = world.status.find(1, Stage.BUILD_CURRICULUM)
    assert entry is not None
    entry.metrics["auditLooks"] = looks
    world.turn()
    assert healthy(world.status).reason == "LabelAccuracyBelowFloor"


@pytest.mark.parametrize("upper", ["0.500000001", "0.50000000000001"])
def test_an_interval_narrower_than_any_auditor_reports_is_a_point(upper: str) -> None:
    world = declare("Stop", floor=0.6)
    found = LabelAudit(estimate=0.5, lower=0.5, upper=float(upper), sample_size=9, method="Oracle")
    play(world, {1: 0.9, 2: found})
    assert trained(world) == [1]
    assert healthy(world.status).reason == "LabelAccuracyBelowFloor"


def test_a_curriculum_that_was_not_audited_says_nothing() -> None:
    world = declare("Stop")
    play(world, {})
    assert trained(world) == [1, 2, 3]
    assert [c for c in world.status.conditions if c.type == CONDITION] == []
