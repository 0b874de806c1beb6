"""The API server admits every Job that is rendered, and Pod Security `restricted` its pods."""

from collections.abc import Iterator
from typing import Any

import pytest
from job_makers import RUN, make_spec, make_start, rendered

from rzero_core.run import Stage
from rzero_core.task import RunRef
from rzero_operator.decision import RunIdentity
from rzero_operator.jobs import job_name, render
from rzero_operator.pods import StageDefaults
from rzero_operator.tasks import Step
from tests.cluster.api import ApiError
from tests.cluster.control_plane import ControlPlane

DRY = "?dryRun=All&fieldValidation=Strict"
FULL = StageDefaults(
    image="registry.example.org/rzero-stages@sha256:" + "0" * 64,
    image_pull_policy="IfNotPresent",
    image_pull_secrets=[{"name": "registry"}],
    service_account_name="default",
    cache={"persistentVolumeClaim": {"claimName": "weights"}},
    resources={"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "64Gi"}},
    metrics_port=9464,
    labels={"team": "research"},
    pod_template={"spec": {"tolerations": [{"key": "gpu", "operator": "Exists"}]}},
)
RICH: dict[str, Any] = {
    "model": "hf://owner/name@main",
    "modelSecretName": "hub",
    "storage": {"uri": "s3://bucket/runs", "secretName": "store"},
    "queueName": "research",
    "labelAccuracy": {
        "auditor": {
            "type": "Oracle",
            "oracle": {"endpoint": "https://o/v1", "model": "m", "secretName": "judge"},
        }
    },
}
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "rich": RICH,
    "shards": {
        "questions": {"shards": 1000},
        "stages": {
            stage: {"parallelism": 1000, "gpus": 1, "activeDeadlineSeconds": 3600}
            for stage in ("generateQuestions", "labelQuestions")
        },
    },
    "nodes": {
        "stages": {
            "trainChallenger": {"nodes": 64, "gpus": 8, "solverGpus": 2},
            "trainSolver": {"nodes": 2},
        }
    },
    "gpus": {"stages": {str(stage): {"gpus": 8} for stage in Stage}},
    "sidecar on processors": {"stages": {"trainChallenger": {"solverGpus": 0}}},
    "templates": {
        "stages": {
            str(stage): {
                "podTemplate": {
                    "metadata": {"annotations": {"a": "b"}, "labels": {"c": "d"}},
                    "spec": {
                        "priorityClassName": None,
                        "volumes": [{"name": "cache", "emptyDir": {"sizeLimit": "10Gi"}}],
                        "containers": [{"name": "main", "env": [{"name": "A", "value": "b"}]}],
                    },
                }
            }
            for stage in Stage
        }
    },
}


@pytest.fixture
def restricted(control_plane: ControlPlane, namespace: str) -> Iterator[str]:
    """A namespace that admits nothing but restricted pods."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    control_plane.api().patch(f"/api/v1/namespaces/{namespace}", {"metadata": {"labels": labels}})
    yield namespace


def run_in(namespace: str, name: str = "demo") -> RunIdentity:
    return RunIdentity(RunRef(name=name, namespace=namespace, uid=RUN.ref.uid))


def create(plane: ControlPlane, namespace: str, item: dict[str, Any]) -> Any:
    group = "api/v1" if item["apiVersion"] == "v1" else f"apis/{item['apiVersion']}"
    path = f"/{group}/namespaces/{namespace}/{item['kind'].lower()}s{DRY}"
    return plane.api().request("POST", path, item)


def pod_of(job: dict[str, Any]) -> dict[str, Any]:
    """The pod that the Job controller would make."""
    template, metadata = job["spec"]["template"], job["metadata"]
    name = {"name": f"{metadata['name']}-0", "namespace": metadata["namespace"]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**template["metadata"], **name},
        "spec": template["spec"],
    }


@pytest.mark.parametrize("defaults", [StageDefaults(image="stages:1"), FULL], ids=["bare", "full"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_admitted_and_restricted(
    control_plane: ControlPlane, restricted: str, shape: str, defaults: StageDefaults
) -> None:
    run = run_in(restricted)
    for stage in Stage:
        *others, job = rendered(stage, defaults, run=run, **SHAPES[shape])
        for item in (*others, job):
            made = create(control_plane, restricted, item)
            assert made["metadata"]["name"] == item["metadata"]["name"]
        pod = create(control_plane, restricted, pod_of(job))
        assert pod["spec"]["containers"][0]["name"] == "main"


def test_a_pod_that_the_namespace_forbids_is_refused_in_its_own_words(
    control_plane: ControlPlane, restricted: str
) -> None:
    template = {"spec": {"volumes": [{"name": "host", "hostPath": {"path": "/"}}]}}
    run = run_in(restricted)
    (job,) = rendered(Stage.EVALUATE, run=run, stages={"evaluate": {"podTemplate": template}})
    with pytest.raises(ApiError, match=r'violates PodSecurity \\"restricted'):
        create(control_plane, restricted, pod_of(job))


@pytest.mark.parametrize(
    "template", [{"spec": "nonsense"}, {"spec": {"containers": "nonsense"}}, {"metadata": 3}]
)
def test_a_nonsensical_template_is_refused_or_passed_over(
    control_plane: ControlPlane, namespace: str, template: dict[str, Any]
) -> None:
    run = run_in(namespace)
    (job,) = rendered(Stage.EVALUATE, run=run, stages={"evaluate": {"podTemplate": template}})
    if "spec" not in template:
        create(control_plane, namespace, job)
        return
    with pytest.raises(ApiError) as caught:
        create(control_plane, namespace, job)
    assert caught.value.status == 400


def test_the_longest_names_are_admitted(control_plane: ControlPlane, namespace: str) -> None:
    run = run_in(namespace, "a" * 40)
    spec = make_spec(
        questions={"shards": 1000, "topUps": 20},
        stages={
            "trainSolver": {"nodes": 64},
            "generateQuestions": {"parallelism": 1000},
        },
    )
    for stage in (Stage.GENERATE_QUESTIONS, Stage.LABEL_QUESTIONS, Stage.TRAIN_SOLVER):
        for attempt in (9, 123_456):
            start = make_start(spec, stage, attempt=attempt, run=run)
            for item in render(run, spec, start, StageDefaults(image="stages:1")):
                if item["kind"] == "Job":
                    longest = Step(999, stage, 21 if stage is not Stage.TRAIN_SOLVER else 1)
                    item["metadata"]["name"] = job_name(run.ref.name, longest, attempt)
                create(control_plane, namespace, item)
