"""What a terminal shows of label accuracy: a chart with the floor, and some verdicts."""

from rich.console import Console

from rzero_core.guardrail import Outcome
from rzero_core.run import Stage
from rzero_core.status import (
    GuardrailStatus,
    IterationStatus,
    LabelAccuracyStatus,
    RunStatus,
    StageState,
    StageStatus,
)
from rzero_core.task import LabelSample
from rzero_operator.views import closing_lines, overview


def status_of(*reports: LabelAccuracyStatus | None) -> RunStatus:
    groups = [
        IterationStatus(iteration=number, label_accuracy=report)
        for number, report in enumerate(reports, start=1)
    ]
    return RunStatus(iteration=len(reports), iterations=groups)


def lines_of(status: RunStatus, floor: float = 0.6) -> list[str]:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(overview("math", 3, floor, status))
    return [line.rstrip() for line in captured.get().splitlines()]


def report(estimate: str, lower: str, upper: str, **more: object) -> LabelAccuracyStatus:
    fields = {"estimate": estimate, "lower": lower, "upper": upper, "sampleSize": 300}
    return LabelAccuracyStatus.parse(fields | {"method": "Oracle m", **more})


def test_each_iteration_has_its_interval_and_the_floor_on_one_scale() -> None:
    status = status_of(report("0.79", "0.74", "0.83"), report("0.5", "0.45", "0.55"))
    chart = lines_of(status)[4:]
    assert chart == [
        "label accuracy",
        "iteration 1  ························┊·····──●─·······  0.790 [0.740, 0.830]",
        "iteration 2  ··················──●──·┊················  0.500 [0.450, 0.550]",
        "             0 %, floor 60 %                     100 %",
    ]


def test_an_upper_bound_has_no_estimate_and_what_is_unknown_no_line() -> None:
    chart = lines_of(status_of(report("0.5", "0.4", "0.6", isUpperBound=True), None))[4:]
    assert chart[1:] == [
        "iteration 1  ────────────────────────┊················  <= 0.500 [0.400, 0.600]",
        "             0 %, floor 60 %                     100 %",
    ]
    assert len(lines_of(status_of(LabelAccuracyStatus(method="None")))) == 2


def test_what_was_judged_again_stands_above_what_it_is_compared_with() -> None:
    again = {"estimate": "0.7", "lower": "0.65", "upper": "0.75", "sampleSize": 100}
    status = status_of(report("0.9", "0.9", "0.9"), report("0.5", "0.45", "0.55", earlier=again))
    assert [line.split("  ")[0] for line in lines_of(status)[5:8]] == [
        "iteration 1",
        "iteration 1 again",
        "iteration 2",
    ]


def test_verdicts_of_the_newest_audit_are_shown_as_text_never_as_markup() -> None:
    wrong = LabelSample(question="[red]1+1", label="3", truth="2", right=False)
    right = LabelSample(question="2+2", label="4", right=True)
    samples = [sample.to_dict() for sample in (wrong, right)]
    newest = report("0.5", "0.4", "0.6", samples=samples)
    assert lines_of(status_of(report("0.9", "0.8", "0.95"), newest))[-3:] == [
        "some verdicts on the newest labels",
        "wrong · [red]1+1  label 3, auditor 2",
        "right · 2+2  label 4",
    ]


def test_a_label_in_latex_keeps_all_its_backslashes() -> None:
    sample = LabelSample(question="\\sqrt[n]{x} \\[b", label="\\", truth="x\\", right=False)
    newest = report("0.5", "0.4", "0.6", samples=[sample.to_dict()])
    assert lines_of(status_of(newest))[-1] == "wrong · \\sqrt[n]{x} \\[b  label \\, auditor x\\"


def test_nothing_that_a_status_holds_is_obeyed_by_the_terminal() -> None:
    wild = "\x1b]0;title\x07\x1b[2J\x9b2J\u202e"
    sample = LabelSample(question=wild, label=wild, truth=wild, right=False)
    found = LabelAccuracyStatus(method=wild, samples=[sample])
    entry = StageStatus(
        stage=Stage.EVALUATE, state=StageState.DONE, message=wild, metrics={f"{wild}.mean": "1"}
    )
    verdict = GuardrailStatus(outcome=Outcome.UNKNOWN, message=wild, canaries=[wild])
    group = IterationStatus(iteration=1, stages=[entry], label_accuracy=found, guardrail=verdict)
    status = RunStatus(iterations=[group], best_checkpoint=wild)
    shown = "".join([*lines_of(status), *closing_lines(status)])
    assert shown.count("title") == 9 and shown.isprintable()
