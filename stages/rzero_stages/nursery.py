"""Starts stages at once: a process that has imported the libraries and forks for every task.

The local runner starts one (`python -m rzero_stages.nursery FD`) and sends it, over the socket FD,
the environment of each stage as JSON with two descriptors: its standard output and its log. Back
come `{"born": pid}` and, in time, `{"ended": pid, "code": n}`. Importing PyTorch, Transformers and
TRL takes longer than many a stage of a small model; here it happens once a run.

Only for machines without a GPU: CUDA does not survive a fork, and there start-up is no matter.
"""

import ctypes
import gc
import json
import os
import selectors
import signal
import socket
import sys

_PR_SET_PDEATHSIG = 1
_LONGEST_MESSAGE = 2**20


def main(descriptor: int) -> int:
    """Serve until the runner closes its end. In a forked process: the stage's exit code."""
    # See __main__: it must be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    channel = socket.socket(fileno=descriptor)
    from rzero_stages import __main__, evaluate, train_challenger, train_solver

    libraries = (evaluate, train_challenger, train_solver)
    assert all(libraries)
    # What is here now stays: a collection in a child would copy every page that it looks at.
    gc.freeze()
    born: dict[int, int] = {}
    with selectors.DefaultSelector() as events:
        events.register(channel, selectors.EVENT_READ)
        while True:
            for key, _ in events.select():
                if key.fileobj is not channel:
                    _say_ended(channel, born, key.fd, events)
                    continue
                message, descriptors, _, _ = socket.recv_fds(channel, _LONGEST_MESSAGE, 2)
                if not message:
                    return 0
                pid = _fork()
                if pid == 0:
                    events.close()
                    channel.close()
                    _become_stage(json.loads(message), *descriptors)
                    return __main__.main()
                for passed in descriptors:
                    os.close(passed)
                watch = os.pidfd_open(pid)
                born[watch] = pid
                events.register(watch, selectors.EVENT_READ)
                channel.send(json.dumps({"born": pid}).encode())


def _fork() -> int:
    """A child that ends when the nursery does, as the nursery ends with the runner."""
    nursery = os.getpid()
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != nursery:
            os._exit(1)
    # A group of its own, so that what it leaves behind can be ended with it. Both see to that: the
    # runner may signal the group as soon as it hears of the child.
    os.setpgid(pid, pid)
    return pid


def _become_stage(environment: dict[str, str], output: int, log: int) -> None:
    """Have what the stage would have had as a process started by the runner itself."""
    os.dup2(output, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    os.close(output)
    os.close(log)
    os.environ.clear()
    os.environ.update(environment)


def _say_ended(
    channel: socket.socket, born: dict[int, int], watch: int, events: selectors.DefaultSelector
) -> None:
    pid = born.pop(watch)
    events.unregister(watch)
    os.close(watch)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    channel.send(json.dumps({"ended": pid, "code": code}).encode())


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
