"""The time between two stages, for many runs at once, beside a kopf operator with a 10 s timer.

`python -m benchmarks.reconcile` starts a real control plane for each operator, applies 200 runs at
once, and reads from the API server's audit log when each stage's last pod ended and when the next
Job was created. `--runs 1000 --ours` shows that as many finish, and the memory that it takes. Pods
are moved by fake nodes; all else is real.
"""

import argparse
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rzero_operator.cluster import PLURAL
from tests.cluster.control_plane import ControlPlane, control_plane
from tests.cluster.fake_stages import fake_stages
from tests.cluster.stage_results import Outcome, Start
from tests.controlplane.operator_process import install_crd

NAMESPACE = "default"
RUNS = f"/apis/rzero.dev/v1alpha1/namespaces/{NAMESPACE}/coevolutionruns"
SPEC = {
    "model": "base",
    "storage": {"uri": "s3://bucket/runs"},
    "iterations": 1,
    "questions": {"shards": 2},
}
OPERATORS = {"rzero": "rzero_operator", "kopf timer, 10 s": "benchmarks.timer_operator"}
RESYNC_SECONDS = 20
IDLE_RESYNCS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200, help="runs applied at once")
    parser.add_argument("--seconds", type=float, nargs=2, default=(20.0, 40.0), help="of a stage")
    parser.add_argument("--ours", action="store_true", help="without the peer")
    parser.add_argument("--json", action="store_true", help="one object instead of a table")
    arguments = parser.parse_args()
    names = list(OPERATORS)[: 1 if arguments.ours else None]
    figures = {name: measure(name, arguments.runs, *arguments.seconds) for name in names}
    if arguments.json:
        print(json.dumps(figures))
    else:
        report(figures, arguments.runs)


def measure(name: str, runs: int, least: float, most: float) -> dict[str, float]:
    """Gaps, memory, processor time and requests of one operator under the load."""

    def outcome(_start: Start) -> Outcome:
        return Outcome(seconds=random.uniform(least, most))

    with TemporaryDirectory(prefix="rzero-bench-") as folder, control_plane(audit=True) as cluster:
        install_crd(cluster)
        with process(OPERATORS[name], cluster, Path(folder)) as operator:
            with fake_stages(cluster, outcome):
                time.sleep(5)  # The watches of both begin.
                began = time.monotonic()
                for number in range(runs):
                    create(cluster, f"run-{number:04d}")
                peak = wait_for_all(cluster, operator, timeout=60 + runs * 6 + 6 * most)
                elapsed = time.monotonic() - began
            gaps = sorted(gaps_of(cluster))
            used = processor_seconds(operator.pid)
            idle = idle_requests(cluster) if name == "rzero" else float("nan")
    assert len(gaps) == 4 * runs, f"{len(gaps)} gaps of {runs} runs"
    return {
        "runs": runs,
        "gap_p50_seconds": statistics.median(gaps),
        "gap_p99_seconds": gaps[min(len(gaps) - 1, int(0.99 * len(gaps)))],
        "gap_max_seconds": gaps[-1],
        "peak_mebibytes": peak / 2**20,
        "processor_seconds": used,
        "elapsed_seconds": elapsed,
        "requests_of_an_idle_run_per_resync": idle,
    }


@contextmanager
def process(module: str, cluster: ControlPlane, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    variables = {
        "KUBECONFIG": str(cluster.kubeconfig),
        "RZERO_STAGE_DEFAULTS": json.dumps({"image": "stages", "cache": {"emptyDir": {}}}),
        "RZERO_HTTP_PORT": "0",
        "RZERO_RESYNC_SECONDS": str(RESYNC_SECONDS),
        "RZERO_LOG_LEVEL": "WARNING",
    }
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen(
            [sys.executable, "-m", module], env=os.environ | variables, stdout=log, stderr=log
        )
        try:
            yield running
        finally:
            running.kill()
            running.wait()


def create(cluster: ControlPlane, name: str) -> None:
    body = {
        "apiVersion": "rzero.dev/v1alpha1",
        "kind": "CoEvolutionRun",
        "metadata": {"name": name},
        "spec": SPEC,
    }
    cluster.api(agent="benchmark").request("POST", RUNS, body)


def wait_for_all(cluster: ControlPlane, operator: subprocess.Popen[bytes], timeout: float) -> int:
    """The operator's peak of resident bytes until all runs succeeded."""
    deadline, peak = time.monotonic() + timeout, 0
    api = cluster.api(agent="benchmark")
    while time.monotonic() < deadline:
        assert operator.poll() is None, "the operator ended"
        peak = max(peak, resident_bytes(operator.pid))
        # One page of one: reading all runs each second would be a load of its own.
        if not api.get(f"{RUNS}?fieldSelector=status.phase%21%3DSucceeded&limit=1")["items"]:
            return peak
        time.sleep(1)
    phases = Counter((item.get("status") or {}).get("phase") for item in api.get(RUNS)["items"])
    raise TimeoutError(f"after {timeout:.0f} s: {dict(phases)}")


def gaps_of(cluster: ControlPlane) -> Iterator[float]:
    """Seconds from the end of a stage's last pod to the creation of the next Job, for all runs."""
    created: dict[str, float] = {}
    ended: defaultdict[str, float] = defaultdict(float)
    for event in cluster.audit_events():
        at, what = event.get("objectRef", {}), event["verb"]
        if "name" not in at or event["responseStatus"]["code"] >= 300:
            continue
        moment = datetime.fromisoformat(event["stageTimestamp"]).timestamp()
        if what == "create" and at["resource"] == "jobs":
            created[at["name"]] = moment
        elif what == "patch" and (at["resource"], at.get("subresource")) == ("pods", "status"):
            job = owner(at["name"])
            ended[job] = max(ended[job], moment)
    by_run: defaultdict[str, list[str]] = defaultdict(list)
    for job in sorted(created, key=created.__getitem__):
        by_run[job.rsplit("-i", 1)[0]].append(job)
    for jobs in by_run.values():
        for before, after in itertools.pairwise(jobs):
            yield created[after] - ended[before]


def owner(pod: str) -> str:
    """The Job of a pod, by its name: `<job>-<index>-<random>`, or `<job>-<random>`."""
    stem = pod.rsplit("-", 1)[0]
    head, _, tail = stem.rpartition("-")
    return head if tail.isdecimal() else stem


def idle_requests(cluster: ControlPlane) -> float:
    """Requests for one run whose stage takes long and is not disturbed, for each resync."""
    with fake_stages(cluster, lambda _: Outcome(hang=True)):
        create(cluster, "idle")
        time.sleep(RESYNC_SECONDS * 1.5)  # It has begun, and nothing happens any more.
        before = requests_about_runs(cluster)
        time.sleep(RESYNC_SECONDS * IDLE_RESYNCS)
        return (requests_about_runs(cluster) - before) / IDLE_RESYNCS


def requests_about_runs(cluster: ControlPlane) -> int:
    """What the operator asked about single runs: all but the watches and the list of all runs."""
    return sum(
        1
        for event in cluster.audit_events()
        if event.get("userAgent", "").startswith("rzero-operator")
        and "objectRef" in event
        and not (event["verb"] == "list" and event["objectRef"]["resource"] == PLURAL)
    )


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def report(figures: Mapping[str, Mapping[str, Any]], runs: int) -> None:
    print(f"{runs} runs of 5 Jobs at once; seconds from the end of a pod to the next Job")
    print(f"{'':18} {'p50':>7} {'p99':>7} {'max':>7} {'MiB':>6} {'CPU s':>6} {'wall s':>7}")
    for name, row in figures.items():
        print(
            f"{name:18} {row['gap_p50_seconds']:7.3f} {row['gap_p99_seconds']:7.3f} "
            f"{row['gap_max_seconds']:7.3f} {row['peak_mebibytes']:6.0f} "
            f"{row['processor_seconds']:6.0f} {row['elapsed_seconds']:7.0f}"
        )
    idle = figures["rzero"]["requests_of_an_idle_run_per_resync"]
    print(f"requests for an idle run in each resync: {idle:.1f}")


if __name__ == "__main__":
    main()
