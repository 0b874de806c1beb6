"""A change of method does not begin the series anew: the labels of before are judged again."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from audit_makers import audit, auditing, found, oracle, probe, spider_pool, spiders, voted
from oracle_server import Reply, asked, legs, oracle_server, says

from rzero_core.records import Verdict, VotedProbe, VotedQuestion
from rzero_core.run import AuditorType, LabelAccuracy, Labels
from rzero_core.task import (
    LONGEST_WHY,
    MAX_RESULT_BYTES,
    EarlierLabelAudit,
    LabelAudit,
    StageResult,
    UncorrectedLabelAudit,
)
from rzero_stages import audit_archive

NOBODY, COMPUTE = auditing(AuditorType.NONE), auditing(AuditorType.PROGRAMMATIC)


def three_quarters(n: int) -> bool:
    return n % 4 > 0


def nine_tenths(n: int) -> bool:
    return n % 10 > 0


def fresh(
    count: int, is_right: Callable[[int], bool] = three_quarters, after: int = 10_000
) -> list[VotedQuestion]:
    """Questions of a later iteration, none of which one before had."""
    return spider_pool(after + count, is_right)[after:]


def second(
    root: Path,
    first: StageResult,
    pool: Sequence[VotedQuestion],
    label_accuracy: LabelAccuracy,
    probes: Sequence[VotedProbe] = (),
) -> StageResult:
    given = {"iteration": 2, "previous": first.outputs["curriculum"]}
    return audit(root, pool, label_accuracy, probes, **given)


def earlier(result: StageResult) -> EarlierLabelAudit:
    report = found(result).earlier
    assert report is not None
    return report


def probes_of(right: int, wrong: int) -> list[VotedProbe]:
    places = range(1000, 1000 + right + wrong)
    return [probe(spiders(n), str(8 * n), str(8 * n) if n < 1000 + right else "7") for n in places]


def without_earlier(report: LabelAudit) -> LabelAudit:
    return report.model_copy(update={"earlier": None})


def test_an_iteration_before_whose_manifest_is_damaged_is_no_reason_to_fail(tmp_path: Path) -> None:
    first = audit(tmp_path, spider_pool(100, nine_tenths), NOBODY)
    (Path(first.outputs["curriculum"]) / "manifest.json").write_text('{"of": "another version"}')
    report = found(second(tmp_path, first, fresh(100, nine_tenths), NOBODY))
    assert report.earlier is None and report.method == "None"


@pytest.mark.parametrize("before", ["another model", "another prompt's samples", "None"])
def test_another_oracle_judges_the_labels_of_before_as_well(tmp_path: Path, before: str) -> None:
    with oracle_server(legs) as (url, requests):
        auditors = {
            "another model": oracle(url.replace("127.0.0.1", "localhost"), 120),
            "another prompt's samples": oracle(url, 120, samples=1),
            "None": NOBODY,
        }
        first = audit(tmp_path, spider_pool(400, nine_tenths), auditors[before])
        assert found(first).earlier is None
        paid = len(requests)
        changed = second(tmp_path, first, fresh(400, nine_tenths), oracle(url, 120))
        alone = audit(tmp_path / "alone", fresh(400, nine_tenths), oracle(url, 120), iteration=2)
        answers = changed.metrics["oracleCalls"]
    report = earlier(changed)
    # 120 labels were drawn by chance from the 400 of before, of which 90 % were right.
    assert report.sample_size == 120
    assert report.lower <= 0.9 <= report.upper and 0 < report.upper - report.lower < 0.15
    # Two calls for each label, now as then.
    assert answers == 2 * 120 + 2 * 120 == len(requests) - paid - alone.metrics["oracleCalls"]
    # The estimate of now is what it would be without.
    assert without_earlier(found(changed)) == found(alone)


def test_the_same_oracle_and_estimator_judge_nothing_again(tmp_path: Path) -> None:
    with oracle_server(legs) as (url, requests):
        first = audit(tmp_path, spider_pool(60, three_quarters), oracle(url, 60))
        paid = len(requests)
        same = second(tmp_path, first, fresh(60), oracle(url, 60))
        assert len(requests) - paid == 2 * 60
    assert found(same).method == found(first).method and found(same).earlier is None


def test_when_probes_bring_another_estimator_the_old_sample_is_used_at_no_cost(
    tmp_path: Path,
) -> None:
    def errs(body: dict[str, Any]) -> Reply:
        number = int(asked(body).split()[4])
        return says("\\boxed{1}") if number % 5 == 0 else legs(body)

    with oracle_server(errs) as (url, requests):
        few, enough = probes_of(60, 9), probes_of(60, 60)
        pool = spider_pool(400, lambda n: n // 5 % 5 < 4)
        first = audit(tmp_path, pool, oracle(url, 150), few)
        paid = len(requests)
        changed = second(tmp_path, first, fresh(400), oracle(url, 150), enough)
        # 51 probes are new; those of before are answered.
        assert len(requests) - paid == 2 * (found(changed).sample_size + 51)
        given = {"iteration": 3, "previous": changed.outputs["curriculum"]}
        back = audit(tmp_path, fresh(400, after=20_000), oracle(url, 150), few, **given)
    assert found(first).method.endswith("stratified")
    assert found(changed).method.endswith("Rogan-Gladen")
    report = earlier(changed)
    # The sample of then, by the estimator of now: 80 % are right, and the oracle errs on a fifth.
    assert report.sample_size == found(first).sample_size
    assert report.lower < 0.8 < report.upper
    assert report.estimate > (found(first).estimate or 1.0) + 0.1
    assert report.uncorrected is not None
    assert report.uncorrected.estimate == pytest.approx(found(first).estimate)
    assert found(back).method == found(first).method
    assert earlier(back).sample_size == found(changed).sample_size


def test_a_hundred_labels_are_judged_again_where_the_sample_is_smaller(tmp_path: Path) -> None:
    with oracle_server(legs) as (url, _):
        first = audit(tmp_path, spider_pool(400, lambda _: True), oracle(url, 40, samples=1))
        changed = second(tmp_path, first, fresh(400, lambda _: True), oracle(url, 40))
    assert earlier(changed).sample_size == 100


def test_a_small_curriculum_is_judged_again_as_a_whole(tmp_path: Path) -> None:
    with oracle_server(legs) as (url, _):
        first = audit(tmp_path, spider_pool(40, lambda n: n > 10), NOBODY)
        changed = second(tmp_path, first, fresh(40), oracle(url))
    report = earlier(changed)
    assert (report.estimate, report.lower, report.upper) == (0.75, 0.75, 0.75)
    assert report.sample_size == 40


@pytest.mark.parametrize(("left", "judged"), [(300, 100), (420, 140), (299, None), (0, None)])
def test_the_iteration_of_now_comes_first_and_what_is_left_pays_for_the_one_before(
    tmp_path: Path, left: int, judged: int | None
) -> None:
    right = spider_pool(400, lambda _: True)
    with oracle_server(legs) as (url, requests):
        first = audit(tmp_path, right, NOBODY)
        # The sample of now takes 2 calls a label.
        limited = oracle(url, 200, max_calls=400 + left)
        changed = second(tmp_path, first, fresh(400, lambda _: True), limited)
    assert (found(changed).sample_size, found(changed).abstained) == (200, 0)
    if judged is None:
        assert found(changed).earlier is None and len(requests) == 400
    else:
        assert earlier(changed).sample_size == judged and len(requests) == 400 + 2 * judged


def test_the_tokens_that_are_left_bound_it_too(tmp_path: Path) -> None:
    right = spider_pool(400, lambda _: True)
    with oracle_server(legs) as (url, requests):
        first = audit(tmp_path, right, NOBODY)
        limited = oracle(url, 200, max_total_tokens=107 * (400 + 200))
        changed = second(tmp_path, first, fresh(400, lambda _: True), limited)
    assert found(changed).earlier is None and len(requests) == 400


def test_an_oracle_that_was_down_is_asked_about_the_labels_of_before(tmp_path: Path) -> None:
    up: list[bool] = []

    def wakes(body: dict[str, Any]) -> Reply:
        return legs(body) if up else (404, {}, b"")

    with oracle_server(wakes) as (url, _):
        first = audit(tmp_path, spider_pool(400, nine_tenths), oracle(url, 150))
        up.append(True)
        changed = second(tmp_path, first, fresh(400), oracle(url, 150))
    assert (found(first).estimate, found(first).abstained) == (None, 150)
    report = earlier(changed)
    assert report.sample_size == 150 and report.lower <= 0.9 <= report.upper


def test_an_oracle_that_falls_silent_leaves_it_unknown(tmp_path: Path) -> None:
    def silent_about_before(body: dict[str, Any]) -> Reply:
        return legs(body) if int(asked(body).split()[4]) > 10_000 else (404, {}, b"")

    with oracle_server(silent_about_before) as (url, _):
        first = audit(tmp_path, spider_pool(120, three_quarters), NOBODY)
        changed = second(tmp_path, first, fresh(120), oracle(url, 60))
    assert found(changed).sample_size == 120 and found(changed).earlier is None


def test_answers_for_the_labels_of_before_are_kept_for_the_next_attempt(tmp_path: Path) -> None:
    with oracle_server(legs) as (url, requests):
        first = audit(tmp_path, spider_pool(120, three_quarters), NOBODY)
        changed = second(tmp_path, first, fresh(120), oracle(url, 110))
        paid = len(requests)
        # The pod was lost after all answers came, before its curriculum was there.
        (Path(changed.outputs["curriculum"]) / "manifest.json").unlink()
        again = second(tmp_path, first, fresh(120), oracle(url, 110))
    assert len(requests) == paid
    assert found(again) == found(changed)


def test_the_labels_of_before_cost_nothing_a_second_time_whatever_is_left(tmp_path: Path) -> None:
    def nine_tenths_of_agreement(after: int) -> list[VotedQuestion]:
        places = range(after + 1, after + 451)
        return [voted(spiders(n), str(8 * n), 0.1 + 0.1 * (n % 9)) for n in places]

    band = {"labels": Labels(votes=10, min_agreement=0.1, max_agreement=0.9)}
    with oracle_server(legs) as (url, requests):
        first = audit(tmp_path, nine_tenths_of_agreement(0), NOBODY, **band)
        given = {"iteration": 2, "previous": first.outputs["curriculum"], **band}
        limited = oracle(url, 200, max_calls=820)
        changed = audit(tmp_path, nine_tenths_of_agreement(10_000), limited, **given)
        assert (earlier(changed).sample_size, len(requests)) == (140, 680)
        # The pod was lost; what is left would not pay for as many, nor for a hundred others.
        (Path(changed.outputs["curriculum"]) / "manifest.json").unlink()
        again = audit(tmp_path, nine_tenths_of_agreement(10_000), limited, **given)
    assert (earlier(again).sample_size, len(requests)) == (140, 680)
    assert found(again) == found(changed)


def test_a_lost_attempt_that_paid_for_a_part_is_taken_up_where_it_ended(tmp_path: Path) -> None:
    with oracle_server(legs) as (url, requests):
        first = audit(tmp_path, spider_pool(400, lambda _: True), NOBODY)
        limited = oracle(url, 200, max_calls=820)
        changed = second(tmp_path, first, fresh(400, lambda _: True), limited)
        assert (earlier(changed).sample_size, len(requests)) == (140, 680)
        # The pod was lost, and so were the last answers that it paid for.
        curriculum = Path(changed.outputs["curriculum"])
        (curriculum / "manifest.json").unlink()
        last = max(curriculum.glob("oracle/step-*"))
        lost = len((last / "oracle.jsonl").read_text().splitlines())
        shutil.rmtree(last)
        again = second(tmp_path, first, fresh(400, lambda _: True), limited)
    assert found(again) == found(changed)
    assert 0 < lost < 140 and len(requests) == 680 + 2 * lost


def test_answers_for_the_labels_of_before_count_though_the_oracle_is_gone(tmp_path: Path) -> None:
    gone: list[bool] = []

    def some_fail(body: dict[str, Any]) -> Reply:
        number = int(asked(body).split()[4])
        if gone:
            return 401, {}, b""
        return (400, {}, b"") if number > 10_000 and number % 100 == 0 else legs(body)

    with oracle_server(some_fail) as (url, requests):
        first = audit(tmp_path, spider_pool(200, nine_tenths), NOBODY)
        wanted = oracle(url, 200, samples=1)
        changed = second(tmp_path, first, fresh(200, nine_tenths), wanted)
        assert (found(changed).abstained, earlier(changed).sample_size) == (2, 200)
        (Path(changed.outputs["curriculum"]) / "manifest.json").unlink()
        gone.append(True)
        paid = len(requests)
        again = second(tmp_path, first, fresh(200, nine_tenths), wanted)
    # Only the two labels of now that got no answer were asked about again, in vain.
    assert 0 < len(requests) - paid <= 2
    assert found(again) == found(changed)


def test_the_largest_result_of_an_audit_fits_a_termination_message(tmp_path: Path) -> None:
    with oracle_server(legs) as (url, _):
        before = audit(tmp_path, spider_pool(60, three_quarters), NOBODY, probes_of(30, 30))
        all_at_once = second(tmp_path, before, fresh(60), oracle(url, 20), probes_of(30, 30))
    assert earlier(all_at_once).sample_size == 60
    # This oracle never errs: its numbers have fewer digits than others.
    said = UncorrectedLabelAudit(estimate=0.123457, lower=0.123457, upper=0.123457, skill=0.123457)
    again = earlier(all_at_once).model_copy(update={"uncorrected": said})
    text = "\\" * 500
    verdict = Verdict(
        id="q", text=text, label=text, agreement=0.5, auditor="o", right=False, truth=text
    )
    report = found(all_at_once).model_copy(
        update={
            "uncorrected": said,
            "earlier": again,
            "method": "Oracle " + "\U0001f600" * 100 + " x64 #12345678, Rogan-Gladen",
            "samples": audit_archive.samples([verdict] * 3),
        }
    )
    names = [*all_at_once.metrics, "ratersBound", "computable"]
    largest = all_at_once.model_copy(
        update={
            "label_audit": report,
            "metrics": dict.fromkeys(names, 123456.789),
            "outputs": {"curriculum": f"s3://{'r' * 1019}/{'n' * 40}-12345678/i0100/curriculum"},
        }
    )
    assert len(names) == 41
    assert len(largest.to_json().encode()) <= MAX_RESULT_BYTES
    # A reason why stands only where there is no estimate that an earlier one could be compared to.
    unknown = {"why": "w" * LONGEST_WHY, "uncorrected": None, "earlier": None}
    silent = largest.model_copy(update={"label_audit": report.model_copy(update=unknown)})
    assert len(silent.to_json().encode()) <= MAX_RESULT_BYTES


def sums(right: int, wrong: int, others: int = 0) -> list[VotedQuestion]:
    return [
        *(voted(f"{n}+{n}", str(2 * n)) for n in range(right)),
        *(voted(f"{n}+{n}+1", str(2 * n)) for n in range(wrong)),
        *(voted(spiders(n), "8") for n in range(others)),
    ]


def test_computing_the_answers_of_before_costs_nothing(tmp_path: Path) -> None:
    with oracle_server(legs) as (url, _):
        pool = sums(right=60, wrong=30, others=10)
        first = audit(tmp_path, pool, oracle(url, samples=1))
    changed = second(tmp_path, first, sums(right=45, wrong=15), COMPUTE)
    assert found(changed).estimate == 0.75
    report = earlier(changed)
    # The ten that cannot be computed may all be wrong, or all be right.
    assert (report.estimate, report.lower, report.upper) == (0.666667, 0.6, 0.7)
    assert report.sample_size == 90
    assert found(second(tmp_path / "same", changed, sums(3, 1), COMPUTE)).earlier is None


def test_nothing_computable_before_is_nothing_to_measure_from(tmp_path: Path) -> None:
    first = audit(tmp_path, sums(0, 0, others=20), NOBODY)
    assert found(second(tmp_path, first, sums(5, 5), COMPUTE)).earlier is None


@pytest.mark.parametrize("label_accuracy", [NOBODY, COMPUTE])
def test_an_iteration_that_decides_nothing_judges_nothing_again(
    tmp_path: Path, label_accuracy: LabelAccuracy
) -> None:
    first = audit(tmp_path, sums(right=60, wrong=30), COMPUTE)
    assert found(second(tmp_path, first, sums(0, 0, others=20), label_accuracy)).earlier is None


def test_a_damaged_archive_begins_the_series_anew_and_stops_nothing(tmp_path: Path) -> None:
    first = audit(tmp_path, sums(right=60, wrong=30), NOBODY)
    (Path(first.outputs["curriculum"]) / "curriculum.jsonl").write_text("{}\n")
    changed = second(tmp_path, first, sums(right=45, wrong=15), COMPUTE)
    assert (found(changed).estimate, found(changed).earlier) == (0.75, None)
