"""The pods of stages: restricted, and then as administrator and author want them."""

import json
from dataclasses import replace
from typing import Any

import pytest
from job_makers import DEFAULTS, RUN, UID, environment, job, make_spec, make_start

from rzero_core.run import Stage
from rzero_core.task import RunRef, TrainChallengerTask, parse_task
from rzero_operator.jobs import render
from rzero_operator.pods import StageDefaults

VARIABLES = {"RZERO_TASK", "RZERO_CACHE", "HF_HOME", "HOME", "USER", "PYTHONUNBUFFERED"}


def pod(stage: Stage, defaults: StageDefaults = DEFAULTS, **fields: Any) -> dict[str, Any]:
    spec: dict[str, Any] = job(stage, defaults, **fields)["spec"]["template"]["spec"]
    return spec


def main(stage: Stage, defaults: StageDefaults = DEFAULTS, **fields: Any) -> dict[str, Any]:
    (container,) = (c for c in pod(stage, defaults, **fields)["containers"] if c["name"] == "main")
    assert isinstance(container, dict)
    return container


def test_its_pod_is_restricted_and_holds_no_token() -> None:
    container = main(Stage.EVALUATE)
    task = parse_task(environment(container)["RZERO_TASK"])
    assert pod(Stage.EVALUATE) == {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 120,
        "securityContext": {
            "fsGroup": 65532,
            "fsGroupChangePolicy": "OnRootMismatch",
            "runAsGroup": 65532,
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": [
            {"name": "tmp", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
            {"name": "cache", "emptyDir": {}},
        ],
        "containers": [
            {
                "name": "main",
                "image": "example.org/rzero-stages:1",
                "command": ["python", "-m", "rzero_stages"],
                "env": [
                    {"name": "RZERO_TASK", "value": task.to_json()},
                    {"name": "RZERO_CACHE", "value": "/cache"},
                    {"name": "HF_HOME", "value": "/cache/huggingface"},
                    {"name": "HOME", "value": "/tmp"},
                    {"name": "USER", "value": "rzero"},
                    {"name": "PYTHONUNBUFFERED", "value": "1"},
                ],
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                    "readOnlyRootFilesystem": True,
                },
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
                "volumeMounts": [
                    {"name": "tmp", "mountPath": "/tmp"},
                    {"name": "shm", "mountPath": "/dev/shm"},
                    {"name": "cache", "mountPath": "/cache"},
                ],
            }
        ],
    }


def test_prompts_reach_the_stage_as_they_were_written() -> None:
    """In a pod's env `$$` would become `$`, and `$(HOME)` a folder."""
    user = "Solve {question}: $$x^2$$, $(HOME), \\$5"
    text = environment(main(Stage.LABEL_QUESTIONS, prompts={"solver": {"user": user}}))[
        "RZERO_TASK"
    ]
    assert "$" not in text
    prompt = parse_task(text).prompts.solver
    assert prompt is not None
    assert prompt.user == user


def test_null_removes_a_field_so_that_admission_may_choose_the_user() -> None:
    text = '{"image": "i", "podTemplate": {"spec": {"securityContext": {"runAsUser": null}}}}'
    chosen = StageDefaults.from_environment({"RZERO_STAGE_DEFAULTS": text})
    context = pod(Stage.EVALUATE, chosen)["securityContext"]
    assert context == {
        k: v for k, v in pod(Stage.EVALUATE)["securityContext"].items() if k != "runAsUser"
    }


def test_only_named_secrets_are_referenced_and_only_where_they_are_needed() -> None:
    fields = {
        "model": "hf://owner/name@main",
        "modelSecretName": "hub",
        "storage": {"uri": "s3://bucket/runs", "secretName": "store"},
        "labelAccuracy": {
            "auditor": {
                "type": "Oracle",
                "oracle": {
                    "endpoint": "https://api.example.org/v1",
                    "model": "strong",
                    "secretName": "judge",
                },
            }
        },
    }
    secrets = {
        stage: {
            name: (value["secretKeyRef"]["name"], value["secretKeyRef"]["key"])
            for name, value in environment(main(stage, **fields)).items()
            if isinstance(value, dict)
        }
        for stage in Stage
    }
    storage = {
        name: ("store", name)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    }
    hub = {"HF_TOKEN": ("hub", "HF_TOKEN")}
    judge = {"RZERO_ORACLE_API_KEY": ("judge", "RZERO_ORACLE_API_KEY")}
    assert secrets == {
        # The base model is the first Challenger and the first Solver.
        Stage.TRAIN_CHALLENGER: storage | hub,
        Stage.GENERATE_QUESTIONS: storage,
        Stage.LABEL_QUESTIONS: storage | hub,
        Stage.BUILD_CURRICULUM: storage | judge,
        Stage.TRAIN_SOLVER: storage | hub,
        Stage.EVALUATE: storage,
    }
    assert all(isinstance(value, str) for value in environment(main(Stage.EVALUATE)).values())
    # The model, data sets and probes may lie on S3 though the artifacts do not.
    volume = {"storage": {"uri": "file:///runs", "secretName": "store"}}
    assert storage.keys() <= environment(main(Stage.EVALUATE, **volume)).keys()


def test_gpus_are_asked_for_and_each_trains_in_a_process_of_its_own() -> None:
    container = main(Stage.TRAIN_SOLVER, stages={"trainSolver": {"gpus": 4}})
    assert container["resources"] == {
        "requests": {"nvidia.com/gpu": "4"},
        "limits": {"nvidia.com/gpu": "4"},
    }
    assert container["command"] == ["python", "-m", "rzero_stages.ranks"]
    variables = environment(container)
    assert {name: value for name, value in variables.items() if name.startswith("PET_")} == {
        "PET_NNODES": "1",
        "PET_NPROC_PER_NODE": "4",
        "PET_NODE_RANK": "0",
        "PET_MASTER_ADDR": "127.0.0.1",
        "PET_MASTER_PORT": "29500",
    }
    # Shards use their GPUs in one process.
    shard = main(Stage.LABEL_QUESTIONS, stages={"labelQuestions": {"gpus": 2}})
    assert shard["command"] == ["python", "-m", "rzero_stages"]


def test_gpus_of_a_pod_template_count_as_well() -> None:
    limits = {"resources": {"limits": {"nvidia.com/gpu": 2}}}
    template = {"spec": {"containers": [{"name": "main", **limits}]}}
    container = main(Stage.TRAIN_SOLVER, stages={"trainSolver": {"podTemplate": template}})
    assert environment(container)["PET_NPROC_PER_NODE"] == "2"


@pytest.mark.parametrize("gpus", [0, 2])
def test_the_frozen_solver_is_served_beside_the_stage(gpus: int) -> None:
    settings = {"trainChallenger": {"solverGpus": gpus, "gpus": 1}}
    spec = pod(Stage.TRAIN_CHALLENGER, stages=settings)
    (sidecar,) = spec["initContainers"]
    assert (sidecar["name"], sidecar["restartPolicy"]) == ("solver", "Always")
    assert sidecar["command"] == [
        *["python", "-m", "rzero_stages.serve", "--port=8000"],
        "--tensor-parallel-size=2" if gpus else "--enforce-eager",
    ]
    assert sidecar["startupProbe"]["failureThreshold"] * sidecar["startupProbe"][
        "periodSeconds"
    ] == (2700)
    limits = sidecar.get("resources", {}).get("limits", {})
    assert limits == ({"nvidia.com/gpu": "2"} if gpus else {})
    assert sidecar["securityContext"] == spec["containers"][0]["securityContext"]
    task = parse_task(environment(spec["containers"][0])["RZERO_TASK"])
    assert isinstance(task, TrainChallengerTask)
    assert task.solver_endpoint == "http://127.0.0.1:8000"
    assert "initContainers" not in pod(Stage.TRAIN_CHALLENGER)


def test_templates_of_administrator_and_author_are_merged_in_this_order() -> None:
    defaults = StageDefaults(
        image="stages:1",
        image_pull_policy="Always",
        image_pull_secrets=[{"name": "registry"}],
        service_account_name="rzero-stage",
        cache={"persistentVolumeClaim": {"claimName": "weights"}},
        resources={"requests": {"cpu": "1", "memory": "2Gi"}},
        metrics_port=9464,
        termination_grace_period_seconds=300,
        labels={"team": "research"},
        pod_template={
            "metadata": {"annotations": {"a": "admin", "b": "admin"}},
            "spec": {
                "nodeSelector": {"pool": "gpu", "zone": "a"},
                "tolerations": [{"key": "gpu", "operator": "Exists"}],
                "priorityClassName": "low",
            },
        },
    )
    template = {
        "metadata": {"annotations": {"b": "author"}},
        "spec": {
            "nodeSelector": {"zone": "b"},
            "tolerations": [{"key": "spot", "operator": "Exists"}],
            "priorityClassName": None,
            "volumes": [{"name": "cache", "emptyDir": {"sizeLimit": "1Gi"}}, {"name": "more"}],
            "containers": [
                {
                    "name": "main",
                    "image": "mine:2",
                    "env": [{"name": "HOME", "value": "/cache"}, {"name": "NCCL_DEBUG"}],
                    "resources": {"requests": {"cpu": "4"}},
                    "volumeMounts": [{"name": "more", "mountPath": "/more"}],
                },
                {"name": "proxy", "image": "proxy:1"},
            ],
        },
    }
    made = job(Stage.EVALUATE, defaults, stages={"evaluate": {"podTemplate": template}})
    merged = made["spec"]["template"]
    assert merged["metadata"]["annotations"] == {"a": "admin", "b": "author"}
    assert made["metadata"]["labels"]["team"] == "research"
    spec = merged["spec"]
    assert spec["nodeSelector"] == {"pool": "gpu", "zone": "b"}
    assert [toleration["key"] for toleration in spec["tolerations"]] == ["gpu", "spot"]
    assert "priorityClassName" not in spec
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert spec["serviceAccountName"] == "rzero-stage"
    assert spec["terminationGracePeriodSeconds"] == 300
    # An item of the same name is replaced as a whole: a volume has one source.
    assert spec["volumes"][2:] == [
        {"name": "cache", "emptyDir": {"sizeLimit": "1Gi"}},
        {"name": "more"},
    ]
    container, proxy = spec["containers"]
    assert proxy == {"name": "proxy", "image": "proxy:1"}
    assert (container["image"], container["imagePullPolicy"]) == ("mine:2", "Always")
    assert container["resources"] == {"requests": {"cpu": "4", "memory": "2Gi"}}
    assert container["ports"] == [{"name": "metrics", "containerPort": 9464}]
    assert [mount["mountPath"] for mount in container["volumeMounts"]][2:] == ["/cache", "/more"]
    variables = environment(container)
    assert variables["HOME"] == "/cache"
    assert variables["RZERO_METRICS_PORT"] == "9464"
    assert variables.keys() >= VARIABLES | {"NCCL_DEBUG"}


def test_no_template_changes_what_the_operator_relies_on() -> None:
    template = {
        "metadata": {"labels": {"rzero.dev/run-uid": "x", "mine": "y"}, "name": "z"},
        "spec": {
            "restartPolicy": "OnFailure",
            "containers": [
                {
                    "name": "main",
                    "env": [{"name": "RZERO_TASK", "value": "{}"}],
                    "terminationMessagePath": "/tmp/elsewhere",
                    "terminationMessagePolicy": "FallbackToLogsOnError",
                }
            ],
        },
        "status": {},
    }
    settings = {"evaluate": {"podTemplate": template}}
    made = job(Stage.EVALUATE, stages=settings)["spec"]["template"]
    assert made.keys() == {"metadata", "spec"}
    assert made["metadata"]["labels"]["rzero.dev/run-uid"] == UID
    assert made["metadata"]["labels"]["mine"] == "y"
    assert "name" not in made["metadata"]
    assert made["spec"]["restartPolicy"] == "Never"
    container = made["spec"]["containers"][0]
    assert parse_task(environment(container)["RZERO_TASK"]).stage is Stage.EVALUATE
    assert container["terminationMessagePath"] == "/dev/termination-log"
    assert container["terminationMessagePolicy"] == "File"


@pytest.mark.parametrize(
    "template",
    [
        {"spec": "nonsense"},
        {"spec": {"containers": "nonsense"}},
        {"spec": {"containers": [1, None, {"image": "nameless"}]}},
        {"spec": {"containers": [{"name": "main", "env": 5, "resources": [1]}]}},
        {"metadata": {"labels": "nonsense"}},
        {"metadata": 3},
        {"metadata": None, "spec": None},
    ],
)
def test_a_nonsensical_template_is_left_to_the_server_to_refuse(template: dict[str, Any]) -> None:
    assert job(Stage.EVALUATE, stages={"evaluate": {"podTemplate": template}})["kind"] == "Job"


def test_a_task_fits_the_environment_at_a_thousand_shards_and_all_rounds() -> None:
    """Linux takes 128 KiB for one variable."""
    root = f"s3://bucket/{'x' * 1000}"
    spec = make_spec(
        storage={"uri": root},
        questions={"shards": 1000, "topUps": 20},
        prompts={
            role: {"system": "s" * 8192, "user": "{question}" + "u" * 8182}
            for role in ("challenger", "solver")
        },
    )
    run = replace(RUN, ref=RunRef(name="a" * 40, uid=UID))
    for stage in (Stage.LABEL_QUESTIONS, Stage.BUILD_CURRICULUM):
        made = render(run, spec, make_start(spec, stage, round=21, run=run), DEFAULTS)[-1]
        text = environment(made["spec"]["template"]["spec"]["containers"][0])["RZERO_TASK"]
        assert len(text.encode()) < 128 * 1024
        assert parse_task(text) == make_start(spec, stage, round=21, run=run).task


@pytest.mark.parametrize(("seconds", "told"), [(30, "30"), (None, None)])
def test_a_stage_is_told_how_long_two_scrapes_take_where_there_are_some(
    seconds: int | None, told: str | None
) -> None:
    defaults = StageDefaults(image="stages:1", metrics_port=9090, metrics_linger_seconds=seconds)
    variables = environment(main(Stage.EVALUATE, defaults))
    assert variables["RZERO_METRICS_PORT"] == "9090"
    assert variables.get("RZERO_METRICS_LINGER_SECONDS") == told


def test_defaults_come_from_one_variable() -> None:
    given = {
        "image": "stages:1",
        "imagePullPolicy": "IfNotPresent",
        "imagePullSecrets": [{"name": "registry"}],
        "serviceAccountName": "rzero-stage",
        "cache": {"emptyDir": {"sizeLimit": "50Gi"}},
        "resources": {},
        "labels": {},
        "metricsPort": 9464,
        "metricsLingerSeconds": 30,
        "terminationGracePeriodSeconds": 60,
        "podTemplate": {},
    }
    environ = {"RZERO_STAGE_DEFAULTS": json.dumps(given)}
    assert StageDefaults.from_environment(environ).to_dict() == given


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({}, "RZERO_STAGE_DEFAULTS is not set"),
        ({"RZERO_STAGE_DEFAULTS": "{}"}, "RZERO_STAGE_DEFAULTS.image: required, but missing"),
        ({"RZERO_STAGE_DEFAULTS": "nonsense"}, "RZERO_STAGE_DEFAULTS: Invalid JSON"),
        (
            {"RZERO_STAGE_DEFAULTS": '{"image": "x", "metricPort": 1}'},
            "RZERO_STAGE_DEFAULTS.metricPort: unknown field",
        ),
    ],
)
def test_wrong_defaults_are_named(environ: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match="RZERO_STAGE_DEFAULTS") as caught:
        StageDefaults.from_environment(environ)
    assert str(caught.value).startswith(message)
