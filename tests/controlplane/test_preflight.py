"""An operator does not begin where all that it did would fail: it says why and waits, unready."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from operator_process import (
    DEFAULTS,
    RUNS,
    OperatorProcess,
    create_run,
    install_crd,
    operator,
    status_of,
    wait_for_phase,
    wait_until,
)
from sanity import writes

from tests.cluster.api import ApiError
from tests.cluster.control_plane import ControlPlane
from tests.cluster.control_plane import control_plane as start_control_plane
from tests.cluster.fake_stages import fake_stages
from tests.cluster.skips import skip_without_programs

PREFLIGHT_SECONDS = 60
UNREADY = (503, "starting")


@pytest.fixture
def bare() -> Iterator[ControlPlane]:
    """A control plane of its own, without the CRD."""
    with skip_without_programs(), start_control_plane() as cluster:
        cluster.kubectl("create", "namespace", "lab")
        yield cluster


def test_an_operator_that_starts_before_the_crd_waits_for_it_and_then_watches(
    bare: ControlPlane, tmp_path: Path
) -> None:
    # No resync comes to the help of a watch that does not work.
    with (
        fake_stages(bare),
        operator(bare, tmp_path, wait=False, RZERO_RESYNC_SECONDS="60") as process,
    ):
        wait_for_words(process, "the CRD coevolutionruns.rzero.dev is missing: install it")
        assert process.get("/readyz") == UNREADY
        assert process.get("/livez") == (200, "ok")
        # So that the alert about an operator that is away tells of this one.
        assert process.get("/metrics") == UNREADY
        install_crd(bare)
        wait_until(lambda: process.get("/readyz") == (200, "ok"), PREFLIGHT_SECONDS, "readiness")
        create_run(bare, "lab", "late")
        began = time.monotonic()
        wait_for_phase(bare, "lab", "late", "Succeeded")
        assert time.monotonic() - began < 45


def test_defaults_that_make_no_valid_job_keep_an_operator_from_beginning(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    install_crd(control_plane)
    typo = DEFAULTS | {"podTemplate": {"spec": {"tolerationz": []}}}
    create_run(control_plane, namespace, "spared")
    variables = {"RZERO_NAMESPACES": namespace}
    with operator(
        control_plane,
        tmp_path,
        wait=False,
        RZERO_STAGE_DEFAULTS=json.dumps(typo),
        **variables,
    ) as process:
        wait_for_words(process, "mend `stages` of the chart")
        assert "tolerationz" in process.log.read_text()
        # Longer than a resync, which would bring it to the run.
        time.sleep(7)
        assert process.get("/readyz") == UNREADY
        assert process.get("/livez") == (200, "ok")
        assert status_of(control_plane, namespace, "spared").phase == "Pending"
        assert set(writes(control_plane, namespace)) <= {"create jobs 400", "create jobs 422"}
    with operator(control_plane, tmp_path, **variables), fake_stages(control_plane):
        wait_for_phase(control_plane, namespace, "spared", "Succeeded")


def test_a_policy_against_jobs_where_an_operator_looks_first_does_not_keep_it_from_beginning(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    install_crd(control_plane)
    api, name = control_plane.api(), f"team-{namespace}"
    path = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolic"
    rule = {
        "apiGroups": ["batch"],
        "apiVersions": ["v1"],
        "operations": ["CREATE"],
        "resources": ["jobs"],
    }
    policy = {
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {"resourceRules": [rule]},
            "validations": [{"expression": "'team' in object.metadata.?labels.orValue({})"}],
        },
    }
    here = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    binding = {
        "metadata": {"name": name},
        "spec": {
            "policyName": name,
            "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": here},
        },
    }
    api.request("POST", f"{path}ies", policy)
    api.request("POST", f"{path}ybindings", binding)
    try:
        wait_until(lambda: denies(control_plane, namespace), 60, "the policy to hold")
        with operator(control_plane, tmp_path, RZERO_NAMESPACES=namespace) as process:
            assert "the defaults of stages were not tried" in process.log.read_text()
    finally:
        api.request("DELETE", f"{path}ybindings/{name}")
        api.request("DELETE", f"{path}ies/{name}")


def denies(cluster: ControlPlane, namespace: str) -> bool:
    """Whether a sound Job is refused as a policy refuses one."""
    pod = {"containers": [{"name": "a", "image": "a"}], "restartPolicy": "Never"}
    job = {"metadata": {"name": "sound"}, "spec": {"template": {"spec": pod}}}
    try:
        cluster.api().request("POST", f"/apis/batch/v1/namespaces/{namespace}/jobs?dryRun=All", job)
    except ApiError as error:
        assert error.status == 422
        return "ValidatingAdmissionPolicy" in str(error)
    return False


def test_a_dry_run_leaves_no_job(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    install_crd(control_plane)
    with operator(control_plane, tmp_path, RZERO_NAMESPACES=namespace):
        jobs = control_plane.api().get(f"/apis/batch/v1/namespaces/{namespace}/jobs")
        assert jobs["items"] == []
        assert control_plane.api().get(RUNS.format(namespace))["items"] == []


def wait_for_words(process: OperatorProcess, words: str) -> None:
    def said() -> bool:
        lines = [json.loads(line) for line in process.log.read_text().splitlines()]
        return any(words in line["message"] for line in lines if line["level"] == "ERROR")

    wait_until(said, PREFLIGHT_SECONDS, lambda: f"{words}: {process.log.read_text()}")
