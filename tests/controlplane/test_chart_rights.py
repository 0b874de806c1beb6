"""The operator runs with the account and the configuration of an install, and needs no more."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.build import program
from tests.cluster.control_plane import ControlPlane
from tests.cluster.control_plane import control_plane as start_control_plane
from tests.cluster.fake_stages import fake_stages
from tests.cluster.skips import skip_without_programs
from tests.controlplane.helm import CHART, Helm
from tests.controlplane.operator_process import (
    OperatorProcess,
    create_run,
    operator,
    status_of,
    wait_for_phase,
    wait_until,
)

HOME = "rzero-system"
USER = f"system:serviceaccount:{HOME}:rzero"
TWO_NODES = {"trainSolver": {"nodes": 2}}
DONE = {
    "coevolutionruns": {"get", "list", "watch"},
    "coevolutionruns/status": {"update"},
    "jobs": {"list", "watch", "create"},
    "pods": {"list", "watch"},
    "services": {"create"},
    "events": {"create"},
}
"""What a run that succeeds needs; others also ask why a pod does not start."""


@pytest.fixture
def cluster() -> Iterator[ControlPlane]:
    """A control plane of its own, for the chart brings the CRD."""
    with skip_without_programs():
        program("helm")
        with start_control_plane(audit=True) as cluster:
            for name in (HOME, "team", "other"):
                cluster.kubectl("create", "namespace", name)
            yield cluster


def test_one_operator_serves_all_namespaces_with_the_rights_of_the_chart(
    cluster: ControlPlane, tmp_path: Path
) -> None:
    install(cluster, tmp_path)

    with fake_stages(cluster), installed_operator(cluster, tmp_path):
        for namespace in ("team", "other"):
            wait_for_phase(cluster, namespace, "first", "Succeeded")

    assert refused(cluster) == []
    assert unused(cluster, DONE) == {}


def test_two_operators_elect_one_and_serve_one_namespace_with_the_rights_of_the_chart(
    cluster: ControlPlane, tmp_path: Path
) -> None:
    install(cluster, tmp_path, "--set", "watchNamespaces={team}", "--set", "replicas=2")
    expected = DONE | {"leases": {"get", "create", "update"}}

    with (
        fake_stages(cluster),
        installed_operator(cluster, tmp_path, POD_NAME="rzero-0"),
        installed_operator(cluster, tmp_path, POD_NAME="rzero-1"),
    ):
        wait_for_phase(cluster, "team", "first", "Succeeded")
        # The leader renews its Lease every two seconds.
        wait_until(
            lambda: not unused(cluster, expected),
            what=lambda: f"use of {unused(cluster, expected)}",
        )

    assert status_of(cluster, "other", "first").phase == "Pending"
    assert cluster.api().get("/apis/batch/v1/namespaces/other/jobs")["items"] == []
    assert refused(cluster) == []


def install(cluster: ControlPlane, folder: Path, *words: str) -> None:
    """The chart, and a run in each namespace."""
    Helm(folder / "helm", cluster)("install", "rzero", CHART, "--namespace", HOME, *words)
    for namespace in ("team", "other"):
        # A new kind is not served at once.
        wait_until(
            lambda place=namespace: bool(create_run(cluster, place, "first", stages=TWO_NODES))
        )


def installed_operator(
    cluster: ControlPlane, folder: Path, **variables: str
) -> AbstractContextManager[OperatorProcess]:
    """An operator with the account and the environment that its Deployment gives it."""
    deployment = cluster.api().get(f"/apis/apps/v1/namespaces/{HOME}/deployments/rzero")
    pod = deployment["spec"]["template"]["spec"]
    environment = {
        entry["name"]: entry["value"] for entry in pod["containers"][0]["env"] if "value" in entry
    }
    # Two processes of one machine cannot have the same port.
    del environment["RZERO_HTTP_PORT"]
    token = cluster.service_account_token(HOME, pod["serviceAccountName"])
    kubeconfig = cluster.kubeconfig_for(token, folder / "operator.kubeconfig", HOME)
    variables = {"POD_NAMESPACE": HOME} | environment | variables
    return operator(cluster, folder, kubeconfig=kubeconfig, **variables)


def asked(cluster: ControlPlane) -> list[dict[str, Any]]:
    return [event for event in cluster.audit_events() if event["user"]["username"] == USER]


def refused(cluster: ControlPlane) -> list[str]:
    """What the operator asked for without the right to."""
    return [
        f"{event['verb']} {event['requestURI']}"
        for event in asked(cluster)
        if event["responseStatus"]["code"] == 403
    ]


def unused(cluster: ControlPlane, expected: dict[str, set[str]]) -> dict[str, set[str]]:
    """Rights, verbs by resource, that the operator did not use: the chart need not give them."""
    left = {resource: set(verbs) for resource, verbs in expected.items()}
    for event in asked(cluster):
        if reference := event.get("objectRef"):
            words = (reference["resource"], reference.get("subresource"))
            left.get("/".join(filter(None, words)), set()).discard(event["verb"])
    return {resource: verbs for resource, verbs in left.items() if verbs}
