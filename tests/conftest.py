"""What tests of several folders share."""

import os
from collections.abc import Iterator

import pytest
from s3_server import NoGo, S3Server, s3_server


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
        if os.environ.get("CI") == "true":
            pytest.fail(str(reason))
        pytest.skip(str(reason))
