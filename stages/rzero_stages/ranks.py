"""Starts the processes of one node that train together, one a GPU, and answers for all of them.

The variables are torchrun's own. torchrun itself turns every exit code into 1, but by its exit code
a stage says whether to try again; so this starts the ranks and gives back what they say.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

from rzero_core.task import (
    DEFAULT_RESULT_PATH,
    NEVER_RETRIED,
    RESULT_VARIABLE,
    BadTask,
    StageError,
    TryAgain,
)

STAGE = (sys.executable, "-m", "rzero_stages")
PATIENCE = 10.0
"""Seconds that ranks have to say something of their own after one of them has failed."""
PATIENCE_AFTER_STOP = 120.0
"""Seconds that they have when it stopped on request: the first rank publishes a checkpoint."""
MEETING_TIMEOUT = 1800.0
"""Seconds to wait for the first node to have an address; as long as torch waits for ranks."""

log = logging.getLogger("rzero_stages.ranks")


@dataclass(frozen=True)
class Node:
    """Which ranks this node has, and where all meet."""

    nodes: int
    processes: int
    """On each node."""
    number: int
    address: str
    port: int

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> "Node":
        """Of the variables by which torchrun is configured. Raises `BadTask`."""
        return cls(
            nodes=_number(environ, "PET_NNODES"),
            processes=_number(environ, "PET_NPROC_PER_NODE"),
            number=_number(environ, "PET_NODE_RANK"),
            address=environ.get("PET_MASTER_ADDR", "127.0.0.1"),
            port=_number(environ, "PET_MASTER_PORT"),
        )

    def environment(self, local: int) -> dict[str, str]:
        """What torchrun would set for a process of this node."""
        values = {
            "RANK": self.number * self.processes + local,
            "LOCAL_RANK": local,
            "WORLD_SIZE": self.nodes * self.processes,
            "LOCAL_WORLD_SIZE": self.processes,
            "MASTER_PORT": self.port,
        }
        return {name: str(value) for name, value in values.items()} | {"MASTER_ADDR": self.address}


@dataclass
class Rank:
    """A process of this node."""

    local: int
    process: subprocess.Popen[bytes]
    message_path: Path
    ended: float | None = None
    """When its end was seen."""
    killed: bool = False
    """By us, after another rank had failed."""

    @property
    def code(self) -> int:
        """Its exit code, as a shell gives it."""
        code = self.process.returncode
        return code if code >= 0 else 128 - code

    def message(self) -> str:
        """What it left: a result, or the line of its error."""
        try:
            text = self.message_path.read_text(errors="replace").strip()
        except FileNotFoundError:
            text = ""
        if self.process.returncode < 0:
            text = f"killed by {signal.Signals(-self.process.returncode).name}"
            if self.process.returncode == -signal.SIGKILL:
                text += "; often the memory ran out: lower microBatchSize"
        return text or f"rank {self.local} of this node ended with exit code {self.code}"


class Ranks:
    """The processes of this node, from their start to the end of the last."""

    def __init__(self, node: Node, command: Sequence[str], folder: Path) -> None:
        self._node = node
        self._command = command
        self._folder = folder
        self._ranks: list[Rank] = []
        self._asked_to_stop = False

    def stop(self) -> None:
        """Ask all to stop: they end the step under way together."""
        self._asked_to_stop = True
        for rank in self._ranks:
            if rank.process.poll() is None:
                rank.process.terminate()

    def run(self) -> tuple[int, str]:
        """The exit code and the message that stand for all. Raises `TryAgain`."""
        self._await_address()
        for local in range(self._node.processes):
            self._ranks.append(self._start(local))
            if self._asked_to_stop:
                self.stop()
        while [rank for rank in self._ranks if self._take_in(rank)]:
            self._end_what_hangs()
            time.sleep(0.1)
        speaker = _speaker(self._ranks)
        return speaker.code, speaker.message()

    def _start(self, local: int) -> Rank:
        path = self._folder / f"rank-{local}"
        environment = {
            # As torchrun does: ranks that each take all processors take them from one another.
            **({"OMP_NUM_THREADS": "1"} if self._node.processes > 1 else {}),
            **os.environ,
            **self._node.environment(local),
            RESULT_VARIABLE: str(path),
        }
        process = subprocess.Popen(self._command, env=environment)
        return Rank(local, process, path)

    def _await_address(self) -> None:
        """Until the first node can be found: its name is known only when its pod runs."""
        deadline = time.monotonic() + MEETING_TIMEOUT
        while True:
            if self._asked_to_stop:
                raise TryAgain("stopped on request")
            try:
                socket.getaddrinfo(self._node.address, self._node.port)
                return
            except OSError as error:
                if time.monotonic() > deadline:
                    raise TryAgain(
                        f"{self._node.address}: {error.strerror or error}; the first node has no "
                        "address yet, so see whether all its pods were scheduled"
                    ) from error
            time.sleep(1.0)

    def _take_in(self, rank: Rank) -> bool:
        """Note the end of a rank. True: it runs."""
        if rank.process.poll() is None:
            return True
        rank.ended = rank.ended or time.monotonic()
        return False

    def _end_what_hangs(self) -> None:
        """Ranks wait for each other for ever, so after a failure they end together."""
        failed = [rank for rank in self._ranks if rank.ended is not None and rank.code]
        if not failed or self._asked_to_stop:
            return
        last = max(rank.ended or 0.0 for rank in failed)
        stopped = all(rank.code == TryAgain.exit_code for rank in failed)
        if time.monotonic() - last > (PATIENCE_AFTER_STOP if stopped else PATIENCE):
            for rank in self._ranks:
                if rank.process.poll() is None:
                    rank.killed = True
                    rank.process.kill()


def main(command: Sequence[str] = STAGE) -> int:
    """Run the ranks of this node; their exit code, and their result or error where one belongs."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    with TemporaryDirectory(prefix="ranks-") as folder:
        try:
            ranks = Ranks(Node.read(os.environ), command, Path(folder))

            def stop(_number: int, _frame: FrameType | None) -> None:
                ranks.stop()

            signal.signal(signal.SIGTERM, stop)
            code, text = ranks.run()
        except StageError as error:
            code, text = error.exit_code, str(error)
            log.error("%s", text)
    path = Path(os.environ.get(RESULT_VARIABLE, DEFAULT_RESULT_PATH))
    path.write_text(text + "\n", encoding="utf-8")
    return code


def _speaker(ranks: Sequence[Rank]) -> Rank:
    """The rank that speaks for all: one that no retry can mend, else the first that failed."""
    failed = [rank for rank in ranks if rank.code and not rank.killed]
    if not failed:
        return ranks[0]
    return min(
        failed,
        # Others report that a rank is gone, or that they were asked to stop: not the cause.
        key=lambda rank: (
            rank.code not in NEVER_RETRIED,
            rank.code == TryAgain.exit_code,
            rank.ended,
        ),
    )


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name, "")
    if not (text.isascii() and text.isdigit()):
        raise BadTask(f"{name} must be a whole number, not {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
