"""Starts the programs of the test cluster and ends them all, whatever ends their parent."""

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import SystemRandom

PR_SET_PDEATHSIG = 1
TAIL_LINES = 15
_libc = ctypes.CDLL(None)


class Processes:
    """Named processes, each with a log of its name in one folder."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.logs.mkdir(parents=True, exist_ok=True)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        # The kernel sends the death signal when the *thread* that started a process ends, so all
        # are started by one that lives as long as this object.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="starter")

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        environment: Mapping[str, str] | None = None,
        when_parent_dies: signal.Signals = signal.SIGKILL,
    ) -> subprocess.Popen[bytes]:
        """Start a program; it gets a signal when this process dies, even by kill -9."""

        def die_with_parent() -> None:
            _libc.prctl(PR_SET_PDEATHSIG, when_parent_dies)

        def popen() -> subprocess.Popen[bytes]:
            with (self.logs / f"{name}.log").open("a") as log:
                return subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, **(environment or {})},
                    # Of its own session, so that Ctrl-C reaches only the parent, which ends it.
                    start_new_session=True,
                    preexec_fn=die_with_parent,
                )

        self._running[name] = self._starter.submit(popen).result()
        return self._running[name]

    def stop(self, name: str, with_signal: signal.Signals = signal.SIGKILL) -> None:
        """End a program and wait for it; nothing happens if it does not run."""
        process = self._running.pop(name, None)
        if process is None:
            return
        process.send_signal(with_signal)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def stop_all(self) -> None:
        """End all, the last started first."""
        for name in reversed(list(self._running)):
            self.stop(name)
        self._starter.shutdown()

    def pids(self) -> dict[str, int]:
        """Process id of each that was started and not stopped."""
        return {name: process.pid for name, process in self._running.items()}

    def wait_until(self, name: str, ready: Callable[[], bool], seconds: float = 60) -> None:
        """Wait. Raises RuntimeError with the tail of the log when `name` ends or is late."""
        deadline = time.monotonic() + seconds
        while True:
            code = self._running[name].poll()
            if code is not None:
                raise RuntimeError(f"{name} ended with {code}:\n{self.tail(name)}")
            if ready():
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"{name} was not ready in {seconds:g} s:\n{self.tail(name)}")
            time.sleep(0.03)

    def tail(self, name: str) -> str:
        """The last lines of a log."""
        lines = (self.logs / f"{name}.log").read_text(errors="replace").splitlines()
        return "\n".join(lines[-TAIL_LINES:])


def free_ports(count: int) -> list[int]:
    """TCP ports that nobody listens on; below those that the kernel gives to connections, so that
    they are still free when a program that was stopped starts again."""
    ports: list[int] = []
    random = SystemRandom()
    while len(ports) < count:
        port = random.randrange(20000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        if port not in ports:
            ports.append(port)
    return ports


def answers(host: str, port: int) -> bool:
    """Whether somebody listens there."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True
