"""The command `rzero`, with a stage that obeys the process protocol in milliseconds."""

import io
import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from rzero_core.run import CoEvolutionRun, Stage
from rzero_core.status import Phase, RunStatus
from rzero_operator.cli import app
from rzero_operator.decision import Event
from rzero_operator.folder import RunFolder
from rzero_operator.manifests import load
from rzero_operator.process import Progress
from rzero_operator.tasks import Step
from rzero_operator.terminal import LiveDisplay

MANIFEST = """\
apiVersion: rzero.dev/v1alpha1
kind: CoEvolutionRun
metadata: {name: fake}
spec:
  model: model
  iterations: 1
  storage: {uri: runs}
  questions: {shards: 2}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a manifest, a model and a package of stages that only pretends."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RZERO_FAKE", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "rzero_stages").mkdir()
    (tmp_path / "rzero_stages" / "__init__.py").touch()
    fake = Path(__file__).with_name("fake_stage.py")
    shutil.copy(fake, tmp_path / "rzero_stages" / "__main__.py")
    (tmp_path / "run.yaml").write_text(MANIFEST)
    return tmp_path


def rzero(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_run_carries_out_a_manifest_and_says_when_there_is_nothing_to_do(place: Path) -> None:
    first = rzero("run", "run.yaml")
    assert first.exit_code == 0
    assert first.stdout == "run fake succeeded; `rzero report run.yaml` shows it\n"
    assert "iteration 1, trainSolver: done" in first.stderr
    assert "\x1b" not in first.stderr
    second = rzero("run", "run.yaml")
    assert second.exit_code == 0
    assert "had already succeeded" in second.stdout


LOW = {"estimate": 0.4, "lower": 0.35, "upper": 0.45, "sampleSize": 400, "method": "Programmatic"}


def guarded(place: Path, on_violation: str) -> None:
    (place / "audit.json").write_text(json.dumps(LOW))
    limits = f"  labelAccuracy: {{auditor: {{type: Programmatic}}, onViolation: {on_violation}}}\n"
    (place / "run.yaml").write_text(MANIFEST + limits)


def test_a_paused_run_says_why_and_how_it_goes_on(place: Path) -> None:
    guarded(place, "Pause")
    for _ in range(2):
        paused = rzero("run", "run.yaml")
        assert paused.exit_code == 75
        assert (
            "paused before trainSolver: iteration 1: accuracy is 0.400"
            in (paused.stderr.splitlines()[-1])
        )
        assert "`rzero run --resume run.yaml`" in paused.stderr
    shown = rzero("status", "run.yaml").stdout
    assert "guardrail BelowFloor · paused · iteration 1: accuracy is 0.400" in shown
    resumed = rzero("run", "--resume", "run.yaml")
    assert (resumed.exit_code, resumed.stdout) == (
        0,
        "run fake succeeded; `rzero report run.yaml` shows it\n",
    )


def test_a_stopped_run_says_why_names_its_best_checkpoint_and_goes_on_when_told(
    place: Path,
) -> None:
    guarded(place, "Stop")
    stopped = rzero("run", "run.yaml")
    assert stopped.exit_code == 0
    assert "run fake was stopped before trainSolver: iteration 1: " in stopped.stdout
    assert "best checkpoint: model" in stopped.stdout
    assert "`rzero run --resume run.yaml` goes on anyway" in stopped.stdout
    again = rzero("run", "run.yaml")
    assert "run fake was stopped before trainSolver" in again.stdout
    resumed = rzero("run", "--resume", "run.yaml")
    assert resumed.stdout == "run fake succeeded; `rzero report run.yaml` shows it\n"
    assert "iteration 1, trainSolver: done" in resumed.stderr


def test_quiet_says_only_how_it_ended(place: Path) -> None:
    result = rzero("run", "run.yaml", "--quiet")
    assert result.stderr == ""
    assert "succeeded" in result.stdout


def test_a_failed_run_ends_in_one_line_and_the_code_of_its_stage(place: Path) -> None:
    (place / "buildCurriculum.script").write_text("65\n")
    result = rzero("run", "run.yaml", "--quiet")
    assert result.exit_code == 65
    assert result.stderr.splitlines()[-1].startswith(
        "run fake failed: iteration 1, buildCurriculum: it went wrong with 65 (log: "
    )
    assert "it went wrong with 65" in rzero("status", "run.yaml").stdout


def test_a_failure_that_retries_did_not_mend_exits_with_one(place: Path) -> None:
    with (place / "run.yaml").open("a") as manifest:
        manifest.write("  stages: {trainSolver: {maxRetries: 0}}\n")
    (place / "trainSolver.script").write_text("1\n")
    assert rzero("run", "run.yaml").exit_code == 1


def test_ctrl_c_says_how_to_continue(place: Path) -> None:
    (place / "trainChallenger.script").write_text("hang\n")
    code = (
        "import os, signal, rzero_operator.cli as c, rzero_operator.local as l\n"
        "begin = l.LiveAttempt.__post_init__\n"
        "def tell(self):\n    begin(self); os.kill(os.getpid(), signal.SIGINT)\n"
        "l.LiveAttempt.__post_init__ = tell\nc.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "run", "run.yaml"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 130
    assert done.stderr.splitlines()[-1] == "stopped; `rzero run run.yaml` continues"


def test_a_missing_model_is_one_line_before_anything_starts(place: Path) -> None:
    shutil.rmtree(place / "model")
    result = rzero("run", "run.yaml")
    assert result.exit_code == 78
    assert result.stderr.startswith(f"spec.model: {place}/model does not exist;")
    assert result.stderr.count("\n") == 1
    assert not (place / "runs").exists()


def test_a_second_runner_gets_one_line(place: Path) -> None:
    folder = RunFolder(load(place / "run.yaml")).open()
    result = rzero("run", "run.yaml")
    folder.close()
    assert result.exit_code == 78
    assert "run fake is already running here" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_manifest_that_contradicts_its_run_names_the_field_and_the_remedy(place: Path) -> None:
    rzero("run", "run.yaml")
    (place / "run.yaml").write_text(MANIFEST + "  seed: 5\n")
    result = rzero("run", "run.yaml")
    assert result.exit_code == 78
    assert result.stderr == (
        "spec.seed: run fake was started with 0 and cannot go on with 5; restore it, or choose "
        "another metadata.name for a new run\n"
    )


def test_a_storage_path_that_is_a_file_is_one_line(place: Path) -> None:
    (place / "runs").touch()
    result = rzero("run", "run.yaml")
    assert result.exit_code == 78
    assert "runs" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_run_declared_suspended_is_left_alone(place: Path) -> None:
    (place / "run.yaml").write_text(MANIFEST + "  suspend: true\n")
    result = rzero("run", "run.yaml")
    assert result.exit_code == 0
    assert "set spec.suspend to false" in result.stdout
    assert not (place / "starts").exists()


def test_status_shows_iterations_stages_and_attempts_while_the_run_goes_on(place: Path) -> None:
    assert "has not begun" in rzero("status", "run.yaml").stdout
    (place / "trainSolver.script").write_text("silent\n")
    rzero("run", "run.yaml")
    folder = RunFolder(load(place / "run.yaml")).open()
    shown = rzero("status", "run.yaml").stdout
    folder.close()
    assert "fake Succeeded · iteration 1/1" in shown
    assert "iteration 1\n" in shown
    assert "buildCurriculum done" in shown
    assert "2 attempts (1 lost)" in shown


def test_report_hands_status_and_manifest_to_the_stages(place: Path) -> None:
    (place / "rzero_stages" / "report.py").write_text(
        "import pathlib, sys\n"
        "from rzero_core.status import RunStatus\n"
        "status, manifest, page = map(pathlib.Path, sys.argv[1:])\n"
        "phase = RunStatus.model_validate_json(status.read_text()).phase\n"
        "page.write_text(f'{phase} {\"learningRate: 1.0e-06\" in manifest.read_text()}')\n"
    )
    unborn = rzero("report", "run.yaml")
    assert unborn.exit_code == 78
    assert "start it with `rzero run run.yaml`" in unborn.stderr
    rzero("run", "run.yaml")
    assert rzero("report", "run.yaml", "-o", "page.html").stdout == "wrote page.html\n"
    assert (place / "page.html").read_text() == "Succeeded True"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "run.yaml: the file is empty"),
        ("# nothing\n---\n", "run.yaml: the file is empty"),
        ("a: b: c\n", "run.yaml: line 1: mapping values are not allowed here"),
        ("- 1\n", "run.yaml: expected apiVersion, kind, metadata and spec"),
        (MANIFEST + "---\n" + MANIFEST, "run.yaml: 2 documents; put each run in its own file"),
        (MANIFEST.replace("CoEvolutionRun", "Pod"), "run.yaml: expected apiVersion rzero.dev"),
        (MANIFEST + "  model: twice\n", "run.yaml: line 9: model stands here for the second time"),
        (MANIFEST + "  itertions: 3\n", "run.yaml: spec.itertions: unknown field"),
        (MANIFEST + "  seed: '1'\n", "run.yaml: spec.seed: "),
        (MANIFEST.replace("  model: model\n", ""), "run.yaml: spec.model: required, but missing"),
        (
            MANIFEST + "  labels: {minAgreement: 0.8, maxAgreement: 0.7}\n",
            "run.yaml: spec.labels.minAgreement: minAgreement must be less than maxAgreement",
        ),
        (MANIFEST + "  labels: {minAgreement: 2}\n", "run.yaml: spec.labels.minAgreement: "),
        (MANIFEST + "  preset: best\n", "run.yaml: spec.preset: "),
        (MANIFEST.replace("name: fake", "name: Fake"), "run.yaml: metadata.name: "),
        (MANIFEST.replace("uri: runs", "uri: gs://x/y"), "run.yaml: spec.storage.uri: write s3:"),
    ],
)
def test_a_mistake_in_a_manifest_is_one_line(place: Path, text: str, expected: str) -> None:
    (place / "run.yaml").write_text(text)
    for command in ("validate", "run", "status", "report"):
        result = rzero(command, "run.yaml")
        assert result.exit_code == 64, command
        assert result.stderr.startswith(expected), result.stderr
        assert result.stderr.count("\n") == 1


def test_validate_lists_every_mistake_of_every_file(place: Path) -> None:
    (place / "bad.yaml").write_text(MANIFEST + "  seed: x\n  labels: {votes: 0}\n  typo: 1\n")
    result = rzero("validate", "bad.yaml", "run.yaml", "missing.yaml")
    assert result.exit_code == 64
    assert result.stdout == "run.yaml: valid\n"
    lines = result.stderr.splitlines()
    assert len(lines) == 4
    assert lines[-1] == "missing.yaml: no such file"
    assert {line.split(":")[1] for line in lines[:3]} == {
        " spec.seed",
        " spec.labels.votes",
        " spec.typo",
    }


def test_bytes_that_are_no_text_and_folders_are_one_line(place: Path) -> None:
    (place / "run.yaml").write_bytes(b"\xff\xfe\x00")
    assert rzero("validate", "run.yaml").stderr == "run.yaml: not a text file in UTF-8\n"
    assert rzero("validate", "model").stderr == "model: Is a directory\n"


def test_fields_without_effect_on_one_machine_are_named(place: Path) -> None:
    (place / "run.yaml").write_text(
        MANIFEST + "  queueName: research\n  stages: {trainSolver: {nodes: 2, podTemplate: {}}}\n"
    )
    result = rzero("validate", "run.yaml")
    assert result.exit_code == 0
    warnings = result.stderr.splitlines()
    assert [line.split(": ")[2] for line in warnings] == [
        "spec.queueName",
        "spec.stages.trainSolver.podTemplate",
        "spec.stages.trainSolver.nodes",
    ]


def test_a_guardrail_without_an_auditor_is_named_before_anybody_trusts_it(place: Path) -> None:
    (place / "run.yaml").write_text(MANIFEST + "  labelAccuracy: {onViolation: Stop}\n")
    for command in ("validate", "run"):
        result = rzero(command, "run.yaml")
        assert result.exit_code == 0
        assert "spec.labelAccuracy.onViolation: Stop has no effect without" in result.stderr


@pytest.mark.parametrize("text", ["1e-6", "1.0e-6", "1E-6", "0.000001", "1.e-6"])
def test_numbers_are_read_as_people_write_them(place: Path, text: str) -> None:
    (place / "run.yaml").write_text(MANIFEST + f"  solver: {{learningRate: {text}}}\n")
    assert load(place / "run.yaml").spec.solver.learning_rate == 1e-6


def test_a_manifest_read_back_from_a_cluster_is_welcome(place: Path) -> None:
    data = json.loads(load(place / "run.yaml").to_json()) | {"status": {"phase": "Running"}}
    data["metadata"] |= {"uid": "x", "resourceVersion": "1"}
    (place / "run.yaml").write_text(json.dumps(data))
    assert isinstance(load(place / "run.yaml"), CoEvolutionRun)


def test_on_a_terminal_bars_show_stage_step_reward_and_rate(place: Path) -> None:
    stream = io.StringIO()
    spec = load(place / "run.yaml").spec
    step = Step(1, Stage.TRAIN_SOLVER)
    status = RunStatus(phase=Phase.RUNNING, iteration=1, stage=Stage.TRAIN_SOLVER, attempt=2)
    console = Console(file=stream, force_terminal=True, width=120, color_system=None)
    with LiveDisplay(console, spec) as display:
        display.update(status, [Event("AttemptStarted", "begun", step=step)])
        display.progress(step, Progress(1, 12, "steps", {"reward": 0.25}))
        # A quarter of a second that passes meanwhile is rounded away.
        display.first = (display.first[0] - 3.8, 0.0)
        display.refreshed = 0.0
        display.progress(step, Progress(3, 12, "steps", {"reward": 0.31}))
    shown = stream.getvalue()
    assert "iteration 1/1" in shown
    assert "trainSolver (attempt 2)" in shown
    assert "3/12 steps · 1.3 s each · reward 0.31" in shown


def test_the_real_command_draws_on_a_terminal_and_leaves_whole_lines(place: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", "from rzero_operator.cli import main; main()", "run", "run.yaml"],
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:
            break  # The other end is closed.
        shown += chunk
    assert process.wait() == 0
    text = shown.decode()
    assert "✓" in text and " iteration 1, trainSolver: done" in text
    assert text.splitlines()[-1].endswith("run fake succeeded; `rzero report run.yaml` shows it")
