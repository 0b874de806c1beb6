"""A real S3 server for tests: versitygw, built once from its Go module, outside the tree."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.cluster.build import program
from tests.cluster.processes import Processes, answers, free_ports

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "rzero-test", "AWS_SECRET_ACCESS_KEY": "rzero-test-secret"}
BUCKET = "rzero-test"


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
    with TemporaryDirectory(prefix="rzero-s3-") as folder:
        data, processes = Path(folder) / "data", Processes(Path(folder) / "logs")
        (data / BUCKET).mkdir(parents=True)
        (port,) = free_ports(1)
        options = ["--quiet", "--keep-alive", "--port", f"{address}:{port}"]
        options += ["--access", CREDENTIALS["AWS_ACCESS_KEY_ID"]]
        options += ["--secret", CREDENTIALS["AWS_SECRET_ACCESS_KEY"]]
        processes.start("versitygw", [program("versitygw"), *options, "posix", data])
        try:
            processes.wait_until("versitygw", lambda: answers(address, port))
            yield S3Server(f"http://{address}:{port}", BUCKET, dict(CREDENTIALS), data / BUCKET)
        finally:
            processes.stop_all()
