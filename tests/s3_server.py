"""A real S3 server for tests: versitygw, built once from its Go module, outside the tree."""

import ctypes
import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

MODULE = Path(__file__).parent / "s3"
PACKAGE = "github.com/versity/versitygw/cmd/versitygw"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "rzero-test", "AWS_SECRET_ACCESS_KEY": "rzero-test-secret"}
BUCKET = "rzero-test"
PR_SET_PDEATHSIG = 1


class NoGo(RuntimeError):
    """There is neither a built server nor a Go compiler to build it."""


@dataclass(frozen=True)
class S3Server:
    """A running server."""

    endpoint: str
    bucket: str
    environment: dict[str, str]
    """Credentials, for the environment of what talks to it."""
    folder: Path
    """Where the objects of the bucket lie."""


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Start the server on a free port with an empty bucket, and stop it."""
    program = build()
    with TemporaryDirectory(prefix="rzero-s3-") as folder:
        data, log = Path(folder) / "data", Path(folder) / "log"
        (data / BUCKET).mkdir(parents=True)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        options = ["--quiet", "--keep-alive", "--port", f"127.0.0.1:{port}"]
        options += ["--access", CREDENTIALS["AWS_ACCESS_KEY_ID"]]
        options += ["--secret", CREDENTIALS["AWS_SECRET_ACCESS_KEY"]]
        with log.open("w") as out:
            command = [program, *options, "posix", data]
            process = subprocess.Popen(command, stdout=out, stderr=out, preexec_fn=_end_with_parent)
        try:
            _wait(process, port, log)
            yield S3Server(f"http://127.0.0.1:{port}", BUCKET, dict(CREDENTIALS), data / BUCKET)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def build() -> Path:
    """Path of the server, built if it is not there. Several builders at once do no harm."""
    version = re.search(r"versitygw v(\S+)", (MODULE / "go.mod").read_text())
    assert version is not None
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    program = cache / "rzero" / f"versitygw-{version[1]}" / "versitygw"
    if program.exists():
        return program
    if shutil.which("go") is None:
        raise NoGo("versitygw is not built and there is no Go compiler: install Go 1.26 or later")
    program.parent.mkdir(parents=True, exist_ok=True)
    with (program.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            unfinished = program.with_name(f"versitygw.{os.getpid()}")
            subprocess.run(
                ["go", "build", "-trimpath", "-o", unfinished, PACKAGE],
                cwd=MODULE,
                env=os.environ | {"CGO_ENABLED": "0"},
                check=True,
            )
            unfinished.replace(program)
    return program


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"versitygw ended: {log.read_text()}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("versitygw did not start within 30 s")
