"""Tests of the rules that stop a run whose labels rot, on the paper's own numbers among others."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rzero_core.guardrail import (
    Audit,
    Outcome,
    Verdict,
    below_floor,
    comparable,
    drop,
    judge,
)
from rzero_core.intervals import Interval, newcombe, wilson
from rzero_core.label_accuracy import AuditedStratum, Probes, audited


def audits(*shares: float, n: int = 500) -> list[Audit]:
    """Iterations 1.. with these shares of right labels in n checked ones."""
    return [Audit(i, wilson(round(p * n), n)) for i, p in enumerate(shares, start=1)]


def test_a_run_that_keeps_its_accuracy_is_healthy() -> None:
    found = judge(audits(0.80, 0.79, 0.81, 0.78))
    assert found.outcome is Outcome.HEALTHY
    assert not found.acts
    assert "0.780" in found.message


def test_the_papers_fall_is_seen_at_the_second_iteration() -> None:
    first, second, third = (judge(audits(0.79, 0.69, 0.63, n=200)[:count]) for count in (1, 2, 3))
    assert first.outcome is not Outcome.DROPPED
    assert (second.outcome, second.since) == (Outcome.DROPPED, 1)
    assert (third.outcome, third.since) == (Outcome.DROPPED, 1)
    assert third.acts
    assert third.loss is not None
    assert third.loss.estimate == pytest.approx(0.16)


def test_a_drop_acts_only_when_it_is_more_than_max_drop() -> None:
    history = audits(0.80, 0.70)
    assert judge(history, max_drop=0.05).acts
    assert not judge(history, max_drop=0.10).acts
    assert judge(history, max_drop=0.10).outcome is Outcome.DROPPED


def test_a_certain_but_small_loss_is_no_drop() -> None:
    assert drop(audits(0.80, 0.77, n=20_000)) is None
    assert drop(audits(0.80, 0.74, n=20_000)) is not None


def test_a_slow_decline_is_seen_against_the_best_iteration() -> None:
    history = audits(0.82, 0.79, 0.76, 0.73, 0.70)
    assert drop(history[-2:]) is None
    found = drop(history)
    assert found is not None
    assert found[0] == 1


def test_more_earlier_iterations_ask_for_more_certainty() -> None:
    pair = audits(0.80, 0.75)
    assert drop(pair) is not None
    assert drop([*audits(0.70, 0.71, 0.72), *pair]) is None


def test_one_comparison_decides_as_newcombes_90_percent_interval() -> None:
    found = drop(audits(0.79, 0.69, n=300))
    assert found is not None
    assert found[1] == pytest.approx(newcombe(237, 300, 207, 300, 0.90), abs=1e-6)


def test_accuracy_below_the_floor_acts_and_needs_certainty() -> None:
    found = judge(audits(0.50), floor=0.6)
    assert found.outcome is Outcome.BELOW_FLOOR
    assert found.acts
    assert "0.60" in found.message
    assert judge(audits(0.58), floor=0.6).outcome is Outcome.HEALTHY


def test_level_runs_rarely_alarm_and_a_fall_by_ten_points_mostly_does() -> None:
    rng = np.random.default_rng(0)

    def alarms(*truths: float) -> float:
        runs = rng.binomial(500, truths, (1000, len(truths))) / 500
        return sum(drop(audits(*run)) is not None for run in runs.tolist()) / 1000

    assert alarms(0.7, 0.7) < 0.06
    assert alarms(0.7, 0.7, 0.7, 0.7) < 0.06
    assert alarms(0.79, 0.69) > 0.94
    assert alarms(0.79, 0.79, 0.69) > 0.94


@pytest.mark.parametrize("certain", [True, False])
def test_small_curricula_that_were_judged_as_a_whole_rarely_alarm_either(*, certain: bool) -> None:
    """Their accuracy is known, but which questions the Challenger wrote was a matter of chance."""
    rng = np.random.default_rng(0)

    def alarms(n: int, *truths: float) -> float:
        runs = (rng.binomial(n, truths, (1000, len(truths))) / n).tolist()
        return sum(drop([whole(i, p, n) for i, p in enumerate(run)]) is not None for run in runs)

    def whole(iteration: int, share: float, n: int) -> Audit:
        return Audit(iteration, Interval(share, share, share), judged=n, certain=certain)

    for n in (32, 64, 128, 300):
        assert alarms(n, 0.75, 0.75) < 65
        assert alarms(n, 0.75, 0.75, 0.75, 0.75) < 65
    assert alarms(300, 0.79, 0.65) > 940


def corrected(iteration: int, agreed: int, probes: Probes, n: int = 500) -> Audit:
    """By an oracle that agreed with so many of n labels, and errs on probes."""
    found = audited([AuditedStratum(4000, agreed, n - agreed)], probes)
    assert found.uncorrected is not None
    return Audit(iteration, found.accuracy, found.method, judged=n, uncorrected=found.uncorrected)


def test_a_drop_is_as_sure_as_what_an_oracle_said_however_badly_its_errors_are_known() -> None:
    few = Probes(right_agreed=18, right_n=20, wrong_disagreed=16, wrong_n=20)
    before, now = corrected(1, 380, few), corrected(2, 310, few)
    # Each interval holds what is not known of the oracle, which is the same both times.
    assert before.accuracy.lower < now.accuracy.upper
    since, loss = drop([before, now]) or pytest.fail("no drop was seen")
    said = newcombe(380, 500, 310, 500, confidence=0.9)
    assert since == 1
    assert list(loss) == pytest.approx([end / 0.7 for end in said])
    # 3.6 points of 0.7 are more than five points of accuracy, and may be chance.
    assert drop([corrected(1, 328, few), now]) is None


def test_a_loss_of_accuracy_that_only_the_correction_shows_is_no_drop() -> None:
    keen = Probes(right_agreed=95, right_n=100, wrong_disagreed=50, wrong_n=100)
    strict = Probes(right_agreed=95, right_n=100, wrong_disagreed=95, wrong_n=100)
    before, now = corrected(1, 400, strict), corrected(2, 400, keen)
    assert before.accuracy.estimate - now.accuracy.estimate > 0.1
    assert drop([before, now]) is None


def test_a_drop_is_seen_through_the_errors_of_an_oracle_and_none_is_made_by_them() -> None:
    rng = np.random.default_rng(0)

    def judged(iteration: int, truth: float) -> Audit:
        right = int(rng.binomial(160, truth))
        hits, misses = rng.binomial(right, 0.95), rng.binomial(160 - right, 0.9)
        probes = Probes(int(hits), right, int(misses), 160 - right)
        return corrected(
            iteration, int(rng.binomial(500, truth * 0.95 + (1 - truth) * 0.1)), probes
        )

    def alarms(*truths: float) -> int:
        runs = ([judged(i, p) for i, p in enumerate(truths)] for _ in range(500))
        return sum(drop(run) is not None for run in runs)

    assert alarms(0.7, 0.7) < 0.06 * 500
    assert alarms(0.8, 0.7) > 0.88 * 500


def test_the_floor_decides_with_the_upper_90_percent_bound() -> None:
    sample = wilson(280, 500)
    edge = wilson(280, 500, 0.90).upper
    assert below_floor(sample, edge + 1e-6)
    assert not below_floor(sample, edge - 1e-6)


def test_bounds_that_are_certain_are_the_same_at_every_confidence() -> None:
    """Of 100 labels 55 are right, 40 wrong, and five nobody can compute."""
    worst_to_best = Interval(55 / 95, 0.55, 0.60)
    assert judge([Audit(1, worst_to_best)], floor=0.598).acts
    assert not judge([Audit(1, worst_to_best, certain=True)], floor=0.598).acts
    # All five may be right now, and all ten of before wrong.
    before = Interval(63 / 90, 0.63, 0.73)
    history = [Audit(1, before), Audit(2, worst_to_best)]
    assert drop(history) is not None
    assert drop([replace(audit, certain=True) for audit in history]) is not None
    history[0] = Audit(1, Interval(59 / 90, 0.59, 0.69))
    assert drop(history) is not None
    assert drop([replace(audit, certain=True) for audit in history]) is None


def test_a_wide_interval_is_told_with_how_many_samples_it_took() -> None:
    outcomes = [judge([Audit(1, wilson(38, 50), looks=looks)]) for looks in (1, 2, 3)]
    assert [found.outcome for found in outcomes] == [Outcome.INCONCLUSIVE] * 3
    assert outcomes[0].message.endswith("too wide to tell")
    assert "after 3 samples" in outcomes[-1].message


def test_each_of_several_looks_spends_a_third_of_the_error() -> None:
    history = audits(0.80, 0.75)
    assert judge(history).outcome is Outcome.DROPPED
    again = Audit(2, history[1].accuracy, looks=2)
    assert judge([history[0], again]).outcome is Outcome.HEALTHY


def test_without_an_audit_or_with_an_upper_bound_nothing_is_decided() -> None:
    assert judge([]).outcome is Outcome.UNKNOWN
    low = Audit(1, wilson(10, 500), upper_bound=True)
    found = judge([low])
    assert (found.outcome, found.acts) == (Outcome.UNKNOWN, False)
    assert drop([*audits(0.9), low]) is None


def test_audits_of_another_auditor_are_not_compared() -> None:
    old = Audit(1, wilson(450, 500), auditor="a")
    new = Audit(2, wilson(400, 500), auditor="b")
    assert comparable([old, new]) == [new]
    assert drop([old, new]) is None
    assert drop([old, Audit(2, new.accuracy, auditor="a")]) is not None


def test_an_audit_that_was_made_again_carries_a_series_over_a_change_of_auditor() -> None:
    old = Audit(1, wilson(350, 500), auditor="a")
    again = Audit(1, wilson(180, 200), auditor="b", again=True)
    new = Audit(2, wilson(360, 500), auditor="b")
    found = judge([old, again, new])
    assert (found.outcome, found.since, found.acts) == (Outcome.DROPPED, 1, True)
    assert found.message.endswith(
        "since iteration 1; iteration 1, judged again, had 0.900 [0.851, 0.934]"
    )
    assert judge([old, new]).outcome is Outcome.HEALTHY


@pytest.mark.parametrize(("floor", "max_drop"), [(1.5, 0.1), (-0.1, 0.1), (0.6, 10.0)])
def test_thresholds_that_are_no_shares_are_refused(floor: float, max_drop: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        judge(audits(0.8), floor, max_drop)


@given(st.lists(st.tuples(st.integers(0, 400), st.booleans()), max_size=8), st.integers(1, 3))
def test_every_history_gets_one_verdict_and_only_certain_ones_act(
    counts: list[tuple[int, bool]], looks: int
) -> None:
    history = [
        Audit(i, wilson(x, 400), looks=looks, upper_bound=bound)
        for i, (x, bound) in enumerate(counts, start=1)
    ]
    found = judge(history)
    assert isinstance(found, Verdict)
    assert found == judge(history)
    assert not found.acts or found.outcome in (Outcome.DROPPED, Outcome.BELOW_FLOOR)
    assert (found.loss is None) == (found.outcome is not Outcome.DROPPED)
