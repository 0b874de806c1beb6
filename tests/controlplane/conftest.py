"""A real control plane for the tests of this folder: one for each worker of pytest."""

from collections.abc import Iterator

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.cluster.control_plane import control_plane as start_control_plane
from tests.cluster.skips import skip_without_programs


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """A control plane with fake nodes and an audit log; tests take a namespace each."""
    with skip_without_programs(), start_control_plane(audit=True) as cluster:
        yield cluster


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A namespace of one test, deleted with all that is in it."""
    path = "/api/v1/namespaces"
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"generateName": "test-"}}
    name: str = control_plane.api().request("POST", path, body)["metadata"]["name"]
    yield name
    control_plane.api().request("DELETE", f"{path}/{name}")
    # Nobody ends the stage pods of a test that is over, so they end at once.
    control_plane.api().request("DELETE", f"{path}/{name}/pods?gracePeriodSeconds=0")
