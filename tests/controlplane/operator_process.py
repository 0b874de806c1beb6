"""The operator as a process of its own, against the control plane of a test."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rzero_core.crd import definition
from rzero_core.status import RunStatus
from tests.cluster.api import ApiError
from tests.cluster.control_plane import ControlPlane

RUNS = "/apis/rzero.dev/v1alpha1/namespaces/{}/coevolutionruns"
DEFAULTS = {"image": "localhost/rzero-stages:test", "cache": {"emptyDir": {}}}
HASTY = """
from rzero_operator import attempts, reconciler
attempts.FIRST_BACK_OFF = 1.0
reconciler.LOOK_AGAIN = 2.0
"""
"""A prelude: pauses that a test would only wait for are short."""
_NUMBERS = itertools.count(1)
_RUN = "import sys; from rzero_operator.__main__ import main; sys.exit(main())"
SMALL = {
    "model": "base",
    "storage": {"uri": "s3://rzero-test/runs"},
    "iterations": 1,
    "questions": {"shards": 2},
}
SIDE_BY_SIDE = {"generateQuestions": {"parallelism": 2}, "labelQuestions": {"parallelism": 2}}
"""The stages of a run of five Jobs and seven pods."""


@dataclass
class OperatorProcess:
    """A running operator."""

    process: subprocess.Popen[bytes]
    log: Path

    @cached_property
    def port(self) -> int:
        """Of its HTTP endpoints; the system chose it. Raises OSError before it serves."""
        found = re.search(r"/metrics on port (\d+)", self.log.read_text())
        if found is None:
            raise ConnectionError(f"the operator does not serve yet: {self.log}")
        return int(found[1])

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of one of its HTTP endpoints."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def memory(self) -> int:
        """Resident bytes."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * 4096


@contextmanager
def operator(
    cluster: ControlPlane,
    folder: Path,
    *,
    kubeconfig: Path | None = None,
    wait: bool = True,
    prefix: Sequence[str] = (),
    prelude: str = "",
    **environment: str,
) -> Iterator[OperatorProcess]:
    """Start an operator, wait until it watches, and end it. Further arguments are variables.

    `prefix`: a command that runs the operator's (faketime). `prelude`: Python that runs before it,
    to shorten times that would make a test wait.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"operator-{next(_NUMBERS)}.log"
    variables = {
        "KUBECONFIG": str(kubeconfig or cluster.kubeconfig),
        "RZERO_STAGE_DEFAULTS": json.dumps(DEFAULTS),
        "RZERO_HTTP_PORT": "0",
        "RZERO_LOG_FORMAT": "json",
        "RZERO_RESYNC_SECONDS": "5",
        **environment,
    }
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*prefix, sys.executable, "-P", "-c", f"{prelude}\n{_RUN}"],
            env=os.environ | variables,
            stdout=out,
            stderr=out,
        )
    running = OperatorProcess(process, log)
    try:
        if wait:
            wait_until(lambda: _answers(running), 60, f"the operator to be ready: {log}")
        yield running
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(20)
    assert process.returncode in (0, -signal.SIGKILL), log.read_text()[-3000:]


def install_crd(cluster: ControlPlane) -> None:
    """Install the CRD and wait until the API server serves it."""
    cluster.apply(definition())
    cluster.wait_for_crd(definition()["metadata"]["name"])


def create_run(cluster: ControlPlane, namespace: str, name: str, **spec: Any) -> dict[str, Any]:
    """Create a small run; keyword arguments are fields of its spec."""
    body = {
        "apiVersion": "rzero.dev/v1alpha1",
        "kind": "CoEvolutionRun",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {**SMALL, **spec, "stages": {**SIDE_BY_SIDE, **spec.get("stages", {})}},
    }
    created: dict[str, Any] = cluster.api().request("POST", RUNS.format(namespace), body)
    return created


def get_run(cluster: ControlPlane, namespace: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = cluster.api().get(f"{RUNS.format(namespace)}/{name}")
    return found


def status_of(cluster: ControlPlane, namespace: str, name: str) -> RunStatus:
    return RunStatus.parse(get_run(cluster, namespace, name).get("status") or {})


def patch_run(cluster: ControlPlane, namespace: str, name: str, change: dict[str, Any]) -> None:
    """Merge a change into a run, as `kubectl patch --type=merge` does."""
    cluster.kubectl(
        "patch", "coevolutionrun", name, "-n", namespace, "--type=merge", "-p", json.dumps(change)
    )


def wait_for_phase(
    cluster: ControlPlane, namespace: str, name: str, phase: str, seconds: float = 120
) -> RunStatus:
    """Wait until the run is in a phase; the error shows its status."""

    def reached() -> bool:
        return status_of(cluster, namespace, name).phase == phase

    try:
        wait_until(reached, seconds, f"run {name} to be {phase}")
    except TimeoutError as error:
        raise TimeoutError(f"{error}; {get_run(cluster, namespace, name).get('status')}") from error
    return status_of(cluster, namespace, name)


def wait_until(
    true: Callable[[], bool], seconds: float = 30, what: str | Callable[[], str] = "it"
) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if true():
                return
        except (ApiError, OSError):
            pass  # A server that restarts.
        time.sleep(0.05)
    raise TimeoutError(f"waited {seconds} s for {what if isinstance(what, str) else what()}")


def _answers(running: OperatorProcess) -> bool:
    if running.process.poll() is not None:
        raise RuntimeError(f"the operator ended: {running.log.read_text()[-3000:]}")
    return running.get("/readyz")[0] == 200
