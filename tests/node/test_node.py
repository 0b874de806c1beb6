"""The node of the test cluster: its pods run, see each other, and leave nothing behind."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.cluster.node import NodeCluster, hold_node, node_cluster
from tests.cluster.node_cleanup import FOLDERS, SYSCTLS
from tests.cluster.node_config import ADDRESS, IMAGE
from tests.conftest import NODE_WAIT_SECONDS

RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def container(name: str, *words: str, **fields: Any) -> dict[str, Any]:
    """A container that runs the probe."""
    return {"name": name, "image": IMAGE, "args": words, "securityContext": RESTRICTED, **fields}


def make_pod(name: str, *words: str, **labels: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": {"restartPolicy": "Never", "containers": [container("main", *words)]},
    }


def message_of(cluster: NodeCluster, pod: str) -> str:
    """What a pod that succeeded has found."""
    try:
        wait(cluster, "jsonpath={.status.phase}=Succeeded", f"pod/{pod}")
    except RuntimeError:
        pytest.fail(cluster.kubectl("describe", "pod", pod))
    path = "jsonpath={.status.containerStatuses[0].state.terminated.message}"
    return cluster.kubectl("get", "pod", pod, "-o", path)


def wait(cluster: NodeCluster, condition: str, what: str, *words: str) -> None:
    cluster.kubectl("wait", f"--for={condition}", what, "--timeout=60s", *words)


@pytest.fixture
def host_server(node: NodeCluster, tmp_path: Path) -> Iterator[str]:
    """URL of a file on a server of this machine, beside the cluster."""
    (tmp_path / "file").write_text("from the machine")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with HTTPServer((ADDRESS, 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{ADDRESS}:{server.server_port}/file"
        server.shutdown()


def test_nothing_is_left_of_a_node(tmp_path: Path) -> None:
    before = traces_without_a_node(tmp_path)
    with node_cluster(wait_seconds=NODE_WAIT_SECONDS) as cluster:
        cluster.apply(make_pod("left", "pause"))
        wait(cluster, "condition=Ready", "pod/left")
        assert traces() != before

    assert not cluster.folder.exists()
    assert traces_without_a_node(tmp_path) == before


def test_the_next_node_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    before = traces_without_a_node(tmp_path)
    words = "import time; from tests.cluster.node import node_cluster\n"
    words += f"with node_cluster(wait_seconds={NODE_WAIT_SECONDS}) as cluster:\n"
    words += "    print(cluster.folder, flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", words], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        folder = Path(owner.stdout.readline().decode().strip())
        os.kill(owner.pid, signal.SIGKILL)
    assert traces() != before

    with node_cluster(wait_seconds=NODE_WAIT_SECONDS):
        pass

    assert not folder.exists()
    assert traces_without_a_node(tmp_path) == before


def traces_without_a_node(folder: Path) -> dict[str, object]:
    """What a node changes, once no test beside this one has a node."""
    with hold_node(folder, NODE_WAIT_SECONDS):
        return traces()


def traces() -> dict[str, object]:
    """What a node changes on the machine."""
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    rules = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True).stdout
    return {
        "mounts": [row for row in mounts if "rzero-node" in row],
        "links": sorted(path.name for path in Path("/sys/class/net").iterdir()),
        "cgroups": sorted(path for path, *_ in os.walk("/sys/fs/cgroup") if is_of_node(path)),
        "rules": [row for row in rules.splitlines() if "KUBE" in row or "kube-proxy" in row],
        "processes": sum(b"rzero-node" in command for command in commands()),
        "folders": {folder: sorted(folder.glob("*")) for folder in FOLDERS if folder.exists()},
        "sysctls": {name: Path("/proc/sys", name).read_text() for name in SYSCTLS},
    }


def is_of_node(folder: str) -> bool:
    return folder.endswith("/rzero-node")


def commands() -> Iterator[bytes]:
    """Of all processes but those that end meanwhile."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):
            yield path.read_bytes()


def test_an_indexed_job_with_a_sidecar_runs_under_restricted_pod_security(
    node: NodeCluster,
) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    metadata = {"name": "restricted", "labels": labels}
    node.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "two", "namespace": "restricted"},
        "spec": {
            "completionMode": "Indexed",
            "completions": 2,
            "parallelism": 2,
            "backoffLimit": 0,
            "template": {
                "spec": {
                    "restartPolicy": "Never",
                    "initContainers": [container("solver", "pause", restartPolicy="Always")],
                    "containers": [container("main", "say", "part $JOB_COMPLETION_INDEX")],
                }
            },
        },
    }

    node.apply(job)

    wait(node, "condition=complete", "job/two", "-n", "restricted")
    pods = json.loads(node.kubectl("get", "pods", "-n", "restricted", "-o", "json"))["items"]
    ended = [pod["status"]["containerStatuses"][0]["state"]["terminated"] for pod in pods]
    assert sorted(state["message"] for state in ended) == ["part 0", "part 1"]


def test_a_pod_of_a_job_has_a_name_in_its_headless_service(node: NodeCluster) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "gang"},
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {"batch.kubernetes.io/job-name": "train"},
        },
    }
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "train"},
        "spec": {
            "completionMode": "Indexed",
            "completions": 2,
            "parallelism": 2,
            "template": {
                "spec": {
                    "subdomain": "gang",
                    "restartPolicy": "Never",
                    "containers": [container("main", "pause")],
                }
            },
        },
    }
    node.apply(service, job)

    node.apply(make_pod("asks", "resolve", "train-0.gang"))

    address = message_of(node, "asks")
    selector = "batch.kubernetes.io/job-completion-index=0"
    path = "jsonpath={.items[0].status.podIP}"
    assert address == node.kubectl("get", "pods", "-l", selector, "-o", path)


def test_a_pod_reaches_the_api_server_with_its_service_account(node: NodeCluster) -> None:
    node.apply(make_pod("api", "get", "https://kubernetes.default.svc/version"))

    assert message_of(node, "api").startswith("200 ")


def test_a_pod_reaches_another_through_its_service(node: NodeCluster) -> None:
    spec = {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec}
    node.apply(service, make_pod("web", "serve", ":8080", app="web"))
    wait(node, "condition=Ready", "pod/web")

    node.apply(make_pod("caller", "get", "http://web"))

    assert message_of(node, "caller") == "200 hello from web"


def test_a_pod_reaches_a_server_on_the_machine(node: NodeCluster, host_server: str) -> None:
    node.apply(make_pod("client", "get", host_server))

    assert message_of(node, "client") == "200 from the machine"


def test_logs_can_be_read_and_commands_run(node: NodeCluster) -> None:
    node.apply(make_pod("runs", "pause"))
    wait(node, "condition=Ready", "pod/runs")

    assert node.kubectl("logs", "runs") == "waiting\n"
    assert node.kubectl("exec", "runs", "--", "/probe", "print", "inside") == "inside\n"
