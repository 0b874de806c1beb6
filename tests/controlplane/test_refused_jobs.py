"""A Job that the server does not take shows in the run, in few words, and counts for nothing."""

import json
from pathlib import Path
from typing import Any

from operator_process import (
    HASTY,
    OperatorProcess,
    create_run,
    get_run,
    install_crd,
    operator,
    wait_for_phase,
)
from sanity import check_conditions, check_sane, wait_for_condition, wait_for_event

from rzero_core.run import Stage
from rzero_operator.tasks import Step
from tests.cluster.control_plane import ControlPlane
from tests.cluster.fake_stages import fake_stages
from tests.cluster.stage_results import Outcome, Start

SOON = 60
"""Seconds within which a condition must say what is wrong."""


def test_a_webhook_that_is_away_stalls_the_run_until_it_is_back(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    install_crd(control_plane)
    name = f"away-{namespace}"
    control_plane.apply(webhook_that_is_away(name, namespace))
    with (
        fake_stages(control_plane) as stages,
        operator(control_plane, tmp_path, prelude=HASTY, RZERO_RESYNC_SECONDS="60"),
    ):
        try:
            create_run(control_plane, namespace, "hooked")
            told = wait_for_condition(
                control_plane, namespace, "hooked", "Stalled", "CreateFailed", SOON
            )
            assert 'failed calling webhook "away.example.com"' in told
            run = get_run(control_plane, namespace, "hooked")
            check_conditions(run, frozenset({"Reconciling", "Stalled"}))
            wait_for_event(control_plane, namespace, "hooked", "CreateFailed")
        finally:
            control_plane.kubectl("delete", "validatingwebhookconfiguration", name)
        wait_for_phase(control_plane, namespace, "hooked", "Succeeded")
        check_sane(control_plane, namespace, "hooked", stages)


def test_a_refusal_that_repeats_a_huge_name_leaves_a_small_status(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    install_crd(control_plane)
    container = {"name": "main", "env": [{"name": "A=" + "x" * 600_000, "value": "1"}]}
    stages = {"trainChallenger": {"podTemplate": {"spec": {"containers": [container]}}}}
    with operator(control_plane, tmp_path):
        create_run(control_plane, namespace, "long", stages=stages)
        status = wait_for_phase(control_plane, namespace, "long", "Failed")
    message = status.iterations[0].stages[0].message
    assert message is not None and "Invalid value" in message and "xxx" in message
    assert len(json.dumps(status.to_dict())) < 10_000


def test_log_lines_name_the_attempt_that_they_are_about(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    def fail_once(start: Start) -> Outcome | None:
        first = start.task.stage is Stage.TRAIN_CHALLENGER and start.number == 1
        return Outcome(exit_code=1) if first else None

    install_crd(control_plane)
    with (
        fake_stages(control_plane, fail_once) as stages,
        operator(control_plane, tmp_path, prelude=HASTY) as process,
    ):
        create_run(control_plane, namespace, "logged")
        wait_for_phase(control_plane, namespace, "logged", "Succeeded")
        check_sane(
            control_plane,
            namespace,
            "logged",
            stages,
            budgets={Step(1, Stage.TRAIN_CHALLENGER): (2, 1, 0)},
        )
    lines = lines_of(process, "logged")
    assert {(line["namespace"], line["iteration"]) for line in lines} == {(namespace, 1)}
    said = [(line["stage"], line["attempt"], line["message"].partition(": ")[2]) for line in lines]
    assert [words for words in said if words[0] == "trainChallenger"] == [
        ("trainChallenger", 1, "attempt 1"),
        ("trainChallenger", 1, "attempt 1: the fake stage ended with 1"),
        ("trainChallenger", 2, "attempt 2"),
        ("trainChallenger", 2, "done"),
    ]
    assert {attempt for stage, attempt, _ in said if stage != "trainChallenger"} == {1}


def webhook_that_is_away(name: str, namespace: str) -> dict[str, Any]:
    """Must admit each Job of a namespace, and is not there to."""
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": [
            {
                "name": "away.example.com",
                "failurePolicy": "Fail",
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
                "timeoutSeconds": 2,
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "clientConfig": {"url": "https://127.0.0.1:9/x"},
                "rules": [
                    {
                        "apiGroups": ["batch"],
                        "apiVersions": ["v1"],
                        "operations": ["CREATE"],
                        "resources": ["jobs"],
                    }
                ],
            }
        ],
    }


def lines_of(process: OperatorProcess, run: str) -> list[dict[str, Any]]:
    """What an operator logged about the stages of a run."""
    lines = [json.loads(line) for line in process.log.read_text().splitlines()]
    return [line for line in lines if line.get("run") == run and "stage" in line]
