"""A real S3 server for tests: versitygw, built once from its Go module, outside the tree."""

import ctypes
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.cluster.build import program

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "rzero-test", "AWS_SECRET_ACCESS_KEY": "rzero-test-secret"}
BUCKET = "rzero-test"
PR_SET_PDEATHSIG = 1


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
def s3_server(address: str = "127.0.0.1") -> Iterator[S3Server]:
    """Start the server on a free port with an empty bucket, and stop it."""
    versitygw = program("versitygw")
    with TemporaryDirectory(prefix="rzero-s3-") as folder:
        data, log = Path(folder) / "data", Path(folder) / "log"
        (data / BUCKET).mkdir(parents=True)
        with socket.create_server((address, 0)) as probe:
            port = probe.getsockname()[1]
        options = ["--quiet", "--keep-alive", "--port", f"{address}:{port}"]
        options += ["--access", CREDENTIALS["AWS_ACCESS_KEY_ID"]]
        options += ["--secret", CREDENTIALS["AWS_SECRET_ACCESS_KEY"]]
        with log.open("w") as out:
            command = [versitygw, *options, "posix", data]
            process = subprocess.Popen(command, stdout=out, stderr=out, preexec_fn=_end_with_parent)
        try:
            _wait(process, (address, port), log)
            yield S3Server(f"http://{address}:{port}", BUCKET, dict(CREDENTIALS), data / BUCKET)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait(process: subprocess.Popen[bytes], place: tuple[str, int], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"versitygw ended: {log.read_text()}")
        try:
            socket.create_connection(place, timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("versitygw did not start within 30 s")
