"""Any request of the operator may fail once, in each way in which requests fail."""

import re
from pathlib import Path

import pytest
from api_proxy import RESET, Answer, Asked, api_proxy, kubeconfig_through
from operator_process import create_run, install_crd, operator, wait_for_phase
from sanity import check_sane

from tests.cluster.control_plane import ControlPlane
from tests.cluster.fake_stages import fake_stages

FAILURES = {
    "409": Answer(409, "Conflict"),
    "429": Answer(429, "TooManyRequests", {"Retry-After": "1"}),
    "500": Answer(500, "InternalError"),
    "503": Answer(503, "ServiceUnavailable"),
    "reset": RESET,
    "answer lost": RESET,
}


@pytest.mark.parametrize("kind", FAILURES)
def test_a_run_succeeds_though_every_request_fails_at_first(
    control_plane: ControlPlane, namespace: str, tmp_path: Path, kind: str
) -> None:
    install_crd(control_plane)
    failed: set[str] = set()

    def fail(asked: Asked) -> Answer | None:
        # A server refuses only writes for a conflict.
        if kind == "409" and not asked.is_write:
            return None
        request = distinct(asked)
        if request in failed:
            return None
        failed.add(request)
        return FAILURES[kind]

    with api_proxy(control_plane) as proxy, fake_stages(control_plane) as stages:
        if kind == "answer lost":
            proxy.after = fail
        else:
            proxy.before = fail
        config = kubeconfig_through(proxy, control_plane, tmp_path / "kubeconfig")
        # So many failures in a row would make the pauses between them long.
        prelude = "import rzero_operator.queue as queue; queue.FIRST_RETRY = 0.1"
        with operator(control_plane, tmp_path, kubeconfig=config, prelude=prelude) as process:
            create_run(control_plane, namespace, "refused")
            wait_for_phase(control_plane, namespace, "refused", "Succeeded")
            check_sane(control_plane, namespace, "refused", stages)
    pauses = re.findall(r"429 TooManyRequests: .*? again in ([0-9.]+) s", process.log.read_text())
    assert bool(pauses) is (kind == "429")
    assert all(float(pause) >= 1.0 for pause in pauses)
    creates = [
        request
        for request in failed
        if request.startswith("POST") and "jobs" in request and "dryRun" not in request
    ]
    assert len(creates) == 5
    statuses = [request for request in failed if request.startswith("PUT")]
    assert len(statuses) >= 6
    if kind != "409":
        assert {"GET", "POST", "PUT"} <= {request.split()[0] for request in failed}


def distinct(asked: Asked) -> str:
    """What tells a request from its repetition: a status by what it says of stages and attempts."""
    path = re.sub(r"resourceVersion=[^&]*", "", asked.path)
    said = asked.body.decode()
    if asked.method == "PUT":
        said = " ".join(re.findall(r'"(?:state|attempts|phase|execution)":\s*"?[^",}]+', said))
    elif "/events" in path:
        said = " ".join(re.findall(r'"(?:reason|message)":\s*"[^"]+"', said))
    return f"{asked.method} {path} {said}"
