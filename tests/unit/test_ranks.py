"""The ranks of one node are started as torchrun would, and their exit codes come through."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rzero_stages import ranks

Run = Callable[..., tuple[int, str]]
"""Runs a script in each rank; the exit code of the node and what it leaves."""
LEAVE = "import os, sys, time; rank = int(os.environ['RANK'])\n"
LEAVE += "def leave(code, text):\n"
LEAVE += "    open(os.environ['RZERO_RESULT_PATH'], 'w').write(text); sys.exit(code)\n"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    def running(script: str, patience: float = 0.5, **variables: str) -> tuple[int, str]:
        values = {
            "PET_NNODES": "1",
            "PET_NPROC_PER_NODE": "2",
            "PET_NODE_RANK": "0",
            "PET_MASTER_PORT": "29500",
            "RZERO_RESULT_PATH": str(tmp_path / "result"),
        }
        for name, value in (values | variables).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(ranks, "PATIENCE", patience)
        before = signal.getsignal(signal.SIGTERM)
        try:
            code = ranks.main([sys.executable, "-c", LEAVE + script])
        finally:
            signal.signal(signal.SIGTERM, before)
        return code, (tmp_path / "result").read_text().strip()

    return running


def test_each_rank_knows_its_place_and_the_first_speaks(run: Run, tmp_path: Path) -> None:
    names = "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT"
    script = (
        f"places = ' '.join(os.environ[name] for name in {names.split()})\n"
        f"open(f'{tmp_path}/rank-{{rank}}', 'w').write(places)\n"
        "leave(0, f'result of rank {rank}')"
    )
    variables = {"PET_NNODES": "3", "PET_NODE_RANK": "2", "PET_MASTER_ADDR": "localhost"}
    assert run(script, **variables) == (0, "result of rank 4")
    assert (tmp_path / "rank-4").read_text() == "4 0 6 2 localhost 29500"
    assert (tmp_path / "rank-5").read_text() == "5 1 6 2 localhost 29500"


def test_the_cause_of_a_failure_speaks_and_the_rest_is_ended(run: Run) -> None:
    began = time.monotonic()
    script = "leave(78, 'no space') if rank else time.sleep(60)"
    assert run(script) == (78, "no space")
    assert time.monotonic() - began < 10


def test_what_no_retry_mends_comes_before_what_fails_with_it(run: Run) -> None:
    script = (
        "leave(1, 'connection closed by peer') if rank else (time.sleep(0.3), leave(65, 'bad'))"
    )
    # The first rank may take long to start on a busy machine.
    assert run(script, patience=60.0) == (65, "bad")


def test_a_failure_comes_before_a_stop(run: Run) -> None:
    script = "leave(75, 'stopped on request') if rank else (time.sleep(0.3), leave(1, 'crash'))"
    assert run(script) == (1, "crash")


def test_a_rank_that_was_killed_is_named_with_what_to_change(run: Run) -> None:
    code, message = run("os.kill(os.getpid(), 9) if rank else time.sleep(60)")
    assert code == 137
    assert message == "killed by SIGKILL; often the memory ran out: lower microBatchSize"


def test_a_rank_that_leaves_nothing_is_named(run: Run) -> None:
    found = run("sys.exit(3) if rank else time.sleep(60)")
    assert found == (3, "rank 1 of this node ended with exit code 3")


def stop_when(ready: Callable[[], bool]) -> list[float]:
    """Have SIGTERM sent to this process, which handles it, once that is so; and when it was."""
    before, told = signal.getsignal(signal.SIGTERM), list[float]()

    def stop() -> None:
        deadline = time.monotonic() + 60
        while signal.getsignal(signal.SIGTERM) == before or not ready():
            if time.monotonic() > deadline:
                return
            time.sleep(0.02)
        told.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    return told


def test_all_ranks_are_told_to_stop_and_awaited(run: Run, tmp_path: Path) -> None:
    script = (
        "import signal\n"
        "def stop(*_): time.sleep(1.5 - rank); leave(75, f'rank {rank} stopped')\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        f"open(f'{tmp_path}/handles-{{rank}}', 'w').close()\n"
        "time.sleep(60)"
    )
    told = stop_when(lambda: len(list(tmp_path.glob("handles-*"))) == 2)
    # The first rank takes longer than the patience after a failure.
    assert run(script) == (75, "rank 1 stopped")
    assert 1.5 <= time.monotonic() - told[0] < 10


def test_a_node_waits_for_the_first_one_until_it_is_told_to_stop(run: Run) -> None:
    stop_when(lambda: True)
    code, message = run("leave(0, '')", PET_MASTER_ADDR="no-such-host.invalid")
    assert (code, message) == (75, "stopped on request")


@pytest.mark.parametrize("value", ["", "two", "-1"])
def test_a_missing_variable_is_a_bad_task(run: Run, value: str) -> None:
    code, message = run("leave(0, '')", PET_NNODES=value)
    assert (code, message) == (64, f"PET_NNODES must be a whole number, not {value!r}")


def test_it_is_a_program_of_its_own(tmp_path: Path) -> None:
    environment = {**os.environ, "RZERO_RESULT_PATH": str(tmp_path / "result")}
    environment.pop("PET_NNODES", None)
    command = [sys.executable, "-m", "rzero_stages.ranks"]
    assert subprocess.run(command, env=environment, capture_output=True).returncode == 64
