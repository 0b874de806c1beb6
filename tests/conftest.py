"""What tests of several folders share."""

import os
from collections.abc import Generator, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from s3_server import S3Server, s3_server

from tests.cluster.node import NodeCluster, node_cluster
from tests.cluster.skips import skip_without_programs

# Threads that wait spinning take the processor from those they wait for, where cores are few.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# How long an example takes says how busy the machine is.
settings.register_profile(
    "busy", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("busy")
# A machine holds one node at a time, so files that run side by side wait for each other.
NODE_WAIT_SECONDS = 540


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, None]:
    """What is skipped where all must run has failed."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"skipped although CI=true: {report.longrepr[-1]}"


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """A running S3 server; its credentials are in the environment."""
    with skip_without_programs(), s3_server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        # Without this, a test without credentials asks a cloud's metadata service for some.
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield server


@pytest.fixture(scope="module")
def node() -> Iterator[NodeCluster]:
    """A cluster with one real node and no fake ones; root and Debian's runc make it possible."""
    with skip_without_programs(), node_cluster(wait_seconds=NODE_WAIT_SECONDS) as cluster:
        yield cluster
