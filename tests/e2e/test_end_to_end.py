"""The tutorial's way, for real: Helm, an applied run, pods of both images, checkpoints on S3."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from prometheus_server import pager, prometheus, wait_for
from s3_server import S3Server, s3_server

from rzero_core.run import RunSpec, Stage
from rzero_core.status import RunStatus, StageState
from rzero_core.store import ArtifactStore
from rzero_core.task import shard_prefix
from rzero_operator.conditions import condition_of
from tests.cluster.images import images
from tests.cluster.node import NodeCluster
from tests.cluster.node_config import ADDRESS
from tests.e2e.installation import (
    CHART,
    IMAGES,
    RUNS,
    SYSTEM,
    attempts,
    helm,
    kubectl_rzero,
    manifest,
    reach,
    scrape_of_the_operator,
    warnings,
)

RESTRICTED = "pod-security.kubernetes.io/enforce=restricted"


@pytest.fixture(scope="module")
def storage() -> Iterator[S3Server]:
    """An S3 server that pods reach at the bridge's address."""
    with s3_server(ADDRESS) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield server


@pytest.fixture(scope="module")
def installed(node: NodeCluster, storage: S3Server) -> Iterator[NodeCluster]:
    """The node with both images, the chart installed, and a namespace for runs."""
    built = images()
    node.import_image(built.operator)
    node.import_image(built.stages)
    for namespace in (SYSTEM, RUNS):
        node.kubectl("create", "namespace", namespace)
        node.kubectl("label", "namespace", namespace, RESTRICTED)
    literals = [f"--from-literal={name}={value}" for name, value in storage.environment.items()]
    node.kubectl("create", "secret", "generic", "rzero-s3", "-n", RUNS, *literals)
    with TemporaryDirectory() as home:
        helm(
            node,
            Path(home),
            "install",
            "rzero",
            CHART,
            "-n",
            SYSTEM,
            *IMAGES,
            "--wait",
            "--timeout",
            "3m",
        )
        yield node


def check_artifacts(run: dict[str, Any], status: RunStatus) -> ArtifactStore:
    """Every stage that is done has left what its manifest says, byte by byte."""
    store = ArtifactStore(RunSpec.parse(run["spec"]).storage)
    for group in status.iterations:
        for entry in group.stages:
            assert entry.state is StageState.DONE
            (uri,) = entry.outputs.values()
            shards = int(entry.metrics.get("shards", "0"))
            for place in [shard_prefix(uri, shard) for shard in range(shards)] or [uri]:
                assert any(store.local(place).iterdir())
    return store


@dataclass(frozen=True)
class Ended:
    """A run that has succeeded, its pods and Jobs still there."""

    run: dict[str, Any]
    status: RunStatus


@pytest.fixture(scope="module")
def tiny(installed: NodeCluster, storage: S3Server) -> Ended:
    """Two iterations of the tutorial's run: long, so that all who need one look at this."""
    run = manifest("tiny", storage)
    run["spec"]["iterations"] = 2
    installed.apply(run)
    return Ended(run, reach(installed, "tiny", "Succeeded", 1800))


@pytest.mark.timeout(2400)
def test_two_iterations_of_the_tiny_model(installed: NodeCluster, tiny: Ended) -> None:
    status = tiny.status
    done = [(group.iteration, entry.stage) for group in status.iterations for entry in group.stages]
    assert done == [(0, Stage.EVALUATE), *((i, stage) for i in (1, 2) for stage in Stage)]
    counts = attempts(installed, "tiny")
    assert len(counts) == len(done)
    assert set(counts.values()) == {1}, "a stage had more than one Job"
    store = check_artifacts(tiny.run, status)
    last = status.find(2, Stage.TRAIN_SOLVER)
    assert last is not None
    assert answers_of(store.model(last.outputs["checkpoint"]))


@pytest.mark.timeout(2400)
@pytest.mark.usefixtures("tiny")
def test_the_plugin_shows_the_run(installed: NodeCluster, tmp_path: Path) -> None:
    shown = kubectl_rzero(installed, "status", "tiny")
    assert "Succeeded" in shown and "label accuracy" in shown
    log = kubectl_rzero(installed, "logs", "tiny", "--stage", "trainSolver")
    assert "progress" in log
    page = tmp_path / "report.html"
    kubectl_rzero(installed, "report", "tiny", "-o", str(page))
    assert "tiny" in page.read_text()


@pytest.mark.timeout(1500)
def test_a_served_solver_and_two_nodes_that_train_together(
    installed: NodeCluster, storage: S3Server
) -> None:
    run = manifest("wide", storage)
    spec = run["spec"]
    spec |= {"iterations": 1, "evaluation": {"datasets": []}}
    spec["challenger"] |= {"steps": 1, "batchSize": 16, "microBatchSize": 16}
    spec["questions"] |= {"count": 80, "shards": 2}
    spec["labels"] |= {"votes": 4}
    spec["solver"] |= {"steps": 2, "batchSize": 8, "groupSize": 4}
    spec["stages"] = {
        "trainChallenger": {"solverGpus": 0},
        "generateQuestions": {"parallelism": 2},
        "trainSolver": {"nodes": 2},
    }
    installed.apply(run)
    status = reach(installed, "wide", "Succeeded", 1200)
    assert set(attempts(installed, "wide").values()) == {1}
    check_artifacts(run, status)
    pods = json.loads(
        installed.kubectl("get", "pods", "-n", RUNS, "-l", "rzero.dev/run=wide", "-o", "json")
    )["items"]
    by_stage = Counter(pod["metadata"]["labels"]["rzero.dev/stage"] for pod in pods)
    assert by_stage["trainSolver"] == 2
    (challenger,) = [
        pod for pod in pods if pod["metadata"]["labels"]["rzero.dev/stage"] == "trainChallenger"
    ]
    (sidecar,) = challenger["spec"]["initContainers"]
    assert sidecar["restartPolicy"] == "Always"


@pytest.mark.timeout(1500)
def test_a_bad_model_is_stopped_before_it_learns_and_alerts_until_its_run_is_deleted(
    installed: NodeCluster, storage: S3Server, tmp_path: Path
) -> None:
    run = manifest("bad", storage)
    spec = run["spec"]
    spec |= {"model": "examples/tiny/model-bad", "evaluation": {"datasets": []}}
    spec["challenger"] |= {"batchSize": 96, "microBatchSize": 96}
    spec["questions"] |= {"count": 300}
    spec["labelAccuracy"] |= {"onViolation": "Pause"}
    labels = {"namespace": RUNS, "run": "bad"}
    severities = {"RZeroPseudoLabelAccuracyBelowFloor": "critical", "RZeroRunPaused": "warning"}
    with (
        pager() as told,
        prometheus(tmp_path, scrape_of_the_operator(installed), hold="2s", pager=told) as server,
    ):
        installed.apply(run)
        status = reach(installed, "bad", "Suspended", 900)
        accuracy = status.iterations[-1].label_accuracy
        assert accuracy is not None and accuracy.estimate is not None
        assert float(accuracy.estimate) < RunSpec.parse(spec).label_accuracy.floor
        healthy = condition_of(status, "LabelAccuracyHealthy")
        assert healthy is not None
        assert (healthy.status, healthy.reason) == ("False", "LabelAccuracyBelowFloor")
        told_of = {"LabelAccuracyBelowFloor", "Paused"}
        wait_for("events", lambda: told_of <= set(warnings(installed, "bad")))
        events = warnings(installed, "bad")
        assert "below the floor of 0.60" in events["LabelAccuracyBelowFloor"]
        assert "before trainSolver" in events["Paused"]
        assert "below the floor of 0.60" in kubectl_rzero(installed, "status", "bad")

        alerts = {
            name: {"alertname": name, "severity": severity, **labels}
            for name, severity in severities.items()
        }
        wait_for("alerts", lambda: server.alerts(**labels) == alerts)
        (sample,) = server.found('rzero_run_pseudo_label_accuracy_ratio{run="bad"}')
        assert sample["metric"]["namespace"] == RUNS
        assert float(sample["value"][1]) == float(accuracy.estimate)
        firing = dict.fromkeys(severities, "firing")
        wait_for("pages", lambda: told.pages(**labels) == firing)
        # Nobody went on meanwhile.
        assert {stage for _, stage, _ in attempts(installed, "bad")} == {
            *("trainChallenger", "generateQuestions", "labelQuestions", "buildCurriculum")
        }

        installed.kubectl("delete", "cer", "bad", "-n", RUNS)
        wait_for("end of the alerts", lambda: server.alerts(**labels) == {})
        resolved = dict.fromkeys(severities, "resolved")
        wait_for("end of the pages", lambda: told.pages(**labels) == resolved)
        assert server.query('{__name__=~"rzero_(run|iteration)_.+",run="bad"}') == []


@pytest.mark.timeout(2400)
@pytest.mark.usefixtures("tiny")
def test_stage_pods_hold_no_token(installed: NodeCluster) -> None:
    pods = json.loads(installed.kubectl("get", "pods", "-n", RUNS, "-o", "json"))["items"]
    assert pods
    for pod in pods:
        containers = [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
        mounts = [m["mountPath"] for c in containers for m in c["volumeMounts"]]
        assert mounts
        assert not [place for place in mounts if "serviceaccount" in place]


def test_the_operator_starts_jobs_and_reads_no_secret(installed: NodeCluster) -> None:
    assert operator_may(installed, "create", "jobs", group="batch")
    for verb, resource in (("get", "secrets"), ("get", "configmaps"), ("create", "pods/exec")):
        assert not operator_may(installed, verb, resource), f"{verb} {resource}"


def test_the_charts_own_test_passes(installed: NodeCluster, tmp_path: Path) -> None:
    helm(installed, tmp_path, "test", "rzero", "-n", SYSTEM, "--timeout", "2m")


def operator_may(node: NodeCluster, verb: str, resource: str, group: str = "") -> bool:
    """Whether the API server lets the operator's account do this in all namespaces."""
    kind, _, part = resource.partition("/")
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": f"system:serviceaccount:{SYSTEM}:rzero",
            "groups": [
                "system:serviceaccounts",
                f"system:serviceaccounts:{SYSTEM}",
                "system:authenticated",
            ],
            "resourceAttributes": {
                "verb": verb,
                "group": group,
                "resource": kind,
                "subresource": part,
            },
        },
    }
    said = node.kubectl("create", "-f", "-", "-o", "json", input=json.dumps(review))
    return bool(json.loads(said)["status"]["allowed"])


def answers_of(model: Path) -> str:
    """What a checkpoint answers to a sum."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForCausalLM.from_pretrained(model)
    messages = [{"role": "user", "content": "What is 12 + 30?"}]
    prompt = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.no_grad():
        tokens = network.generate(**prompt, max_new_tokens=32, do_sample=False)
    return str(tokenizer.decode(tokens[0][prompt["input_ids"].shape[1] :]))
