"""What `kubectl rzero` shows of runs; tests/controlplane has it ask a real API server."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fake_run import FakeRun
from rich.console import Console
from typer.testing import CliRunner

from rzero_core.guardrail import Outcome
from rzero_core.run import Stage
from rzero_core.status import (
    Condition,
    GuardrailStatus,
    IterationStatus,
    LabelAccuracyStatus,
    Phase,
    RunStatus,
    StageState,
    StageStatus,
)
from rzero_core.store import ArtifactStore
from rzero_core.task import BadConfiguration, LabelSample
from rzero_operator.accuracy_chart import numbers
from rzero_operator.connection import ClusterError, Target, context_names, status_of
from rzero_operator.kubectl import app
from rzero_operator.kubectl_logs import gone, newest, prefix
from rzero_operator.report_process import write_report
from rzero_operator.views import closing_lines, table, tree
from rzero_stages import report

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
AUDIT = LabelAccuracyStatus(
    estimate="0.71", lower="0.66", upper="0.757", sample_size=300, method="oracle"
)


def text_of(view: Any) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(view)
    return capture.get()


def run_object(name: str, created: str, **status: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "team", "creationTimestamp": created}
    return {"metadata": metadata, "spec": {"iterations": 3}, "status": status}


def pod(name: str, stage: Stage, *, iteration: int = 1, attempt: int = 1, **other: str) -> Any:
    return {
        "metadata": {
            "name": name,
            "creationTimestamp": other.get("created", "2026-03-02T10:00:00Z"),
            "labels": {
                "rzero.dev/iteration": str(iteration),
                "rzero.dev/stage": str(stage),
                "rzero.dev/attempt": str(attempt),
                "batch.kubernetes.io/job-name": other.get("job", name),
            },
            "annotations": {"batch.kubernetes.io/job-completion-index": other["index"]}
            if "index" in other
            else {},
        }
    }


def test_runs_stand_in_a_table_with_label_accuracy_its_interval_and_age() -> None:
    iterations = [IterationStatus(iteration=1, label_accuracy=AUDIT).to_dict()]
    runs = [
        run_object(
            "math",
            "2026-03-02T09:00:00Z",
            phase="Running",
            progress="2/3",
            stage="labelQuestions",
            attempt=1,
            latestScore="0.412",
            iterations=iterations,
        ),
        run_object("new", "2026-03-02T11:59:15Z"),
    ]
    heading, math, new = text_of(table(runs, NOW, namespaces=True)).splitlines()
    assert heading.split()[:3] == ["NAMESPACE", "NAME", "PHASE"]
    expected = "team math Running 2/3 labelQuestions 1 0.710 [0.660, 0.757] 0.412 3h"
    assert " ".join(math.split()) == expected
    assert new.split() == ["team", "new", "Pending", "45s"]
    assert text_of(table(runs, NOW, namespaces=False)).splitlines()[1].startswith("math ")


def test_a_status_written_by_hand_does_not_hide_the_other_runs() -> None:
    iterations = [{"iteration": 1, "labelAccuracy": {"method": "me", "estimate": "fine"}}]
    runs = [
        run_object("edited", "2026-03-02T09:00:00Z", iterations=iterations),
        run_object("math", "2026-03-02T09:00:00Z"),
    ]
    assert len(text_of(table(runs, NOW, namespaces=False)).splitlines()) == 3


def test_an_upper_bound_and_an_unknown_label_accuracy_are_not_shown_as_estimates() -> None:
    bound = AUDIT.model_copy(update={"is_upper_bound": True})
    assert numbers(bound) == "<= 0.710 [0.660, 0.757]"
    unknown = LabelAccuracyStatus(method="oracle, too few judged")
    assert numbers(unknown) == "unknown (oracle, too few judged)"


def test_the_tree_holds_label_accuracy_attempts_and_messages_that_are_not_markup() -> None:
    entry = StageStatus(
        stage=Stage.TRAIN_SOLVER,
        state=StageState.WAITING,
        attempts=2,
        failures=1,
        message="[bold]out of memory[/]",
    )
    group = IterationStatus(iteration=1, stages=[entry], label_accuracy=AUDIT)
    status = RunStatus(phase=Phase.RUNNING, iteration=1, iterations=[group])
    assert text_of(tree("math", 3, status)) == (
        "math Running · iteration 1/3\n"
        "└── iteration 1 · label accuracy 0.710 [0.660, 0.757]\n"
        "    └── trainSolver waiting · 2 attempts (1 failed) · [bold]out of memory[/]\n"
    )


def test_below_the_tree_stand_what_holds_the_run_up_and_where_the_model_lies() -> None:
    stalled = Condition(
        type="Stalled",
        status="True",
        reason="ImagePullBackOff",
        message="no such image",
        last_transition_time="2026-03-02T10:00:00Z",
    )
    trained = StageStatus(
        stage=Stage.TRAIN_SOLVER, state=StageState.DONE, outputs={"checkpoint": "s3://a/i0001"}
    )
    groups = [
        IterationStatus(iteration=1, stages=[trained]),
        IterationStatus(iteration=2),
    ]
    status = RunStatus(iterations=groups, conditions=[stalled])
    assert closing_lines(status) == [
        "Stalled True (ImagePullBackOff): no such image",
        "Solver: iteration 1, s3://a/i0001",
    ]
    best = status.model_copy(
        update={"best_iteration": 1, "best_checkpoint": "s3://a/best", "conditions": []}
    )
    assert closing_lines(best) == ["best Solver: iteration 1, s3://a/best"]


def test_canaries_stand_below_the_verdict_of_their_iteration() -> None:
    canary = "questions kept: 0.400, outside the band from 0.453 to 0.547 of 5 iterations before"
    found = GuardrailStatus(
        outcome=Outcome.HEALTHY, message="iteration 6: accuracy is 0.900", canaries=[canary]
    )
    group = IterationStatus(iteration=6, label_accuracy=AUDIT, guardrail=found)
    shown = text_of(tree("math", 9, RunStatus(iteration=6, iterations=[group]))).splitlines()
    assert "guardrail Healthy · iteration 6: accuracy is 0.900" in shown[-2]
    assert shown[-1].endswith(f"canary · {canary}")


def test_logs_are_of_the_newest_attempt_in_the_order_of_shards() -> None:
    label = Stage.LABEL_QUESTIONS
    pods = [
        pod("early", Stage.TRAIN_CHALLENGER),
        pod("ten", label, attempt=2, job="a2", index="10", created="2026-03-02T10:05:00Z"),
        pod("two", label, attempt=2, job="a2", index="2", created="2026-03-02T10:06:00Z"),
        pod("failed", label, job="a1", index="2"),
    ]
    status = RunStatus(iteration=1, stage=label)
    chosen = newest(pods, status, None)
    assert [item["metadata"]["name"] for item in chosen] == ["two", "ten"]
    assert prefix(chosen[1]) == "[i1 labelQuestions 10 a2]"
    (early,) = newest(pods, status, Stage.TRAIN_CHALLENGER)
    assert prefix(early) == "[i1 trainChallenger]"
    assert newest(pods, RunStatus(iteration=2, stage=label), None) == []


def test_a_log_that_is_gone_is_explained_by_what_the_status_knows() -> None:
    assert gone("math", RunStatus(), None).startswith("run math has not begun")
    failed = StageStatus(stage=Stage.TRAIN_SOLVER, state=StageState.FAILED, message="exit code 137")
    status = RunStatus(
        phase=Phase.FAILED,
        stage=Stage.TRAIN_SOLVER,
        iterations=[IterationStatus(iteration=1, stages=[failed])],
    )
    said = gone("math", status, None)
    assert "ttlSecondsAfterFinished" in said
    assert said.endswith("it said: exit code 137")


def test_a_status_of_another_version_is_told_in_one_line() -> None:
    with pytest.raises(ClusterError, match="another version of rzero than this command"):
        status_of(run_object("math", "2026-03-02T09:00:00Z", invented=1))


def test_without_a_kubeconfig_the_remedy_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["status", "--kubeconfig", str(tmp_path / "none")])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: no cluster: ")
    assert result.stderr.endswith("set KUBECONFIG, or --kubeconfig and --context\n")
    with pytest.raises(ClusterError, match="no cluster"):
        context_names(Target(kubeconfig=tmp_path / "none"))


def test_help_needs_neither_the_kubernetes_client_nor_the_operator() -> None:
    code = (
        "import sys, rzero_operator.kubectl\n"
        "heavy = {'kubernetes', 'kopf', 'aiohttp', 'torch', 'boto3', 'numpy'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_a_shell_completes_the_plugin_called_by_its_own_name() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rzero_operator.kubectl"],
        env=os.environ
        | {
            "_KUBECTL_RZERO_COMPLETE": "complete_bash",
            "COMP_WORDS": "kubectl-rzero re",
            "COMP_CWORD": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["resume", "retry", "report"]


def test_a_report_without_its_libraries_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jinja2.py").write_text("raise ModuleNotFoundError(\"No module named 'jinja2'\")")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    fake = FakeRun(tmp_path)
    status, _manifest = fake.write()
    with pytest.raises(BadConfiguration, match=r"No module named 'jinja2'.*rzero\[stages\]"):
        write_report(fake.run, status, tmp_path / "report.html", "--status-only")


def test_a_report_of_the_status_alone_leaves_storage_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeRun(tmp_path / "run").whole()
    wrong = LabelSample(question="1+<b>1", label="3", truth="2", right=False)
    fake.audits = {1: AUDIT.model_copy(update={"samples": [wrong]})}
    status, manifest = fake.write()

    def refuse(*_arguments: object) -> None:
        raise AssertionError("storage was asked")

    monkeypatch.setattr(ArtifactStore, "__init__", refuse)
    page = tmp_path / "report.html"
    report.write(status, manifest, page, status_only=True)

    text = page.read_text("utf-8")
    assert "Written from the run's status alone." in text
    assert "Left out: votes lie in storage, not in the status." in text
    assert "71.0\u00a0%" in text
    assert "What the auditor said of some labels" in text and "1+&lt;b&gt;1" in text
    assert "questions kept for Solver training" in text
    assert "Every number comes from the run's status.<" in text
