"""Answers that can be computed are judged for certain, and nothing is said of the others."""

from pathlib import Path

import pytest
from audit_makers import audit, auditing, found, oracle, spiders, verdicts, voted
from guarded_world import declare, play, trained
from oracle_server import oracle_server
from stage_makers import rows

from rzero_core.records import LabeledQuestion, Verdict, VotedQuestion
from rzero_core.run import AuditorType
from rzero_operator.tasks import label_accuracy_of
from rzero_stages import audit_archive

COMPUTE = auditing(AuditorType.PROGRAMMATIC)


def sums(right: int, wrong: int) -> list[VotedQuestion]:
    return [voted(f"{n}+{n}", str(2 * n)) for n in range(right)] + [
        voted(f"{n}+{n}+1", str(2 * n)) for n in range(wrong)
    ]


def test_a_curriculum_of_sums_leaves_no_doubt(tmp_path: Path) -> None:
    result = audit(tmp_path, sums(right=30, wrong=10), COMPUTE)
    report = found(result)
    assert (report.estimate, report.lower, report.upper) == (0.75, 0.75, 0.75)
    assert (report.sample_size, report.right, report.abstained) == (40, 30, 0)
    assert (report.method, report.is_upper_bound) == ("Programmatic", False)
    assert result.metrics["computable"] == result.metrics["kept"] == 40
    assert [row.right for row in verdicts(result)].count(True) == 30
    assert all(row.right == (row.truth == row.label) for row in verdicts(result))


def test_some_verdicts_are_reported_those_on_wrong_labels_first(tmp_path: Path) -> None:
    samples = found(audit(tmp_path, sums(right=30, wrong=10), COMPUTE)).samples
    assert [sample.right for sample in samples] == [False, False, True]
    wrong = samples[0]
    assert wrong.truth == str(int(wrong.label) + 1) and wrong.question.endswith("+1")


def test_what_a_terminal_would_obey_or_a_status_cannot_hold_is_not_reported(
    tmp_path: Path,
) -> None:
    text = "1+\x1b[2J\u202e1 " + "\n" * 9 + "=" + "\u00a0" * 9 + "\u4e00" * 9000
    verdict = Verdict(
        id="q", text=text, label="2", agreement=0.5, auditor="o", right=False, truth="3" * 99
    )
    (sample,) = audit_archive.samples([verdict])
    assert sample.question.startswith("1+\ufffd[2J\ufffd1 = \u4e00")
    assert len(sample.question.encode()) <= 80 and sample.question.endswith("\u2026")
    assert sample.truth == "3" * 77 + "\u2026"


def test_what_cannot_be_computed_widens_the_interval_instead_of_being_guessed(
    tmp_path: Path,
) -> None:
    pool = sums(right=30, wrong=10) + [voted(spiders(n), "8") for n in range(10)]
    result = audit(tmp_path, pool, COMPUTE)
    report = found(result)
    assert (report.estimate, report.sample_size, report.abstained) == (0.75, 40, 10)
    assert report.lower is not None and report.upper is not None
    # All ten wrong, or all ten right.
    assert report.lower <= 30 / 50 and report.upper >= 40 / 50
    assert result.metrics["labelAccuracyLow"] == pytest.approx(0.6)
    assert result.metrics["labelAccuracyHigh"] == pytest.approx(0.8)
    # The series goes on although the covered share is another one.
    assert report.method == "Programmatic"


def test_what_may_be_right_after_all_does_not_make_the_guardrail_act(tmp_path: Path) -> None:
    pool = sums(right=55, wrong=40) + [voted(spiders(n), "8") for n in range(5)]
    report = found(audit(tmp_path, pool, COMPUTE))
    assert (report.lower, report.upper) == (0.55, 0.6)
    # Of a sample this would be 0.597 at most, with 90 % confidence.
    world = declare("Stop", floor=0.599)
    play(world, {1: report, 2: report, 3: report})
    assert trained(world) == [1, 2, 3]


def test_nothing_computable_is_unknown(tmp_path: Path) -> None:
    report = found(audit(tmp_path, [voted(spiders(n), "8") for n in range(10)], COMPUTE))
    assert (report.estimate, report.sample_size, report.abstained) == (None, 0, 10)


def test_an_oracle_that_does_not_answer_is_replaced_where_most_can_be_computed(
    tmp_path: Path,
) -> None:
    with oracle_server(lambda _: (404, {}, b"")) as (url, _):
        most = [*sums(right=5, wrong=0), voted(spiders(1), "8")]
        report = found(audit(tmp_path / "most", most, oracle(url)))
        assert (report.method, report.estimate) == ("Programmatic", 1.0)
        few = sums(right=1, wrong=0) + [voted(spiders(n), "8") for n in range(5)]
        report = found(audit(tmp_path / "few", few, oracle(url)))
        assert (report.estimate, report.abstained) == (None, 6)


def test_a_short_curriculum_is_not_audited_for_another_round_replaces_it(tmp_path: Path) -> None:
    result = audit(tmp_path, sums(3, 0), COMPUTE, minimum=8, last_round=False)
    assert result.metrics["short"] == 1.0
    assert result.label_audit is None
    assert label_accuracy_of(result) is None


def test_an_audit_does_not_change_the_curriculum(tmp_path: Path) -> None:
    kinds = (AuditorType.NONE, AuditorType.PROGRAMMATIC)
    first, second = (audit(tmp_path / kind, sums(9, 3), auditing(kind)) for kind in kinds)
    assert rows(first, "curriculum", LabeledQuestion) == rows(second, "curriculum", LabeledQuestion)


def test_the_status_holds_decimal_strings_and_leaves_out_what_is_unknown(tmp_path: Path) -> None:
    status = label_accuracy_of(audit(tmp_path / "known", sums(2, 1), COMPUTE))
    assert status is not None
    assert (status.estimate, status.lower, status.sample_size) == ("0.666667", "0.666667", 3)
    status = label_accuracy_of(audit(tmp_path / "unknown", [voted("why?", "8")], COMPUTE))
    assert status is not None
    assert status.to_dict() == {
        "sampleSize": 0,
        "abstained": 1,
        "method": "Programmatic",
        "isUpperBound": False,
        "samples": [],
    }
