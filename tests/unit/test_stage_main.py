"""A stage as a process: the task in, the result or one line out, and the contract's exit codes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_models
from stage_makers import Scripted, base, store

from rzero_core.run import Labels, Questions, Sampling, Stage
from rzero_core.task import (
    BuildCurriculumTask,
    GenerateQuestionsTask,
    LabelQuestionsTask,
    StageResult,
    StageTask,
    shard_prefix,
)
from rzero_stages import __main__ as stage_main
from rzero_stages import generate_questions, label_questions

COMMAND = [sys.executable, "-m", "rzero_stages"]


def environment(root: Path, task: str, shard: str | None = None) -> dict[str, str]:
    named = {"RZERO_TASK": task, "RZERO_RESULT_PATH": str(root / "result"), "OMP_NUM_THREADS": "1"}
    return os.environ | named | ({} if shard is None else {"JOB_COMPLETION_INDEX": shard})


def start(root: Path, task: str, shard: str | None = None) -> tuple[int, str, str, str]:
    """Exit code, result file, standard output and standard error of a stage process."""
    done = subprocess.run(
        COMMAND, env=environment(root, task, shard), capture_output=True, text=True, timeout=300
    )
    result = root / "result"
    text = result.read_text() if result.exists() else ""
    return done.returncode, text, done.stdout, done.stderr


def generate(root: Path) -> GenerateQuestionsTask:
    return GenerateQuestionsTask(
        **base(root, Stage.GENERATE_QUESTIONS),
        challenger=str(root / "challenger"),
        questions=Questions(count=4, shards=1, sampling=Sampling(max_tokens=8)),
    )


def curriculum(root: Path, minimum: int = 1) -> BuildCurriculumTask:
    """The task after a pool of one question that three of six votes agree on."""
    writer = Scripted(lambda _, place: "<question>1+1</question>")
    generate_questions.run(generate(root), store(root), 0, writer)
    label = LabelQuestionsTask(
        **base(root, Stage.LABEL_QUESTIONS),
        solver="",
        pool=[shard_prefix(generate(root).prefix, 0)],
        labels=Labels(votes=6),
    )
    voter = Scripted(lambda _, place: f"\\boxed{{{max(2, place % 6)}}}")
    label_questions.run(label, store(root), 0, voter)
    return BuildCurriculumTask(
        **base(root, Stage.BUILD_CURRICULUM),
        votes=[shard_prefix(label.prefix, 0)],
        questions=Questions(count=4, shards=1),
        labels=Labels(votes=6),
        minimum=minimum,
        last_round=True,
    )


def test_a_stage_leaves_its_result_and_does_the_work_once(tmp_path: Path) -> None:
    task = curriculum(tmp_path).to_json()
    code, text, out, _ = start(tmp_path, task)
    assert (code, out) == (0, "")
    assert StageResult.model_validate_json(text).metrics["kept"] == 1
    assert start(tmp_path, task)[:2] == (0, text)


def test_a_shard_of_a_real_model_reports_progress_on_standard_output(tmp_path: Path) -> None:
    tiny_models.save(tmp_path / "challenger", context=2048)
    code, text, out, _ = start(tmp_path, generate(tmp_path).to_json(), shard="0")
    assert (code, StageResult.model_validate_json(text).shard) == (0, 0)
    lines = [json.loads(line) for line in out.splitlines()]
    assert lines[-1]["event"] == "progress" and lines[-1]["done"] == lines[-1]["total"] == 4


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("", "RZERO_TASK is not set"),
        ("not json", "RZERO_TASK: "),
        ('{"stage": "unheardOf"}', "RZERO_TASK: "),
        ('{"stage": "buildCurriculum", "surprise": 1}', "buildCurriculum.run: required"),
    ],
)
def test_a_bad_task_exits_with_64_and_one_line(tmp_path: Path, task: str, message: str) -> None:
    code, text, _, error = start(tmp_path, task)
    assert code == 64
    assert message in text and text.count("\n") == 1
    assert message in error and "Traceback" not in error


@pytest.mark.parametrize("shard", [None, "", "x", "-1", "7"])
def test_a_shard_number_that_is_none_exits_with_64(tmp_path: Path, shard: str | None) -> None:
    code, text, _, _ = start(tmp_path, generate(tmp_path).to_json(), shard)
    assert code == 64 and "shard" in text.lower()


def test_bad_data_exits_with_65_and_one_line(tmp_path: Path) -> None:
    code, text, _, error = start(tmp_path, curriculum(tmp_path, minimum=9).to_json())
    assert code == 65
    assert "fewer than one Solver batch of 9" in text and text.count("\n") == 1
    assert "Traceback" not in error


def test_a_missing_model_exits_with_78_and_names_it(tmp_path: Path) -> None:
    code, text, _, _ = start(tmp_path, generate(tmp_path).to_json(), shard="0")
    assert code == 78 and str(tmp_path / "challenger") in text


@pytest.fixture
def result_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RZERO_TASK", curriculum(tmp_path).to_json())
    monkeypatch.setenv("RZERO_RESULT_PATH", str(tmp_path / "result"))
    monkeypatch.setattr(stage_main, "_stop_on_sigterm", lambda path: None)
    return tmp_path / "result"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (OSError(28, "No space left on device"), 78, "No space left"),
        (PermissionError(13, "Permission denied"), 78, "Permission denied"),
        (OSError(5, "Input/output error"), 1, "Input/output error"),
        (MemoryError(), 1, "MemoryError"),
        (RuntimeError("first line\nlast line"), 1, "RuntimeError: last line"),
    ],
)
def test_what_a_stage_raises_becomes_its_exit_code(
    result_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    code: int,
    message: str,
) -> None:
    def fail(*_: object) -> StageResult:
        raise error

    monkeypatch.setattr(stage_main, "run", fail)
    assert stage_main.main() == code
    text = result_path.read_text()
    assert message in text and text.count("\n") == 1


def test_a_disk_that_is_full_for_artifacts_exits_with_78(
    result_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every write to this device fails with ENOSPC.
    monkeypatch.setattr(
        "rzero_stages.published.write_jsonl", lambda *_: Path("/dev/full").write_text("x")
    )
    assert stage_main.main() == 78
    assert "no space left" in result_path.read_text()


def test_a_store_that_may_not_be_written_exits_with_78(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        # root may write anywhere but under a file.
        (tmp_path / "closed").write_text("")
    else:
        (tmp_path / "closed").mkdir(mode=0o500)
    task: StageTask = curriculum(tmp_path)
    task = task.model_copy(update={"prefix": str(tmp_path / "closed" / "x")})
    code, text, _, _ = start(tmp_path, task.to_json())
    assert code == 78 and "closed" in text


def wait_until_it_handles(number: signal.Signals, pid: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        status = Path(f"/proc/{pid}/status").read_text()
        caught = int(status.partition("SigCgt:")[2].split()[0], 16)
        if caught >> (number - 1) & 1:
            return
        time.sleep(0.05)
    raise AssertionError(f"{number.name} is not handled")


def test_sigterm_ends_a_stage_at_once_with_75(tmp_path: Path) -> None:
    tiny_models.save(tmp_path / "challenger", context=2048)
    task = generate(tmp_path).model_copy(
        update={"questions": Questions(count=20_000, shards=1, sampling=Sampling(max_tokens=1500))}
    )
    process = subprocess.Popen(
        COMMAND, env=environment(tmp_path, task.to_json(), "0"), stderr=subprocess.DEVNULL
    )
    wait_until_it_handles(signal.SIGTERM, process.pid)
    process.send_signal(signal.SIGTERM)
    # Its work would take hours.
    assert process.wait(60) == 75
    assert (tmp_path / "result").read_text() == "stopped on request\n"


def test_a_result_that_cannot_be_written_is_a_failure(tmp_path: Path) -> None:
    task = curriculum(tmp_path).to_json()
    (tmp_path / "result").mkdir()
    done = subprocess.run(COMMAND, env=environment(tmp_path, task), capture_output=True, text=True)
    assert done.returncode == 78 and str(tmp_path / "result") in done.stderr
