"""The operator fits its memory limit beside many runs that have a long history."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import test_status_size
import yaml
from operator_process import RUNS, OperatorProcess, create_run, install_crd, operator, wait_until

from rzero_core.run import RunSpec
from rzero_core.status import IterationStatus, Phase
from rzero_core.task import RunRef
from rzero_operator.decision import RunIdentity
from rzero_operator.history import fitted
from rzero_operator.plan import decide
from tests.cluster.control_plane import ControlPlane
from tests.cluster.control_plane import control_plane as start_control_plane
from tests.cluster.skips import skip_without_programs

FINISHED = 100
ITERATIONS = 30
ROOT = "s3://rzero-bucket/" + "r" * 60
MIB = 2**20


@pytest.fixture
def cluster() -> Iterator[ControlPlane]:
    """A control plane of its own: these runs are too large for others to wait for."""
    with skip_without_programs(), start_control_plane() as cluster:
        install_crd(cluster)
        yield cluster


def test_a_hundred_long_histories_fit_the_memory_limit_of_the_chart(
    cluster: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(test_status_size, "ITERATIONS", ITERATIONS)
    monkeypatch.setattr(test_status_size, "ROOT", ROOT)
    sizes = [finished_run(cluster, "default", f"run-{i:03d}") for i in range(FINISHED)]
    assert min(sizes) > 300_000

    with operator(cluster, tmp_path) as process:
        wait_until(lambda: shown(process) == FINISHED, 240, lambda: f"{shown(process)} runs")
        before = requests(process)
        # A resync lists them all once more.
        wait_until(lambda: requests(process) >= before + FINISHED / 10, 120, "a resync")
        peak = peak_memory(process)

    values = yaml.safe_load(Path("charts/rzero/values.yaml").read_text("utf-8"))
    limit = int(values["resources"]["limits"]["memory"].removesuffix("Mi")) * MIB
    assert peak < limit, f"{peak / MIB:.0f} MiB"


def finished_run(cluster: ControlPlane, namespace: str, name: str) -> int:
    """Create a run with a long history that the operator has nothing to add to; its characters."""
    run = create_run(cluster, namespace, name, iterations=ITERATIONS, storage={"uri": ROOT})
    ref = RunRef(name=name, namespace=namespace, uid=run["metadata"]["uid"])
    history = test_status_size.longest(ref, 1)
    status = fitted(
        history.model_copy(
            update={
                "phase": Phase.SUCCEEDED,
                "iterations": [sound(group) for group in history.iterations],
            }
        )
    )
    identity, spec = RunIdentity(ref, run["metadata"]["generation"]), RunSpec.parse(run["spec"])
    settled = decide(identity, spec, status, [], datetime.now(UTC)).status
    path = f"{RUNS.format(namespace)}/{name}/status"
    cluster.api().request("PUT", path, run | {"status": settled.to_dict()})
    return len(settled.to_json())


def sound(group: IterationStatus) -> IterationStatus:
    """The same with figures that the stages can have reported."""
    figures = {"shards": "2", "short": "0"}
    stages = [
        entry.model_copy(
            update={"metrics": {key: figures.get(key, said) for key, said in entry.metrics.items()}}
        )
        for entry in group.stages
    ]
    return group.model_copy(update={"stages": stages})


def shown(process: OperatorProcess) -> int:
    """Runs that the operator has looked at."""
    return process.get("/metrics")[1].count("\nrzero_run_info{")


def requests(process: OperatorProcess) -> float:
    """GET requests that the operator has made."""
    for line in process.get("/metrics")[1].splitlines():
        if line.startswith("rzero_api_requests_total") and 'verb="GET"' in line:
            return float(line.split()[-1])
    return 0.0


def peak_memory(process: OperatorProcess) -> int:
    """The most resident bytes that it ever had."""
    status = Path(f"/proc/{process.process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
