"""The test cluster itself: a real control plane on which fake nodes run plain Jobs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster_makers import create, ended, make_job, pods_of, wait, wait_for_end

from tests.cluster.api import ApiError
from tests.cluster.control_plane import ControlPlane


def test_a_service_account_may_do_only_what_it_was_granted(
    control_plane: ControlPlane, namespace: str
) -> None:
    accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    control_plane.api().request("POST", accounts, {"metadata": {"name": "reader"}})
    roles = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]
    role = {"metadata": {"name": "reader"}, "rules": rules}
    control_plane.api().request("POST", f"{roles}/roles", role)
    binding = {
        "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": namespace}],
    }
    control_plane.api().request("POST", f"{roles}/rolebindings", binding)

    api = control_plane.api(control_plane.service_account_token(namespace, "reader"))

    path = f"/api/v1/namespaces/{namespace}"
    assert wait(lambda: can(api.get, f"{path}/pods"))
    assert not can(api.get, f"{path}/secrets")
    assert not can(api.get, "/api/v1/nodes")


def can(get: Callable[[str], Any], path: str) -> bool:
    try:
        get(path)
    except ApiError as error:
        assert error.status == 403
        return False
    return True


def test_a_plain_job_runs_on_fake_nodes_and_leaves_its_message(
    control_plane: ControlPlane, namespace: str
) -> None:
    job = make_job("plain", None, pods=2, message='{"done": true}', seconds="0.1")

    path = create(control_plane, namespace, job)

    assert wait_for_end(control_plane, path) == "Complete"
    pods = pods_of(control_plane, path)
    assert [ended(pod)["message"] for pod in pods] == ['{"done": true}'] * 2
    (sidecar,) = pods[0]["status"]["initContainerStatuses"]
    assert sidecar["state"]["terminated"]["exitCode"] == 0


def test_a_plain_job_fails_with_the_exit_code_that_its_annotation_says(
    control_plane: ControlPlane, namespace: str
) -> None:
    job = make_job("bad", None, exit_code="65", message="no such file", seconds="0.1")

    path = create(control_plane, namespace, job)

    assert wait_for_end(control_plane, path) == "Failed"
    (pod,) = pods_of(control_plane, path)
    assert (ended(pod)["exitCode"], ended(pod)["message"]) == (65, "no such file")


def test_a_restart_of_etcd_loses_no_object(control_plane: ControlPlane, namespace: str) -> None:
    maps = f"/api/v1/namespaces/{namespace}/configmaps"
    control_plane.api().request("POST", maps, {"metadata": {"name": "kept"}, "data": {"a": "b"}})

    control_plane.restart_etcd()

    assert wait(lambda: read(control_plane, f"{maps}/kept"))["data"] == {"a": "b"}


def read(cluster: ControlPlane, path: str) -> Any:
    """The object, or None while etcd is not back."""
    try:
        return cluster.api().get(path)
    except ApiError as error:
        assert error.status >= 500
        return None


def test_calls_are_counted_by_user_agent(control_plane: ControlPlane, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    for _ in range(3):
        control_plane.api(agent="counted/1").get(path)

    calls = [event for event in control_plane.audit_events() if event["userAgent"] == "counted/1"]

    assert [(call["verb"], call["requestURI"]) for call in calls] == [("list", path)] * 3


def test_nothing_is_left_of_a_control_plane(tmp_path: Path) -> None:
    cluster = ControlPlane(tmp_path, fake_nodes=0)
    cluster.start()
    pids = cluster.processes.pids()

    cluster.stop()

    assert len(pids) == 4
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids.values())
