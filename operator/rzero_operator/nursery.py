"""The runner's end of a nursery: a process of the stages that starts each of them by a fork."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

from rzero_core.task import ORACLE_KEY_VARIABLE, RESULT_VARIABLE
from rzero_operator.process import die_with

_COMMAND = (sys.executable, "-P", "-m", "rzero_stages.nursery")
_LONGEST_MESSAGE = 4096


class Born:
    """A stage that the nursery started: what the runner uses of `subprocess.Popen`."""

    def __init__(self, nursery: "Nursery", pid: int, stdout: IO[bytes]) -> None:
        self.pid = pid
        self.stdout = stdout
        self.returncode: int | None = None
        self._nursery = nursery

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        self._nursery.hear()
        return self.returncode


class Nursery:
    """Starts stages by fork, so that their libraries are imported once a run."""

    def __init__(self, folder: Path, lock: int | None) -> None:
        """`folder` is the run's; stages and nursery hold `lock` as long as one of them lives."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        passed = [theirs.fileno(), *([lock] if lock is not None else [])]
        (folder / "logs").mkdir(exist_ok=True)
        # By this variable a later runner finds what an earlier one left alive.
        environment = os.environ | {RESULT_VARIABLE: str(folder / "nursery")}
        # Its children are stages of all kinds, and the kernel shows with what it was started.
        environment.pop(ORACLE_KEY_VARIABLE, None)
        with theirs, (folder / "logs" / "nursery.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*_COMMAND, str(theirs.fileno())],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=passed,
                process_group=0,
                preexec_fn=die_with(os.getpid()),
            )
        self._socket = ours
        self._children: dict[int, Born] = {}
        self.alive = True

    def start(self, environment: dict[str, str], log: IO[bytes]) -> Born | None:
        """A new stage process; None when the nursery has ended and cannot start any."""
        output, given = os.pipe()
        try:
            socket.send_fds(self._socket, [json.dumps(environment).encode()], [given, log.fileno()])
        except (BrokenPipeError, ConnectionResetError):
            os.close(output)
            self._bury()
            return None
        finally:
            os.close(given)
        os.set_blocking(output, False)
        stdout = os.fdopen(output, "rb", buffering=0)
        while self.alive:
            answer = self._listen(wait=True)
            if answer is not None and "born" in answer:
                born = Born(self, answer["born"], stdout)
                self._children[born.pid] = born
                return born
        stdout.close()
        return None

    def hear(self) -> None:
        """Take in what the nursery said since the last time, without waiting."""
        while self.alive and self._listen(wait=False) is not None:
            pass

    def close(self) -> None:
        """Let the nursery end."""
        self._socket.close()
        self._process.wait()

    def _listen(self, *, wait: bool) -> dict[str, Any] | None:
        """One message, None if there is none."""
        self._socket.setblocking(wait)
        try:
            message = self._socket.recv(_LONGEST_MESSAGE)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            message = b""
        if not message:
            self._bury()
            return None
        said: dict[str, Any] = json.loads(message)
        if "ended" in said:
            self._children.pop(said["ended"]).returncode = said["code"]
        return said

    def _bury(self) -> None:
        """The nursery is gone, and by the kernel's promise its children with it."""
        self.alive = False
        for child in self._children.values():
            child.returncode = -signal.SIGKILL
        self._children = {}
