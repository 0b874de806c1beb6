"""The commands of the runbooks, as somebody on call types them, on a run that has gone wrong."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rzero_core.run import Stage
from tests.cluster.control_plane import ControlPlane
from tests.cluster.fake_stages import fake_stages
from tests.cluster.skips import skip_without_programs
from tests.cluster.stage_results import Outcome, Start
from tests.controlplane.helm import CHART, REPOSITORY, Helm
from tests.controlplane.kubelet import logs_served
from tests.controlplane.operator_process import create_run, install_crd, operator, wait_for_phase

PAGES = sorted((REPOSITORY / "docs/runbooks").glob("*.md"))
RUN, NAMESPACE, OPERATOR_NAMESPACE = "rotten", "runbook-runs", "runbook-operator"
OURS = {
    r"\bOPERATOR_NAMESPACE\b": OPERATOR_NAMESPACE,
    r"\bOPERATOR\b": "rzero",
    r"\bNAMESPACE\b": NAMESPACE,
    r"\bRUN\b": RUN,
    r"\bENDPOINT\b": "https://oracle.example/v1",
}
"""What somebody writes in place of the capitals."""
TRIED = {
    r" --rm -it ": " --dry-run=server ",
    r" (patch|annotate) ": r" \1 --dry-run=server ",
    r" \| grep .*": "",
}
"""What would change the run for the other pages, or needs a pod that really runs."""
ABSENT = {
    "top pods": "Metrics API not available",
    "get workloads": "doesn't have a resource type",
}
"""What a cluster without metrics-server and Kueue answers."""
NOTHING = "No resources found"


def commands(page: Path) -> list[str]:
    """All that a page says to type: the lines of its blocks, and what stands within sentences."""
    text = page.read_text()
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    within = [" ".join(found.split()) for found in re.findall(r"`(kubectl [^`]+)`", prose)]
    return lines + within


@pytest.fixture(scope="module")
def shell(
    control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """Variables of a shell in which kubectl finds the cluster, the run and an installed chart."""
    folder = tmp_path_factory.mktemp("runbooks")
    install_crd(control_plane)
    helm = Helm(folder / "helm", control_plane)
    alone = ("--set", "crds.install=false", "--set", "rbac.aggregateRoles=false")
    place = ("--namespace", OPERATOR_NAMESPACE)
    with skip_without_programs():
        helm("install", "rzero", CHART, *place, "--create-namespace", "--wait", *alone)
    control_plane.kubectl("create", "namespace", NAMESPACE)
    with (
        operator(control_plane, folder),
        fake_stages(control_plane, fails_in_the_end),
        logs_served(control_plane, folder, lambda pod, container: [f"{container} said so"]),
    ):
        oracle = {"endpoint": "https://oracle.example/v1", "model": "judge"}
        audit = {"auditor": {"type": "Oracle", "oracle": oracle}}
        create_run(control_plane, NAMESPACE, RUN, iterations=2, labelAccuracy=audit)
        wait_for_phase(control_plane, NAMESPACE, RUN, "Failed")
        scripts = Path(sys.executable).parent
        path = f"{scripts}:{os.environ['PATH']}"
        yield {**os.environ, **control_plane.environment, "PATH": path}
    helm("uninstall", "rzero", *place)
    control_plane.kubectl("delete", "namespace", NAMESPACE, OPERATOR_NAMESPACE, "--wait=false")
    pods = f"/api/v1/namespaces/{NAMESPACE}/pods?gracePeriodSeconds=0"
    control_plane.api().request("DELETE", pods)


def fails_in_the_end(start: Start) -> Outcome | None:
    """The last Solver cannot be trained."""
    if start.task.stage is Stage.TRAIN_SOLVER and start.task.iteration == 2:
        return Outcome(exit_code=65, message="curriculum.jsonl: 3 rows are no batch of 128")
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_a_runbook_runs_and_tells_something(
    page: Path, shell: dict[str, str]
) -> None:
    typed = commands(page)
    assert typed
    for command in typed:
        ready = command
        for pattern, replacement in (OURS | TRIED).items():
            ready = re.sub(pattern, replacement, ready)
        assert not re.search(r"\b[A-Z]+_?[A-Z]{2,}\b(?!=)", ready.split(" -- ")[0]), ready
        done = subprocess.run(
            ["bash", "-c", ready], env=shell, capture_output=True, text=True, timeout=60
        )
        excuse = next((text for name, text in ABSENT.items() if f" {name}" in ready), None)
        if excuse is not None and done.returncode:
            assert excuse in done.stderr, f"{ready}: {done.stderr}"
            continue
        assert done.returncode == 0, f"{ready}: {done.stderr}"
        nothing = NOTHING in done.stderr and "get events -A" in ready
        assert done.stdout.strip() or nothing, f"{ready} says nothing {done.stderr}"
