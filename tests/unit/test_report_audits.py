"""What the report says of audited labels and of the guardrail."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from fake_run import FakeRun, voted
from report_page import Page, page_of

from rzero_core.guardrail import Outcome
from rzero_core.records import LabeledQuestion, Question, Verdict
from rzero_core.run import Stage
from rzero_core.status import (
    GuardrailAction,
    GuardrailStatus,
    LabelAccuracyStatus,
)


def audited(
    root: Path,
    *,
    label: str = "red",
    metrics: Mapping[str, float] | None = None,
    **changes: str | bool | None,
) -> Page:
    """The page of a run whose oracle found one label right, one wrong, and abstained once."""
    fake = FakeRun(root, iterations=1)
    texts = ["Name a colour.", "Name a river.", "Name a king."]
    fake.finish_shards(1, [[voted(text, [label] * 5 + [None] * 5) for text in texts]])
    rows = [
        LabeledQuestion(id=Question.of(t).id, text=t, label=label, agreement=0.5) for t in texts
    ]
    says = [{"right": True, "truth": "red"}, {"right": False, "truth": "Rhine"}, {"why": "down"}]
    verdicts = [
        Verdict(**row.model_dump(), auditor="x", **verdict)  # type: ignore[arg-type]
        for row, verdict in zip(rows, says, strict=True)
    ]
    files = {"curriculum.jsonl": rows, "audit.jsonl": verdicts}
    reported = {"kept": 3} if metrics is None else metrics
    fake.finish(1, Stage.BUILD_CURRICULUM, files, reported, seconds=1)
    known = {"estimate": "0.5", "lower": "0.1", "upper": "0.9"} | changes
    fake.audits[1] = LabelAccuracyStatus(
        sample_size=2,
        abstained=1,
        method="Oracle big-model x3, stratified",
        **known,  # type: ignore[arg-type]
    )
    return page_of(fake)


def test_an_auditors_estimate_stands_with_its_interval_its_method_and_the_floor(
    tmp_path: Path,
) -> None:
    text = audited(tmp_path).text
    assert "Share of right labels: 50.0 % in iteration 1 (judged for 2 of 3 labels)" in text
    assert "50.0 % 10.0\u201390.0 2 judged" in text
    assert "Pseudo-label accuracy" in text and "True pseudo-label accuracy" not in text
    said = "Judged for 2 of 3 labels in iteration 1 by Oracle big-model x3, stratified."
    assert said in text and "floor, 60.0 %" in text


def test_an_audit_without_the_metrics_beside_it_is_still_shown(tmp_path: Path) -> None:
    assert "judged for 2 of 3 labels" in audited(tmp_path, metrics={}).text


def test_the_auditors_verdicts_stand_beside_the_votes(tmp_path: Path) -> None:
    text = audited(tmp_path).text
    assert "✓ right" in text
    assert "✗ wrong , the oracle answers Rhine" in text
    assert "the auditor abstained: down" in text
    # The answer is that there is none, and a label that says so too is wrong for the auditor.
    assert "✗ wrong , the oracle answers Rhine" in audited(tmp_path / "b", label="Rhine").text


@pytest.mark.parametrize(
    "changes", [{"is_upper_bound": True}, {"estimate": None, "lower": None, "upper": None}]
)
def test_an_upper_bound_or_nothing_is_not_shown_as_accuracy(
    tmp_path: Path, changes: dict[str, str | bool | None]
) -> None:
    text = audited(tmp_path, **changes).text
    assert "no right answer can be computed here" in text
    assert "Share of right labels:" not in text


def test_what_the_guardrail_did_is_told_and_what_was_right_is_not(tmp_path: Path) -> None:
    fake = FakeRun(tmp_path, iterations=2)
    healthy = GuardrailStatus(outcome=Outcome.HEALTHY, message="iteration 1: accuracy is 0.900")
    low = GuardrailStatus(
        outcome=Outcome.BELOW_FLOOR,
        message="iteration 2: accuracy is 0.500, below the floor of 0.60",
        acts=True,
        action=GuardrailAction.STOPPED,
        canaries=["mean agreement: 0.900, outside the band"],
    )
    fake.verdicts = {1: healthy, 2: low}
    for iteration in (1, 2):
        fake.note(iteration, Stage.BUILD_CURRICULUM, "", {"kept": 30}, 60)
    text = page_of(fake).text
    assert "The guardrail stopped the run before the Solver was trained: iteration 2: " in text
    assert "below the floor of 0.60" in text
    assert "accuracy is 0.900" not in text
    assert "Canary: iteration 2: mean agreement: 0.900, outside the band." in text
