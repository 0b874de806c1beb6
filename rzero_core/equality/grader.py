"""Keeps the processes that decide symbolic pairs: started on first need, killed on time-out, gone
with this process.

Plain subprocesses with pipes rather than a multiprocessing pool: they import nothing of this
process's `__main__` (which may be a notebook, a pipe or pytest), inherit no torch, and end at the
end of their input even if this process is killed.
"""

import atexit
import importlib.util
import json
import os
import selectors
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

CPU_SECONDS = 1.5
"""Processor time of a pair, held by the worker itself: labels must not depend on how busy the
machine is.
"""
PAIR_SECONDS = 6.0
"""Elapsed time after which the parent kills a worker that neither answered nor used up its
processor time.
"""
START_SECONDS = 120.0
"""An import of sympy on a loaded machine may be slow; it is never charged to a pair."""
PAIRS_PER_WORKER = 5000
"""Then the process is replaced, so that caches inside sympy do not grow without end."""
MAX_WORKERS = 4


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    errors: IO[bytes]
    started: float
    ready: bool = False
    job: int | None = None
    sent: float = 0.0
    step: str = ""
    done: int = 0

    @property
    def output(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def send(self, job: int, pair: tuple[str, str]) -> None:
        assert self.process.stdin is not None
        self.job, self.step, self.sent = job, "", time.monotonic()
        try:
            self.process.stdin.write(json.dumps(pair).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return  # it died while idle; its output ends, and the pair goes to another

    def overdue(self, now: float) -> bool:
        if not self.ready:
            return now - self.started > START_SECONDS
        return self.job is not None and now - self.sent > PAIR_SECONDS

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue  # the last request was never read, and nobody waits for its answer


@dataclass
class Grader:
    """Decides batches of pairs; safe to call from any thread, one batch at a time."""

    workers: int = field(default_factory=lambda: min(MAX_WORKERS, max(2, os.cpu_count() or 1)))
    timeouts: int = 0
    """Pairs that ran out of time or memory since the start: counted as not equal."""
    quarantined: set[str] = field(default_factory=set)
    """Texts that made a worker run out of time: never sent again."""
    _pool: list[_Worker] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def decide(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Whether each pair is shown equal; False when undecided. A pair may use 1.5 s of processor
        time.

        Raises RuntimeError when no worker can start (math-verify is not installed).
        """
        with self._lock:
            try:
                return self._decide(pairs)
            except BaseException:
                self._close()  # a worker may be in the middle of a pair
                raise

    def _decide(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        verdicts = [False] * len(pairs)
        waiting = deque(range(len(pairs)))
        left = len(pairs)
        while left:
            # Once they run, one more stands ready to replace a killed one.
            spare = any(worker.ready for worker in self._pool)
            self._fill(min(self.workers, left + spare))
            left -= self._hand_out(waiting, pairs)
            if left:
                left -= self._collect(waiting, pairs, verdicts)
        return verdicts

    def _fill(self, size: int) -> None:
        while len(self._pool) < size:
            self._pool.append(_start())

    def _hand_out(self, waiting: deque[int], pairs: Sequence[tuple[str, str]]) -> int:
        """Sends a pair to every idle worker; returns how many pairs were settled by the quarantine
        alone.
        """
        settled = 0
        for worker in self._pool:
            while waiting and worker.ready and worker.job is None:
                job = waiting.popleft()
                if self.quarantined.intersection(pairs[job]):
                    settled += 1
                    continue
                worker.send(job, pairs[job])
        return settled

    def _collect(
        self, waiting: deque[int], pairs: Sequence[tuple[str, str]], verdicts: list[bool]
    ) -> int:
        """Waits for news, stores verdicts, replaces workers that died or ran late; returns how many
        pairs were settled.
        """
        settled = 0
        with selectors.DefaultSelector() as selector:
            for worker in self._pool:
                selector.register(worker.output, selectors.EVENT_READ, worker)
            busy = [w.sent for w in self._pool if w.job is not None]
            if not busy and all(worker.ready for worker in self._pool):
                return 0
            wait = max(0.0, min(busy) + PAIR_SECONDS - time.monotonic()) if busy else 1.0
            news = {
                key.fd: os.read(key.fd, 4096).decode() for key, _ in selector.select(wait + 0.01)
            }
        now = time.monotonic()
        for worker in list(self._pool):
            letters = news.get(worker.output)
            for letter in letters or "":
                settled += self._hear(worker, letter, verdicts)
            if letters == "" or worker.overdue(now):
                settled += self._lose(worker, waiting, pairs)
            elif worker.done >= PAIRS_PER_WORKER and worker.job is None:
                self._replace(worker)
        return settled

    def _hear(self, worker: _Worker, letter: str, verdicts: list[bool]) -> int:
        if letter == "r":
            worker.ready = True
        elif letter in "01":
            assert worker.job is not None
            verdicts[worker.job] = letter == "1"
            worker.job = None
            worker.done += 1
            return 1
        else:
            worker.step = letter
        return 0

    def _lose(self, worker: _Worker, waiting: deque[int], pairs: Sequence[tuple[str, str]]) -> int:
        """Replaces a worker that died or ran late and quarantines what it was reading (when
        comparing: the longer side).
        """
        if not worker.ready:
            worker.errors.seek(0)
            last = worker.errors.read().decode(errors="replace").strip().splitlines()[-1:]
            raise RuntimeError(
                f"the answer grader does not start: {' '.join(last) or 'no message'}"
            )
        job, step = worker.job, worker.step
        self._replace(worker)
        if job is None:
            return 0
        if not step:  # it never began
            waiting.appendleft(job)
            return 0
        a, b = pairs[job]
        self.timeouts += 1
        self.quarantined.add({"a": a, "b": b}.get(step) or max(a, b, key=lambda t: (len(t), t)))
        return 1

    def _replace(self, worker: _Worker) -> None:
        worker.close()
        self._pool[self._pool.index(worker)] = _start()

    def close(self) -> None:
        """Ends all workers. The grader may be used again and starts new ones then."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        while self._pool:
            self._pool.pop().close()

    def forget(self) -> None:
        """In a forked child: the workers belong to the parent, so drop the pipes and leave the
        processes alone.
        """
        self._lock = threading.Lock()
        for worker in self._pool:
            for stream in (worker.process.stdin, worker.process.stdout):
                if stream is not None:
                    os.close(stream.fileno())
            worker.process.returncode = 0  # not ours to wait for
        _abandoned.extend(self._pool)
        self._pool = []


_abandoned: list[_Worker] = []


def _start() -> _Worker:
    if importlib.util.find_spec("math_verify") is None:
        raise RuntimeError(
            "math-verify is not installed: install rzero[stages] to compare symbolic answers"
        )
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with its worker
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "rzero_core.equality.grader_worker", str(CPU_SECONDS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
    )
    return _Worker(process, errors, time.monotonic())


SHARED = Grader()
"""One for the whole process: voting, rewards and evaluation share its workers."""
atexit.register(SHARED.close)
os.register_at_fork(after_in_child=SHARED.forget)
