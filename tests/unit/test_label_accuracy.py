"""Tests of the intervals of label accuracy from checked samples, and of what iterations report."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest
from statsmodels.stats.proportion import (  # type: ignore[import-untyped]
    confint_proportions_2indep,
    proportion_confint,
)

from rzero_core import label_accuracy as la
from rzero_core.intervals import at_confidence, weighted_sum

SIZES = st.integers(1, 2000)
SHARES = st.floats(0, 1)


@st.composite
def samples(draw: st.DrawFn) -> tuple[int, int]:
    n = draw(SIZES)
    return draw(st.integers(0, n)), n


@given(samples())
def test_wilson_is_what_statsmodels_computes(sample: tuple[int, int]) -> None:
    x, n = sample
    low, high = proportion_confint(x, n, 0.05, "wilson")
    found = la.wilson(x, n)
    assert found == pytest.approx((x / n, low, high), abs=1e-9)


@given(samples())
def test_wilson_holds_its_estimate_and_stays_within_0_and_1(sample: tuple[int, int]) -> None:
    found = la.wilson(*sample)
    assert 0 <= found.lower <= found.estimate <= found.upper <= 1


@given(samples())
def test_wilson_grows_with_the_successes(sample: tuple[int, int]) -> None:
    x, n = sample
    assume(x < n)
    few, more = la.wilson(x, n), la.wilson(x + 1, n)
    assert few.lower < more.lower
    assert few.upper < more.upper


@given(samples(), st.integers(2, 10))
def test_wilson_is_narrower_with_more_checks(sample: tuple[int, int], times: int) -> None:
    x, n = sample
    assert la.wilson(x * times, n * times).width < la.wilson(x, n).width


@given(samples())
def test_wilson_of_wrong_labels_mirrors_that_of_right_ones(sample: tuple[int, int]) -> None:
    x, n = sample
    right, wrong = la.wilson(x, n), la.wilson(n - x, n)
    assert (1 - wrong.upper, 1 - wrong.lower) == pytest.approx((right.lower, right.upper))


def test_the_papers_label_accuracies_have_the_published_intervals() -> None:
    assert la.wilson(158, 200) == pytest.approx((0.79, 0.728, 0.841), abs=5e-4)
    assert la.newcombe(158, 200, 138, 200)[1:] == pytest.approx((0.014, 0.184), abs=5e-4)
    assert la.newcombe(138, 200, 126, 200)[1:] == pytest.approx((-0.033, 0.151), abs=5e-4)


@pytest.mark.parametrize("n", [50, 100, 300])
@pytest.mark.parametrize("p", [0.3, 0.5, 0.7, 0.8, 0.9, 0.98])
def test_wilson_holds_the_truth_in_at_least_92_of_100_samples(n: int, p: float) -> None:
    intervals = [la.wilson(x, n) for x in range(n + 1)]
    held = [x for x, found in enumerate(intervals) if found.lower <= p <= found.upper]
    assert binom.pmf(held, n, p).sum() > 0.92


def test_all_right_or_all_wrong_leaves_doubt_on_one_side_only() -> None:
    none, every = la.wilson(0, 50), la.wilson(50, 50)
    assert none.lower == 0.0
    assert none.upper > 0.05
    assert every.upper == 1.0
    assert every.lower < 0.95


def test_a_complete_check_leaves_no_doubt_and_a_large_part_less_of_it() -> None:
    assert la.wilson(70, 100, population=100) == (0.7, 0.7, 0.7)
    assert la.wilson(70, 100, population=120).width < la.wilson(70, 100).width / 2


@pytest.mark.parametrize(
    ("x", "n", "message"),
    [
        (0, 0, "unknown"),
        (0, -1, "unknown"),
        (0, math.nan, "unknown"),
        (-1, 10, "from 0 to n = 10"),
        (11, 10, "from 0 to n = 10"),
        (math.nan, 10, "from 0 to n = 10"),
    ],
)
def test_counts_that_contradict_are_refused(x: float, n: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        la.wilson(x, n)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0, math.nan])
def test_a_confidence_outside_0_and_1_is_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match=r"for example 0\.95"):
        la.wilson(5, 10, confidence)


def test_a_population_smaller_than_its_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="less than the sample"):
        la.wilson(5, 10, population=9)


@given(samples(), samples())
def test_newcombe_is_what_statsmodels_computes(a: tuple[int, int], b: tuple[int, int]) -> None:
    low, high = confint_proportions_2indep(*a, *b, method="newcomb", compare="diff")
    found = la.newcombe(*a, *b)
    assert found == pytest.approx((a[0] / a[1] - b[0] / b[1], low, high), abs=1e-9)


@given(samples(), samples())
def test_a_difference_changes_sign_with_its_order(a: tuple[int, int], b: tuple[int, int]) -> None:
    one, other = la.newcombe(*a, *b), la.newcombe(*b, *a)
    assert (-other.estimate, -other.upper, -other.lower) == pytest.approx(one)
    assert one.lower <= one.estimate <= one.upper


@given(samples(), st.floats(0.5, 0.999))
def test_a_reported_wilson_interval_gives_any_other_confidence(
    sample: tuple[int, int], confidence: float
) -> None:
    found = at_confidence(la.wilson(*sample), confidence)
    assert found == pytest.approx(la.wilson(*sample, confidence), abs=1e-6)


def test_certain_bounds_hold_at_any_confidence_and_their_margins_add_up() -> None:
    worst_to_best = la.Interval(0.75, 0.6, 0.8)
    for confidence in (0.5, 0.9, 0.99):
        assert at_confidence(worst_to_best, confidence, certain=True) == worst_to_best
    assert at_confidence(worst_to_best, 0.9).width < worst_to_best.width
    before = la.Interval(0.9, 0.85, 0.95)
    assert la.difference(before, worst_to_best, certain=True) == pytest.approx((0.15, 0.05, 0.35))
    assert la.difference(before, worst_to_best).lower > 0.05


@pytest.mark.parametrize(
    "narrow", [(0.5, 0.5, 0.500000001), (0.3, 0.3 - 1e-13, 0.3), (0.0, 0.0, 1e-200)]
)
def test_an_interval_too_narrow_to_give_a_sample_away_stays_as_it_is(
    narrow: tuple[float, float, float],
) -> None:
    assert at_confidence(la.Interval(*narrow), 0.9) == la.Interval(*narrow)


def test_a_weighted_sum_has_the_margins_of_its_parts() -> None:
    part = la.wilson(80, 100)
    assert weighted_sum([(1.0, part)]) == pytest.approx(part)
    assert weighted_sum([(0.5, part), (0.5, part)]).width == pytest.approx(part.width / 2**0.5)


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_the_exact_binomial_test(b: int, c: int) -> None:
    assert la.mcnemar(b, c) == la.mcnemar(c, b)
    if b + c:
        assert la.mcnemar(b, c) == pytest.approx(binomtest(b, b + c).pvalue)
    else:
        assert la.mcnemar(b, c) == 1.0


def test_mcnemar_refuses_negative_counts() -> None:
    with pytest.raises(ValueError, match="are counts"):
        la.mcnemar(-1, 3)


@given(st.lists(st.integers(0, 500), min_size=1, max_size=11), st.integers(1, 600))
def test_an_allocation_uses_the_whole_sample_and_reaches_every_stratum(
    sizes: list[int], n: int
) -> None:
    filled = sum(size > 0 for size in sizes)
    assume(n >= filled)
    counts = la.allocate(sizes, n)
    assert sum(counts) == min(n, sum(sizes))
    assert all(0 <= count <= size for count, size in zip(counts, sizes, strict=True))
    least = min(20, n // filled) if filled else 0
    assert all(count >= min(size, least) for count, size in zip(counts, sizes, strict=True))


def test_an_allocation_is_proportional_where_the_minimum_does_not_bind() -> None:
    assert la.allocate([1000, 600, 400, 10], 200) == [95, 57, 38, 10]


def test_a_sample_that_cannot_reach_every_stratum_is_refused() -> None:
    with pytest.raises(ValueError, match="merge strata"):
        la.allocate([10, 10, 10], 2)
    with pytest.raises(ValueError, match="are counts"):
        la.allocate([10, -1], 2)


def test_strata_weigh_as_much_as_they_hold() -> None:
    found = la.stratified([la.Stratum(9000, 100, 90), la.Stratum(1000, 100, 10)])
    assert found.estimate == pytest.approx(0.9 * 0.9 + 0.1 * 0.1)
    assert found.lower < found.estimate < found.upper


def test_one_stratum_is_nearly_the_plain_sample() -> None:
    found = la.stratified([la.Stratum(1_000_000, 300, 210)])
    assert found == pytest.approx(la.wilson(210, 300), abs=1e-3)


def test_strata_that_differ_narrow_the_interval() -> None:
    apart = la.stratified([la.Stratum(500, 100, 99), la.Stratum(500, 100, 1)])
    assert apart.width < la.wilson(100, 200).width / 2


@given(st.lists(samples(), min_size=1, max_size=6), st.integers(1, 5))
def test_a_stratified_interval_holds_its_estimate_and_mirrors(
    found: list[tuple[int, int]], times: int
) -> None:
    right = la.stratified([la.Stratum(n * times, n, x) for x, n in found])
    wrong = la.stratified([la.Stratum(n * times, n, n - x) for x, n in found])
    assert 0 <= right.lower <= right.estimate <= right.upper <= 1
    assert (1 - wrong.upper, 1 - wrong.lower) == pytest.approx((right.lower, right.upper))
    assert times > 1 or right.width == 0


@pytest.mark.parametrize(
    "stratum", [la.Stratum(10, 0, 0), la.Stratum(10, 11, 3), la.Stratum(10, 5, 6)]
)
def test_a_stratum_without_a_check_or_with_impossible_counts_is_refused(
    stratum: la.Stratum,
) -> None:
    with pytest.raises(ValueError, match="checked"):
        la.stratified([la.Stratum(100, 20, 10), stratum])


def test_an_empty_curriculum_has_no_accuracy() -> None:
    with pytest.raises(ValueError, match="unknown"):
        la.stratified([la.Stratum(0, 0, 0)])


def test_rogan_gladen_corrects_what_the_oracle_misses() -> None:
    # 70 % right labels: an oracle with s = 0.9 and c = 0.8 agrees with 69 of 100.
    found = la.rogan_gladen(690, 1000, 900, 1000, 800, 1000)
    assert found.estimate == pytest.approx(0.7)
    assert found.lower < 0.7 < found.upper
    assert found.width > la.wilson(690, 1000).width


def test_a_faultless_oracle_that_is_well_known_needs_no_correction() -> None:
    found = la.rogan_gladen(210, 300, 10**7, 10**7, 10**7, 10**7)
    assert found == pytest.approx(la.wilson(210, 300), abs=2e-3)


@given(samples(), st.integers(5, 200), st.integers(5, 200), SHARES, SHARES)
def test_rogan_gladen_holds_its_estimate_and_mirrors(
    sample: tuple[int, int], right: int, wrong: int, s: float, c: float
) -> None:
    (x, n), a, b = sample, round(right * s), round(wrong * c)
    assume(a / right + b / wrong > 1)
    found = la.rogan_gladen(x, n, a, right, b, wrong)
    assert 0 <= found.lower <= found.estimate <= found.upper <= 1
    # No sample proves for certain what an auditor that errs says of it.
    assert found.width > 0
    mirror = la.rogan_gladen(n - x, n, b, wrong, a, right)
    assert (1 - mirror.upper, 1 - mirror.lower) == pytest.approx(
        (found.lower, found.upper), abs=1e-6
    )


def test_more_agreement_than_right_labels_explain_is_no_proof_that_all_are_right() -> None:
    # On probes it agreed with 70 % of right labels, of the curriculum with 98 % of all.
    found = la.rogan_gladen(294, 300, 70, 100, 100, 100)
    assert found == (1.0, pytest.approx(0.867, abs=1e-3), 1.0)
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        agreed = rng.binomial(300, 0.98 * 0.8 + 0.02 * 0.2)
        hits, misses = rng.binomial(100, 0.8, 2)
        accuracy = la.rogan_gladen(agreed, 300, hits, 100, misses, 100)
        held += accuracy.lower <= 0.98 <= accuracy.upper
    assert held > 940


def test_an_oracle_that_hardly_knows_more_than_chance_tells_nothing() -> None:
    assert la.rogan_gladen(50, 100, 26, 50, 25, 50)[1:] == (0.0, 1.0)


@pytest.mark.parametrize("probes", [(50, 100, 50, 100), (10, 100, 20, 100), (100, 100, 0, 50)])
def test_an_oracle_that_knows_no_more_than_chance_is_refused(
    probes: tuple[int, int, int, int],
) -> None:
    with pytest.raises(ValueError, match="unusable"):
        la.rogan_gladen(50, 100, *probes)


@pytest.mark.parametrize(
    "counts",
    [(5, 0, 9, 10, 9, 10), (5, 10, 11, 10, 9, 10), (5, 10, 9, 10, 0, 0), (-1, 10, 9, 10, 9, 10)],
)
def test_rogan_gladen_refuses_counts_that_contradict(counts: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must lie from 0"):
        la.rogan_gladen(*counts)


def test_abstentions_widen_the_interval_downwards_only() -> None:
    sure = la.audited([la.AuditedStratum(1000, 80, 20)])
    unsure = la.audited([la.AuditedStratum(1000, 80, 20, abstained=50)])
    assert unsure.accuracy.estimate == sure.accuracy.estimate
    assert unsure.accuracy.upper == sure.accuracy.upper
    assert unsure.accuracy.lower < la.wilson(80, 150).estimate < sure.accuracy.lower
    assert (unsure.sample_size, unsure.abstained) == (100, 50)


def test_a_stratum_of_abstentions_is_judged_with_its_neighbor() -> None:
    found = la.audited([la.AuditedStratum(10, 0, 0, 3), la.AuditedStratum(90, 30, 10, 0)])
    assert found.accuracy.estimate == pytest.approx(0.75)
    assert found.sample_size == 40


def test_an_oracle_that_never_answers_leaves_accuracy_unknown() -> None:
    with pytest.raises(ValueError, match="unknown"):
        la.audited([la.AuditedStratum(100, 0, 0, 30)])


def test_probes_correct_the_oracle_and_name_the_method() -> None:
    strata = [la.AuditedStratum(1000, 69, 31)]
    plain = la.audited(strata)
    corrected = la.audited(strata, la.Probes(90, 100, 80, 100))
    assert plain.method is la.Method.STRATIFIED
    assert corrected.method is la.Method.ROGAN_GLADEN
    assert corrected.accuracy.estimate == pytest.approx(0.7)
    assert la.audited(strata, la.Probes(9, 9, 3, 3)).method is la.Method.STRATIFIED


def test_an_unusable_oracle_is_named_with_its_remedy() -> None:
    with pytest.raises(la.AuditorUnusableError, match="stronger model"):
        la.audited([la.AuditedStratum(1000, 69, 31)], la.Probes(60, 100, 60, 100))


def test_the_guardrail_needs_nothing_that_the_operators_image_lacks() -> None:
    code = (
        "import sys, rzero_core.guardrail;"
        "print(*{'numpy', 'scipy', 'pydantic'} & {name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
