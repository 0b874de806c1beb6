"""What tests of several folders share."""

import os
from collections.abc import Generator, Iterator
from typing import Any

import pytest
from s3_server import S3Server, s3_server

from tests.cluster.build import NoGo

# Threads that wait spinning take the processor from those they wait for, where cores are few.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


NODE_TESTS = ("test_end_to_end.py", "test_node.py")
"""They need the machine's one node, so they run one after the other, on one worker."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file stays on one worker, so that its fixtures are made once."""
    for item in items:
        name = "node" if item.path.name in NODE_TESTS else str(item.path)
        item.add_marker(pytest.mark.xdist_group(name))


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
    try:
        with s3_server() as server, pytest.MonkeyPatch.context() as patch:
            for name, value in server.environment.items():
                patch.setenv(name, value)
            # Without this, a test without credentials asks a cloud's metadata service for some.
            patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
            yield server
    except NoGo as reason:
        pytest.skip(str(reason))
