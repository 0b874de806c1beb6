"""Starts one process of a stage on this machine, reads what it says, and explains its end."""

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclass(frozen=True)
class Progress:
    """How far an attempt is, as its stage reports it."""

    done: float
    total: float
    unit: str
    metrics: dict[str, float]


class StageProcess(Protocol):
    """What the runner uses of `subprocess.Popen`, and what a nursery's child has too."""

    @property
    def pid(self) -> int: ...
    @property
    def stdout(self) -> IO[bytes] | None:
        """Its standard output, read without waiting."""

    @property
    def returncode(self) -> int | None: ...
    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""


@dataclass
class Process:
    """One shard, or one rank of a training stage."""

    shard: int | None
    rank: int
    popen: StageProcess
    log: IO[bytes]
    log_path: Path
    result_path: Path
    devices: tuple[str, ...]
    unread: bytes = b""

    def read(self) -> list[bytes]:
        """The whole lines that came on its standard output since the last call."""
        stdout = self.popen.stdout
        if stdout is None or stdout.closed:
            return []
        while chunk := stdout.read():
            self.unread += chunk
        *lines, self.unread = self.unread.split(b"\n")
        return lines

    def signal(self, number: signal.Signals) -> None:
        if self.popen.poll() is None:
            # To the whole group when it must end, so that helpers of the stage end with it.
            send = os.killpg if number == signal.SIGKILL else os.kill
            send(self.popen.pid, number)

    def end_helpers(self) -> None:
        """End what the stage's process left behind in its group."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.popen.pid, signal.SIGKILL)


def visible_gpus() -> tuple[str, ...]:
    """The GPUs that a stage may use, by the names that CUDA_VISIBLE_DEVICES takes."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return tuple(name for name in chosen.split(",") if name not in ("", "-1"))
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    listing = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False).stdout
    return tuple(str(index) for index, line in enumerate(listing.splitlines()) if "GPU" in line)


def popen_stage(
    command: Sequence[str], environment: dict[str, str], log: IO[bytes], lock: int | None
) -> subprocess.Popen[bytes]:
    popen = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        bufsize=0,
        # A group of its own: Ctrl-C reaches the runner alone, which then asks the stage to stop.
        process_group=0,
        pass_fds=(lock,) if lock is not None else (),
        preexec_fn=die_with(os.getpid()),
    )
    if popen.stdout is not None:
        os.set_blocking(popen.stdout.fileno(), False)
    return popen


def die_with(runner: int) -> Callable[[], None] | None:
    """What a child does before it becomes the stage: asks the kernel to end it with the runner.

    The runner has no threads, so that this is safe between fork and exec.
    """
    if _libc is None:
        return None
    prctl = _libc.prctl

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != runner:
            os._exit(1)

    return ask


def rendezvous(ranks: int) -> dict[str, str]:
    """What torchrun would set. Started by us, each rank keeps its exit code and ends with us."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def parse_progress(line: bytes) -> Progress | None:
    try:
        data = json.loads(line)
        if data["event"] != "progress":
            return None
        metrics = {str(key): float(value) for key, value in data.get("metrics", {}).items()}
        return Progress(
            float(data["done"]), float(data["total"]), str(data.get("unit", "")), metrics
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def exit_code(process: Process) -> int:
    code = process.popen.returncode
    assert code is not None
    return code if code >= 0 else 128 - code


def explain_end(process: Process) -> str:
    """The stage's own line of error, or how it ended; then where to read on."""
    code = process.popen.returncode
    assert code is not None
    try:
        message = " ".join(process.result_path.read_text(errors="replace").split())
    except FileNotFoundError:
        message = ""
    if code < 0:
        message = f"killed by {signal.Signals(-code).name}"
        if code == -signal.SIGKILL:
            message += "; often the machine ran out of memory: lower microBatchSize"
    return f"{message or f'exit code {code}'} (log: {process.log_path})"
