"""A store of each test on a real S3 server, directly and behind a network that fails."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from faulty_proxy import FaultyProxy, faulty_proxy
from s3_server import S3Server

from rzero_core.run import Storage
from rzero_core.store import ArtifactStore


@pytest.fixture
def root(s3: S3Server) -> str:
    return f"s3://{s3.bucket}/{uuid4().hex[:8]}"


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[FaultyProxy]:
    with faulty_proxy(s3.endpoint) as running:
        yield running


@pytest.fixture
def store(s3: S3Server, root: str, tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(Storage(uri=root, endpoint=s3.endpoint), tmp_path / "cache")


@pytest.fixture
def shaky(proxy: FaultyProxy, root: str, tmp_path: Path) -> ArtifactStore:
    """A store behind the faulty proxy."""
    return ArtifactStore(Storage(uri=root, endpoint=proxy.endpoint), tmp_path / "shaky", attempts=4)
