"""The alert rules: promtool's tests, and that nothing which belongs to a rule is missing."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from metric_makers import fed_metrics
from prometheus_client.parser import text_string_to_metric_families

from rzero_stages import live_metrics

ROOT = Path(__file__).parents[2]
RULES = ROOT / "charts/rzero/files/rules.yaml"
TESTS = ROOT / "tests/alerts/rules_test.yaml"

DEMANDED = {
    "RZeroPseudoLabelAccuracyBelowFloor",
    "RZeroPseudoLabelAccuracyDropped",
    "RZeroPseudoLabelAccuracyMissing",
    "RZeroPseudoLabelSampleTooSmall",
    "RZeroRunFailed",
    "RZeroRunPaused",
    "RZeroRunStalled",
    "RZeroQuestionYieldLow",
    "RZeroAuditorAbstentionHigh",
    "RZeroOperatorDown",
    "RZeroWorkqueueStuck",
    "RZeroStagePreemptionsHigh",
    "RZeroReconcileErrors",
}


def rules(kind: str) -> list[dict[str, Any]]:
    """The rules that have the key `kind`: alert or record."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


def promtool(*arguments: str | Path) -> str:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"(?<![\w:])rzero_\w+", expression))


STAGE_PODS = {
    *(series.name for series in live_metrics.SERIES),
    live_metrics.PROGRESS,
    live_metrics.GPU_MEMORY,
    f"{live_metrics.STORAGE_REQUESTS}_total",
    f"{live_metrics.STORAGE_DURATION}_bucket",
}


def exported() -> set[str]:
    """Names that the operator and the stage pods export."""
    families = text_string_to_metric_families(fed_metrics().render().decode())
    return {sample.name for family in families for sample in family.samples} | STAGE_PODS


def test_promtool_finds_every_alert_firing_and_silent_as_its_tests_say() -> None:
    assert "SUCCESS" in promtool("test", "rules", TESTS)


def test_all_alerts_are_there_and_each_is_tested_on_both_sides_of_its_threshold() -> None:
    alerts = {rule["alert"] for rule in rules("alert")}
    assert alerts == DEMANDED
    cases = [
        case
        for test in yaml.safe_load(TESTS.read_text())["tests"]
        for case in test["alert_rule_test"]
    ]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == alerts
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == alerts


def test_the_tests_would_notice_another_threshold(tmp_path: Path) -> None:
    text = RULES.read_text()
    for old, new in (("> 0.5", "> 0.6"), ("< 100\n", "< 90\n"), ("> 300", "> 320")):
        assert old in text
        (tmp_path / "rules.yaml").write_text(text.replace(old, new))
        tests = TESTS.read_text().replace("../../charts/rzero/files/rules.yaml", "rules.yaml")
        (tmp_path / "rules_test.yaml").write_text(tests)
        with pytest.raises(AssertionError, match="FAILED"):
            promtool("test", "rules", tmp_path / "rules_test.yaml")


@pytest.mark.parametrize("rule", rules("alert"), ids=lambda rule: rule["alert"])
def test_an_alert_says_how_grave_it_is_what_happened_and_what_to_do(rule: dict[str, Any]) -> None:
    name, annotations = rule["alert"], rule["annotations"]
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["for"]
    assert set(annotations) == {"summary", "description", "runbook_url"}
    assert annotations["runbook_url"] == f"docs/runbooks/{name}.md"
    page = (ROOT / annotations["runbook_url"]).read_text()
    headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    assert headings == [name, "What it means", "How to see it", "What to do"]
    assert "```" in page.partition("## How to see it")[2], "no command to see it by"


def test_there_is_no_runbook_without_an_alert() -> None:
    pages = {path.stem for path in (ROOT / "docs/runbooks").glob("RZero*.md")}
    assert pages == DEMANDED


def test_every_metric_in_the_rules_is_exported() -> None:
    every = rules("alert") + rules("record")
    named = {name for rule in every for name in metrics_in(rule["expr"])}
    recorded = {rule["record"] for rule in rules("record")}
    assert named - exported() == set()
    used = " ".join(rule["expr"] for rule in rules("alert"))
    assert {name for name in recorded if name not in used} == set()


def test_every_metric_in_the_dashboard_is_exported_or_recorded() -> None:
    dashboard = json.loads((ROOT / "charts/rzero/files/dashboards/rzero.json").read_text())
    targets = [target for panel in dashboard["panels"] for target in panel.get("targets", [])]
    queries = [target["expr"] for target in targets]
    named = {name for query in queries for name in metrics_in(query)}
    assert named - exported() == set()
    assert STAGE_PODS - named == set()
    recorded = {name for query in queries for name in re.findall(r"\brun:rzero_\w+:\w+", query)}
    assert recorded <= {rule["record"] for rule in rules("record")}
