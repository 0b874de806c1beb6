"""A real Prometheus beside the real operator: labels that rot alert, a stage keeps its curve."""

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prometheus_server import Prometheus, prometheus, static_scrape, wait_for

from rzero_core.intervals import wilson
from rzero_core.run import Stage
from rzero_core.status import GuardrailAction
from rzero_core.task import LabelAudit
from rzero_stages import live_metrics, progress
from tests.cluster.control_plane import ControlPlane
from tests.cluster.fake_stages import FakeStages, fake_stages
from tests.cluster.processes import free_ports
from tests.cluster.skips import skip_without_programs
from tests.cluster.stage_results import Outcome, Start
from tests.controlplane.helm import Helm, one
from tests.controlplane.operator_process import (
    DEFAULTS,
    SIDE_BY_SIDE,
    SMALL,
    create_run,
    get_run,
    install_crd,
    operator,
    wait_for_phase,
    wait_until,
)

SAMPLE = 300
ROT = {"RZeroPseudoLabelAccuracyDropped", "RZeroPseudoLabelAccuracyBelowFloor"}
SOON = "import rzero_operator.attempts as module; module.FIRST_BACK_OFF = 0.5"
"""Python that lets the operator try again at once."""


def audited(right: int) -> Outcome:
    """BuildCurriculum found so many right labels in its sample."""
    share = wilson(right, SAMPLE)._asdict()
    audit = LabelAudit(**share, sample_size=SAMPLE, right=right, method="programmatic/1")
    return Outcome(label_audit=audit)


def rotting(start: Start) -> Outcome | None:
    """The paper's own decline, 79 % to 69 %; the third curriculum waits for `release`."""
    if start.task.stage is not Stage.BUILD_CURRICULUM:
        return None
    return {1: audited(237), 2: audited(207)}.get(start.task.iteration, Outcome(hang=True))


def test_a_run_whose_labels_rot_fires_alerts_with_its_name_until_it_is_deleted(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    install_crd(control_plane)
    run = {"namespace": namespace, "run": "rotting"}
    series = f'{{__name__=~"rzero_(run|iteration)_.+",namespace="{namespace}",run="rotting"}}'
    with (
        operator(control_plane, tmp_path / "operator") as process,
        fake_stages(control_plane, rotting) as stages,
        # What a ServiceMonitor adds to the target; `namespace` is the run's all the same.
        prometheus(
            tmp_path,
            static_scrape("operator", process.port, namespace="rzero-system", pod="rzero-0"),
        ) as server,
    ):
        apply_run(control_plane, namespace, "rotting", onViolation="Warn")
        iteration = f'rzero_run_pseudo_label_accuracy_iteration{{namespace="{namespace}"}} == 2'
        wait_for("second estimate", lambda: bool(server.query(iteration)))
        # The run has lost ten points, not more: its condition tells, no alert fires.
        time.sleep(2.5)
        assert server.alerts(**run) == {}
        assert health(control_plane, namespace, "rotting") == ("False", "LabelAccuracyDropped")

        wait_until(lambda: begun(stages, Stage.BUILD_CURRICULUM) == 3)
        stages.release(audited(150))
        wait_for("alerts", lambda: set(server.alerts(**run)) == ROT)
        for name, severity in zip(sorted(ROT), ("critical", "warning"), strict=True):
            assert server.alerts(**run)[name] == {"alertname": name, "severity": severity, **run}
        assert health(control_plane, namespace, "rotting") == ("False", "LabelAccuracyBelowFloor")
        told = warnings(control_plane, namespace, "rotting")
        assert [reason for reason, _ in told] == ["LabelAccuracyDropped", "LabelAccuracyBelowFloor"]
        assert "0.500 [0.444, 0.556], below the floor of 0.60" in told[-1][1]
        # Warn: nothing is held up.
        status = wait_for_phase(control_plane, namespace, "rotting", "Succeeded")
        guardrail = status.iterations[-1].guardrail
        assert guardrail is not None and guardrail.action is GuardrailAction.WARNED
        assert server.query(series)

        control_plane.kubectl("delete", "cer", "rotting", "-n", namespace)
        wait_for("end of the alerts", lambda: server.alerts(**run) == {})
        assert 'run="rotting"' not in process.get("/metrics")[1]
        assert server.query(series) == []


def apply_run(cluster: ControlPlane, namespace: str, name: str, **label_accuracy: Any) -> None:
    """`kubectl apply` of a run of three iterations that are audited."""
    audit = {"auditor": {"type": "Programmatic"}, "sampleSize": SAMPLE, **label_accuracy}
    spec = {**SMALL, "stages": SIDE_BY_SIDE, "iterations": 3, "labelAccuracy": audit}
    cluster.apply(
        {
            "apiVersion": "rzero.dev/v1alpha1",
            "kind": "CoEvolutionRun",
            "metadata": {"name": name, "namespace": namespace},
            "spec": spec,
        }
    )


def health(cluster: ControlPlane, namespace: str, name: str) -> tuple[str, str]:
    """Status and reason of the condition LabelAccuracyHealthy."""
    conditions = get_run(cluster, namespace, name)["status"]["conditions"]
    (found,) = [entry for entry in conditions if entry["type"] == "LabelAccuracyHealthy"]
    return found["status"], found["reason"]


def warnings(cluster: ControlPlane, namespace: str, name: str) -> list[tuple[str, str]]:
    """Reasons and messages of the run's warning events, oldest first."""
    selector = f"involvedObject.name={name},type=Warning"
    events = cluster.kubectl(
        "get", "events", "-n", namespace, "--field-selector", selector, "-o", "json"
    )
    found = sorted(json.loads(events)["items"], key=lambda event: event["firstTimestamp"])
    return [(event["reason"], event["message"]) for event in found]


def begun(stages: FakeStages, stage: Stage) -> int:
    """Pods of a stage that began to run."""
    return sum(start.task.stage is stage for start in stages.starts)


def test_the_series_of_a_stage_are_named_by_what_runs_and_continue_in_its_next_pod(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    install_crd(control_plane)
    (port,) = free_ports(1)
    defaults = json.dumps({**DEFAULTS, "metricsPort": port})
    seen = {"namespace": namespace, "run": "curved", "iteration": "1", "job": "here/rzero-stage"}
    training = {"stage": "trainChallenger", "instance": f"{namespace}/curved/1/trainChallenger/"}
    shard = {"stage": "generateQuestions", "shard": "1"}
    shard |= {"instance": f"{namespace}/curved/1/generateQuestions/1"}
    hangs = (Stage.TRAIN_CHALLENGER, Stage.GENERATE_QUESTIONS)
    monitor = pod_monitor(tmp_path)
    with (
        operator(control_plane, tmp_path / "operator", prelude=SOON, RZERO_STAGE_DEFAULTS=defaults),
        fake_stages(
            control_plane, lambda start: Outcome(hang=True) if start.task.stage in hangs else None
        ) as stages,
        prometheus(tmp_path, scrape_of(monitor, tmp_path / "pods.json")) as server,
    ):
        create_run(control_plane, namespace, "curved")
        pods: list[str] = []

        def scraped(stage: Stage, number: int, shard: int | None = None) -> list[dict[str, str]]:
            start = running(stages, stage, number, shard)
            pods.append(f"/api/v1/namespaces/{namespace}/pods/{start.pod}")
            write_targets([control_plane.api().get(pod) for pod in pods], tmp_path / "pods.json")
            # All pods have one address here: the one before must not be asked for this one.
            wait_for("target", lambda: target_pods(server) == [start.pod])
            with served(start, port):
                return curve(server, start)

        assert scraped(Stage.TRAIN_CHALLENGER, 1) == [seen | training] * 2
        stages.release()
        assert scraped(Stage.GENERATE_QUESTIONS, 1, shard=1) == [seen | shard] * 2
        running(stages, Stage.GENERATE_QUESTIONS, 1, shard=0)
        stages.release(Outcome(exit_code=75))
        assert scraped(Stage.GENERATE_QUESTIONS, 2, shard=1) == [seen | shard] * 2

        of_shard = '{__name__=~"up|rzero_stage_progress_ratio",stage="generateQuestions",shard="1"}'
        ever = {"start": str(time.time() - 600), "match[]": of_shard}
        assert len(server.get("api/v1/series", **ever)) == 2


def pod_monitor(folder: Path) -> dict[str, Any]:
    """The chart's, as Helm renders it."""
    with skip_without_programs():
        objects = Helm(folder / "helm").render("--set", "metrics.podMonitor.enabled=true")
    return one(objects, "PodMonitor")


def scrape_of(monitor: dict[str, Any], pods: Path) -> dict[str, Any]:
    """The entry of scrape_configs that the Prometheus operator makes of a PodMonitor.

    Its own relabelings come first, as in its pkg/prometheus/promcfg.go. Targets come from a file:
    Debian's Prometheus has no discovery by the Kubernetes API.
    """
    metadata, spec = monitor["metadata"], monitor["spec"]
    (endpoint,) = spec["podMetricsEndpoints"]
    (selected,) = spec["selector"]["matchExpressions"]
    assert selected["operator"] == "Exists" and spec["namespaceSelector"] == {"any": True}
    pod = "__meta_kubernetes_pod"
    own = [
        _when("drop", f"{pod}_phase", "(Failed|Succeeded)"),
        _when("keep", f"{pod}_labelpresent_{_word(selected['key'])}", "true"),
        _when("keep", f"{pod}_container_port_name", endpoint["port"]),
        {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
        {"source_labels": [f"{pod}_container_name"], "target_label": "container"},
        {"source_labels": [f"{pod}_name"], "target_label": "pod"},
        {"target_label": "job", "replacement": f"{metadata['namespace']}/{metadata['name']}"},
        {"target_label": "endpoint", "replacement": endpoint["port"]},
    ]
    return {
        "job_name": f"podMonitor/{metadata['namespace']}/{metadata['name']}/0",
        "honor_labels": endpoint["honorLabels"],
        "metrics_path": endpoint["path"],
        "file_sd_configs": [{"files": [str(pods)]}],
        "relabel_configs": own + [_snake(step) for step in endpoint["relabelings"]],
    }


def write_targets(pods: list[dict[str, Any]], path: Path) -> None:
    """What Prometheus' discovery makes of pods, in its discovery/kubernetes/pod.go.

    All have the address of this machine, which serves in place of the newest of them.
    """
    meta = "__meta_kubernetes_"
    groups = []
    for pod in pods:
        metadata = pod["metadata"]
        labels = {
            f"{meta}namespace": metadata["namespace"],
            f"{meta}pod_name": metadata["name"],
            f"{meta}pod_uid": metadata["uid"],
            f"{meta}pod_phase": pod["status"]["phase"],
            f"{meta}pod_node_name": pod["spec"].get("nodeName", ""),
        }
        for kind in ("label", "annotation"):
            for key, value in metadata.get(f"{kind}s", {}).items():
                labels[f"{meta}pod_{kind}_{_word(key)}"] = value
                labels[f"{meta}pod_{kind}present_{_word(key)}"] = "true"
        for container in pod["spec"]["containers"]:
            for port in container.get("ports", []):
                place = {
                    f"{meta}pod_container_name": container["name"],
                    f"{meta}pod_container_port_name": port["name"],
                    f"{meta}pod_container_port_number": str(port["containerPort"]),
                }
                address = f"127.0.0.1:{port['containerPort']}"
                groups.append({"targets": [address], "labels": labels | place})
    # Prometheus must not read half of it.
    path.with_suffix(".new").write_text(json.dumps(groups))
    path.with_suffix(".new").rename(path)


def _when(action: str, label: str, regex: str) -> dict[str, Any]:
    return {"action": action, "source_labels": [label], "regex": regex}


def _word(key: str) -> str:
    """A label of Kubernetes as part of one of Prometheus."""
    return re.sub(r"\W", "_", key)


def _snake(step: dict[str, Any]) -> dict[str, Any]:
    """A relabeling in the words of Prometheus: sourceLabels is source_labels there."""
    return {
        re.sub(r"[A-Z]", lambda letter: f"_{letter[0].lower()}", key): value
        for key, value in step.items()
    }


def running(stages: FakeStages, stage: Stage, number: int, shard: int | None = None) -> Start:
    """What the `number`-th pod of a stage runs, once it does."""

    def found() -> list[Start]:
        wanted = (stage, number, shard)
        return [
            start
            for start in stages.starts
            if (start.task.stage, start.number, start.shard) == wanted
        ]

    wait_until(lambda: bool(found()), what=f"pod {number} of {stage}")
    return found()[0]


def target_pods(server: Prometheus) -> list[str]:
    """Names of the pods that are scraped."""
    targets = server.get("api/v1/targets", state="active")["activeTargets"]
    return [target["discoveredLabels"]["__meta_kubernetes_pod_name"] for target in targets]


@contextmanager
def served(start: Start, port: int) -> Iterator[None]:
    """The metrics of a stage that has reported progress, in place of its fake pod."""
    variables = {"RZERO_METRICS_PORT": str(port), "RZERO_METRICS_LINGER_SECONDS": "0"}
    with live_metrics.served(start.task, start.shard, variables):
        progress.report(start.number, 10, "steps")
        yield


def curve(server: Prometheus, start: Start) -> list[dict[str, str]]:
    """Labels of the target of a stage's pod, and of the series that it serves."""
    place = f'{{stage="{start.task.stage}",shard="{"" if start.shard is None else start.shard}"}}'
    newest = f"rzero_stage_progress_ratio{place} == {start.number / 10}"
    wait_for("scrape", lambda: bool(server.query(newest)))
    (target,), (series,) = server.query(f"up{place}"), server.query(newest)
    return [
        {name: value for name, value in found["metric"].items() if name != "__name__"}
        for found in (target, series)
    ]
