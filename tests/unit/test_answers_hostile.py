"""No text of a model can hang, crash or bloat the process that grades it."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from rzero_core import answers
from rzero_core.equality.grader import CPU_SECONDS, SHARED, Grader

FILE = Path(__file__).resolve().parent.parent / "data" / "hostile_answers.jsonl"
HOSTILE = [
    "".join(part * times for part, times in json.loads(line))
    for line in FILE.read_text(encoding="utf-8").splitlines()
]
TOWER = "9^{9^{9^{9}}}"
"""The size guard refuses it; given to the grader itself, it hangs math-verify inside one C call."""


@pytest.fixture(scope="module")
def warm() -> None:
    answers.equivalent(r"\int_0^1 x\,dx", "0.5")


def test_there_are_at_least_thirty_hostile_strings() -> None:
    assert len(HOSTILE) >= 30


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:24]))
def test_a_hostile_answer_is_decided_within_three_seconds(text: str) -> None:
    with at_most(3.0):
        answers.extract("\\boxed{" + text + "}")
        assert not answers.equivalent(text, r"\frac{\sqrt{2}}{x+1}")


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Bounds what the work takes on an idle machine: the processor time of this process and of the
    grader's workers. Starting a worker does not count; it happens beside the work.
    """
    own, workers, losses = time.process_time(), seconds_of_workers(), SHARED.timeouts
    began = time.monotonic()
    yield
    spent = time.process_time() - own
    after = seconds_of_workers()
    spent += sum(after[pid] - workers[pid] for pid in after.keys() & workers.keys())
    # A worker that is gone had used up what one pair may take.
    spent += (SHARED.timeouts - losses) * CPU_SECONDS
    assert spent < seconds
    # However busy the machine is, nothing hangs.
    assert time.monotonic() - began < 60.0


def seconds_of_workers() -> dict[int, float]:
    found = {}
    for worker in SHARED._pool:
        if worker.ready:
            times = psutil.Process(worker.process.pid).cpu_times()
            found[worker.process.pid] = times.user + times.system
    return found


def test_hostile_answers_do_not_bloat_this_process() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for text in HOSTILE:
        answers.canonical(text)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


def test_a_pair_that_takes_too_long_is_killed_counted_and_never_asked_again() -> None:
    grader = Grader(workers=2)
    try:
        assert grader.decide([("x+1", "1+x")]) == [True]
        assert grader.decide([(TOWER, "x"), ("x+1", "1+x")]) == [False, True]
        assert grader.timeouts == 1
        assert grader.quarantined == {TOWER}
        # Were it asked, it would be a second loss.
        assert grader.decide([(TOWER, "y")]) == [False]
        assert grader.timeouts == 1
    finally:
        grader.close()


def test_a_worker_that_was_killed_from_outside_is_replaced() -> None:
    grader = Grader(workers=1)
    try:
        assert grader.decide([("x+1", "1+x")]) == [True]
        grader._pool[0].process.kill()
        grader._pool[0].process.wait()
        assert grader.decide([("x+2", "2+x"), ("x", "y")]) == [True, False]
    finally:
        grader.close()


def test_pairs_are_decided_in_a_thread_too() -> None:
    verdicts: list[bool] = []
    pair = (r"\frac{1}{2+\sqrt{3}}", r"2-\sqrt{3}")
    thread = threading.Thread(target=lambda: verdicts.append(answers.equivalent(*pair)))
    thread.start()
    thread.join(timeout=60)
    assert verdicts == [True]


@pytest.mark.parametrize("end", ["exit", "kill"])
def test_no_worker_outlives_the_process_that_started_it(end: str) -> None:
    code = (
        "import sys, time\nfrom rzero_core import answers\n"
        "from rzero_core.equality.grader import SHARED\n"
        r"answers.equivalent(r'\frac{1}{1+\sqrt{2}}', r'\sqrt{2}-1')"
        "\nprint(*(worker.process.pid for worker in SHARED._pool), flush=True)\n"
        + ("" if end == "exit" else "time.sleep(60)")
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert workers
    if end == "kill":
        os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    process.stdout.close()
    deadline = time.monotonic() + 10
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, workers))


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_a_forked_child_leaves_the_workers_of_its_parent_alone() -> None:
    code = (
        "import os\nfrom rzero_core import answers\n"
        "def ask(n):\n"
        r"    return answers.equivalent(rf'\frac{{{n}}}{{1+\sqrt{{2}}}}', rf'{n}\sqrt{{2}}-{n}')"
        "\nassert ask(3)\npid = os.fork()\nif pid == 0:\n    os._exit(0 if ask(5) else 1)\n"
        "assert os.waitpid(pid, 0)[1] == 0\nprint(ask(7))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "True", done.stderr
