"""Stages started by a fork behave like processes started by the runner itself."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from rzero_core.run import Dataset, Evaluation, Prompt, Prompts, SamplerBackend, Storage
from rzero_core.task import (
    ORACLE_KEY_VARIABLE,
    RESULT_VARIABLE,
    TASK_VARIABLE,
    EvaluateTask,
    RunRef,
)
from rzero_operator.nursery import Born, Nursery

T = TypeVar("T")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def nursery(folder: Path) -> Iterator[Nursery]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ORACLE_KEY_VARIABLE, "sk-secret-0123456789")
        nursery = Nursery(folder, None)
    yield nursery
    nursery.close()


def start(nursery: Nursery, folder: Path, task: str) -> Born:
    environment = os.environ | {TASK_VARIABLE: task, RESULT_VARIABLE: str(folder / "result")}
    with (folder / "log").open("ab") as log:
        born = nursery.start(environment, log)
    assert born is not None
    return born


def long_task(folder: Path) -> str:
    return EvaluateTask(
        run=RunRef(name="a", uid="b"),
        iteration=0,
        seed=0,
        storage=Storage(uri=str(folder)),
        prefix=f"{folder}/i0000/evaluate",
        prompts=Prompts(solver=Prompt(user="{question}")),
        sampler=SamplerBackend.TRANSFORMERS,
        solver="examples/tiny/model",
        evaluation=Evaluation(
            samples=1000, datasets=[Dataset(name="a", uri="examples/tiny/heldout.jsonl")]
        ),
    ).to_json()


def wait(born: Born) -> int:
    return until(lambda: born.poll())


def until(look: Callable[[], T | None]) -> T:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (found := look()) is not None:
            return found
        time.sleep(0.05)
    raise AssertionError("waited for two minutes in vain")


def test_a_stage_has_its_own_exit_code_output_and_log(nursery: Nursery, folder: Path) -> None:
    born = start(nursery, folder, '{"stage": "dance"}')
    assert wait(born) == 64
    assert "stage" in (folder / "result").read_text()
    assert (folder / "log").read_text()
    assert born.stdout.read() == b""


def test_a_stage_can_be_stopped_alone(nursery: Nursery, folder: Path) -> None:
    one, other = (start(nursery, folder, long_task(folder)) for _ in range(2))
    # The kernel shows of a fork what its nursery was started with.
    assert ORACLE_KEY_VARIABLE not in psutil.Process(one.pid).environ()
    assert os.getpgid(one.pid) == one.pid
    os.kill(one.pid, signal.SIGKILL)
    assert wait(one) == -signal.SIGKILL
    assert other.poll() is None
    os.killpg(other.pid, signal.SIGKILL)
    assert wait(other) == -signal.SIGKILL


def test_stages_end_with_their_nursery_which_then_starts_no_more(folder: Path) -> None:
    nursery = Nursery(folder, None)
    born = start(nursery, folder, long_task(folder))
    parent = psutil.Process(born.pid).parent()
    assert parent is not None
    parent.kill()
    assert wait(born) == -signal.SIGKILL
    until(lambda: None if psutil.pid_exists(born.pid) else True)
    with (folder / "log").open("ab") as log:
        assert nursery.start(dict(os.environ), log) is None
    nursery.close()
