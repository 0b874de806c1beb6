"""Runs one stage: its task comes from `RZERO_TASK`, its result goes to `RZERO_RESULT_PATH`.

A stage that fails leaves one line there instead. This is the only place that catches the errors of
stages and turns them into exit codes.
"""

import logging
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import assert_never

from pydantic import ValidationError

from rzero_core.manifest import NO_PERMISSION, NO_SPACE
from rzero_core.store import ArtifactStore
from rzero_core.task import (
    DEFAULT_RESULT_PATH,
    MAX_RESULT_BYTES,
    RESULT_VARIABLE,
    SHARD_VARIABLE,
    TASK_VARIABLE,
    BadConfiguration,
    BadTask,
    BuildCurriculumTask,
    EvaluateTask,
    GenerateQuestionsTask,
    LabelQuestionsTask,
    StageError,
    StageResult,
    StageTask,
    TrainChallengerTask,
    TrainSolverTask,
    TryAgain,
    parse_task,
)
from rzero_core.wire import explain
from rzero_stages import live_metrics

FAILED = 1
log = logging.getLogger("rzero_stages")


def main() -> int:
    """The exit code of the stage that the environment asks for."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    # One line for each vote would bury everything else.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # Threads that wait spinning take the processor from those they wait for: six times slower on
    # two busy cores. The library reads it when torch is imported, which is later.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    result_path = Path(os.environ.get(RESULT_VARIABLE, DEFAULT_RESULT_PATH))
    _stop_on_sigterm(result_path)
    try:
        task = _read_task(os.environ)
        shard = _read_shard(task, os.environ)
        with live_metrics.served(task, shard, os.environ):
            result = run(task, ArtifactStore(task.storage), shard)
        text = result.to_json()
        assert len(text.encode()) <= MAX_RESULT_BYTES, f"a result of {len(text.encode())} bytes"
        code = 0
    except StageError as error:
        text, code = _one_line(error), error.exit_code
    except OSError as error:
        text, code = _one_line(error), _code_of(error)
        if code == FAILED:
            traceback.print_exc()
    except Exception as error:
        traceback.print_exc()
        text, code = f"{type(error).__name__}: {_one_line(error)}".removesuffix(": "), FAILED
    if code:
        log.error("%s", text)
    return _leave(result_path, text, code)


def run(task: StageTask, store: ArtifactStore, shard: int | None = None) -> StageResult:
    """Run the stage of the task. A stage that is done already answers from its manifest.

    Every stage is imported when it is needed: only some of them can afford torch.
    """
    match task:
        case TrainChallengerTask():
            from rzero_stages import train_challenger

            return train_challenger.run(task, store)
        case GenerateQuestionsTask():
            from rzero_stages import generate_questions

            return generate_questions.run(task, store, _required(shard))
        case LabelQuestionsTask():
            from rzero_stages import label_questions

            return label_questions.run(task, store, _required(shard))
        case BuildCurriculumTask():
            from rzero_stages import build_curriculum

            return build_curriculum.run(task, store)
        case TrainSolverTask():
            from rzero_stages import train_solver

            return train_solver.run(task, store)
        case EvaluateTask():
            from rzero_stages import evaluate

            return evaluate.run(task, store)
        case _:
            assert_never(task)


def _read_task(environment: Mapping[str, str]) -> StageTask:
    text = environment.get(TASK_VARIABLE)
    if not text:
        raise BadTask(f"{TASK_VARIABLE} is not set; it holds the task as JSON")
    try:
        return parse_task(text)
    except ValidationError as error:
        raise BadTask(f"{TASK_VARIABLE}: {explain(error)[0]}") from error


def _read_shard(task: StageTask, environment: Mapping[str, str]) -> int | None:
    if not isinstance(task, GenerateQuestionsTask | LabelQuestionsTask):
        return None
    text = environment.get(SHARD_VARIABLE, "")
    if not (text.isascii() and text.isdigit()):
        raise BadTask(f"{SHARD_VARIABLE} must be the number of a shard, not {text!r}")
    return int(text)


def _required(shard: int | None) -> int:
    if shard is None:
        raise BadTask(f"this stage has shards; set {SHARD_VARIABLE} to the number of one")
    return shard


def _stop_on_sigterm(result_path: Path) -> None:
    """End at once on SIGTERM. Training replaces this while it can make a last checkpoint."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        _leave(result_path, "stopped on request", TryAgain.exit_code)
        # No clean-up: what is unfinished has no manifest, and a busy thread must not delay this.
        os._exit(TryAgain.exit_code)

    signal.signal(signal.SIGTERM, stop)


def _code_of(error: OSError) -> int:
    lasting = error.errno in NO_SPACE | NO_PERMISSION
    return BadConfiguration.exit_code if lasting else FAILED


def _one_line(error: BaseException) -> str:
    """The message in one line, short enough for a termination message."""
    lines = str(error).strip().splitlines()
    text = " ".join(line.strip() for line in lines) if isinstance(error, StageError) else ""
    return (text or (lines[-1] if lines else type(error).__name__))[:1500]


def _leave(path: Path, text: str, code: int) -> int:
    """Write the result or the error to the file; in place, for on Kubernetes it is a mount."""
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        log.error("the result cannot be written to %s: %s", path, error.strerror)
        return code or BadConfiguration.exit_code
    return code


if __name__ == "__main__":
    sys.exit(main())
