"""A real node for the tests of a file; root and Debian's runc and CNI plugins make it possible."""

from collections.abc import Iterator

import pytest

from tests.cluster.build import NoGo
from tests.cluster.node import NodeCluster, node_cluster

# A machine holds one node at a time, so files that run side by side wait for each other.
WAIT_SECONDS = 540


@pytest.fixture(scope="module")
def node() -> Iterator[NodeCluster]:
    """A cluster with one real node and no fake ones."""
    try:
        with node_cluster(wait_seconds=WAIT_SECONDS) as cluster:
            yield cluster
    except NoGo as reason:
        pytest.skip(str(reason))
