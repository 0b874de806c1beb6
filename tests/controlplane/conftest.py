"""A real control plane for the tests of this folder: one for each worker of pytest."""

from collections.abc import Iterator

import pytest
from operator_process import RUNS, wait_until

from tests.cluster.api import ApiError
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
    yield from _namespace(control_plane)


@pytest.fixture
def other_namespace(control_plane: ControlPlane) -> Iterator[str]:
    """Another one."""
    yield from _namespace(control_plane)


def _namespace(cluster: ControlPlane) -> Iterator[str]:
    path, api = "/api/v1/namespaces", cluster.api()
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"generateName": "test-"}}
    name: str = api.request("POST", path, body)["metadata"]["name"]
    # Without it no pod is admitted.
    account = f"{path}/{name}/serviceaccounts/default"
    wait_until(lambda: bool(api.get(account)), what=f"the default account of {name}")
    yield name
    api = cluster.api()
    api.request("DELETE", f"{path}/{name}")
    # Nobody ends the stage pods of a test that is over, so they end at once.
    api.request("DELETE", f"{path}/{name}/pods?gracePeriodSeconds=0")
    # The cluster takes half a minute for the rest: the next operator would work on these runs.
    try:
        api.request("DELETE", RUNS.format(name))
    except ApiError as error:
        if error.status != 404:  # The test installed no CRD.
            raise
