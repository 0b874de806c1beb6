"""The chart on the real node: what whoever installs it does, and what users of its runs do."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from s3_server import S3Server

from rzero_core.status import RunStatus
from tests.cluster.build import program
from tests.cluster.node import NodeCluster

CHART = "charts/rzero"
SYSTEM, RUNS = "rzero-system", "research"
IMAGES = [
    *("--set", "image.registry=localhost", "--set", "image.tag=test"),
    *("--set", "stages.image.registry=localhost", "--set", "stages.image.tag=test"),
]


def helm(node: NodeCluster, home: Path, *words: str) -> str:
    """Run Helm, with its own files in `home`; the error shows why pods are not there."""
    places = {f"HELM_{place}_HOME": str(home / place) for place in ("CACHE", "CONFIG", "DATA")}
    done = subprocess.run(
        [program("helm"), *words],
        env=os.environ | node.environment | places,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (
        done.stdout + done.stderr + node.kubectl("get", "pods,events", "-n", SYSTEM)
    )
    return done.stdout


def scrape_of_the_operator(node: NodeCluster) -> dict[str, Any]:
    """The entry of scrape_configs for what a ServiceMonitor finds behind the chart's Service.

    A target has the operator's namespace and pod; its series keep those of their runs.
    """
    selector = "kubernetes.io/service-name=rzero-metrics"
    found = node.kubectl("get", "endpointslices", "-n", SYSTEM, "-l", selector, "-o", "json")
    (slice,) = json.loads(found)["items"]
    (port,), (endpoint,) = slice["ports"], slice["endpoints"]
    target = {
        "targets": [f"{endpoint['addresses'][0]}:{port['port']}"],
        "labels": {"namespace": SYSTEM, "pod": endpoint["targetRef"]["name"]},
    }
    return {"job_name": "rzero-metrics", "honor_labels": True, "static_configs": [target]}


def manifest(name: str, storage: S3Server) -> dict[str, Any]:
    """The tutorial's run, with the test's bucket and endpoint in place of the placeholders."""
    run: dict[str, Any] = yaml.safe_load(Path("examples/tiny/cluster.yaml").read_text())
    run["metadata"] = {"name": name, "namespace": RUNS}
    run["spec"]["storage"] |= {
        "uri": f"s3://{storage.bucket}/runs",
        "endpoint": storage.endpoint,
    }
    return run


def kubectl_rzero(node: NodeCluster, *words: str) -> str:
    """`kubectl rzero`, as kubectl finds it."""
    scripts = str(Path(sys.executable).parent)
    done = subprocess.run(
        ["kubectl", "rzero", *words, "-n", RUNS],
        env=os.environ | node.environment | {"PATH": f"{scripts}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def reach(node: NodeCluster, name: str, phase: str, seconds: float) -> RunStatus:
    """Wait until the run is in `phase`; what it says when it has ended in another, or is late."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        run = json.loads(node.kubectl("get", "cer", name, "-n", RUNS, "-o", "json"))
        status = RunStatus.parse(run.get("status") or {})
        if status.phase in (phase, "Succeeded", "Failed"):
            break
        time.sleep(2)
    if status.phase != phase:
        pytest.fail(
            f"{status.to_json(indent=1)}\n"
            + node.kubectl("get", "jobs,pods,events", "-n", RUNS)
            + node.kubectl("logs", "-n", SYSTEM, "deployment/rzero", "--tail=50")
        )
    return status


def attempts(node: NodeCluster, name: str) -> Counter[tuple[str, str, str]]:
    """Jobs of a run by iteration, stage and round."""
    jobs = json.loads(
        node.kubectl("get", "jobs", "-n", RUNS, "-l", f"rzero.dev/run={name}", "-o", "json")
    )["items"]
    labels = [job["metadata"]["labels"] for job in jobs]
    keys = ("rzero.dev/iteration", "rzero.dev/stage", "rzero.dev/round")
    return Counter((item[keys[0]], item[keys[1]], item[keys[2]]) for item in labels)


def warnings(node: NodeCluster, name: str) -> dict[str, str]:
    """Messages of a run's warning events, by their reasons."""
    selector = f"involvedObject.kind=CoEvolutionRun,involvedObject.name={name},type=Warning"
    found = node.kubectl("get", "events", "-n", RUNS, "--field-selector", selector, "-o", "json")
    return {event["reason"]: event["message"] for event in json.loads(found)["items"]}
