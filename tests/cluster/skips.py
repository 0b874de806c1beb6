"""Skips a test on a machine that can neither find nor build the programs it needs."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cluster.build import NoGo


@contextmanager
def skip_without_programs() -> Iterator[None]:
    """Skip the test where the body raises NoGo, with what is missing as the reason."""
    try:
        yield
    except NoGo as reason:
        pytest.skip(str(reason))
