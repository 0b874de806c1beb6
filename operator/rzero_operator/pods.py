"""Renders the pod of a stage: restricted by default, then as administrator and author want it."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, ValidationError

from rzero_core.run import KlReference, RunSpec, StageSettings
from rzero_core.task import (
    CACHE_VARIABLE,
    DEFAULT_RESULT_PATH,
    ORACLE_KEY_VARIABLE,
    TASK_VARIABLE,
    BuildCurriculumTask,
    StageTask,
    TrainChallengerTask,
    TrainSolverTask,
)
from rzero_core.wire import Wire, explain
from rzero_operator.templates import merge

DEFAULTS_VARIABLE = "RZERO_STAGE_DEFAULTS"
MAIN = "main"
"""The container of the stage."""
SOLVER = "solver"
"""The sidecar that serves the frozen Solver."""
GPU = "nvidia.com/gpu"
CACHE = "/cache"
SOLVER_PORT = 8000
MASTER_PORT = 29500
METRICS_PORT_VARIABLE = "RZERO_METRICS_PORT"
METRICS_LINGER_VARIABLE = "RZERO_METRICS_LINGER_SECONDS"
_USER = 65532
_PROBE = (
    f"import urllib.request as r; r.urlopen('http://127.0.0.1:{SOLVER_PORT}/health', timeout=4)"
)
_INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"


class StageDefaults(Wire):
    """What an administrator decides about the pods of all stages."""

    image: str
    """Image of the stages."""
    image_pull_policy: str | None = None
    """As in a container."""
    image_pull_secrets: list[dict[str, Any]] = Field(default_factory=list)
    """As in a pod: [{name}]."""
    service_account_name: str | None = None
    """Service account of stage pods; they get no token of it."""
    cache: dict[str, Any] = Field(default_factory=lambda: {"emptyDir": {}})
    """Volume for downloads and unfinished work, as in a pod but without its name."""
    resources: dict[str, Any] = Field(default_factory=dict)
    """Requests and limits of every stage's container, before `gpus` and pod templates."""
    metrics_port: int | None = None
    """Port on which stages serve metrics; absent: none."""
    metrics_linger_seconds: int | None = None
    """Time of two scrapes, which a finished stage waits for at most; absent: nothing may come."""
    termination_grace_period_seconds: int = 120
    """Time in which training brings its step to an end and publishes a checkpoint."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Further labels of Jobs and pods."""
    pod_template: dict[str, Any] = Field(default_factory=dict)
    """A PodTemplateSpec merged into every stage's own, before that of the run."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Self:
        """The defaults in `RZERO_STAGE_DEFAULTS`, JSON that the chart sets. Raises ValueError."""
        text = environ.get(DEFAULTS_VARIABLE)
        if not text:
            raise ValueError(f'{DEFAULTS_VARIABLE} is not set; write at least {{"image": "..."}}')
        try:
            return cls.model_validate_json(text, by_alias=True, by_name=False)
        except ValidationError as error:
            raise ValueError("; ".join(explain(error, DEFAULTS_VARIABLE))) from error


def pod_template(
    spec: RunSpec,
    task: StageTask,
    settings: StageSettings,
    defaults: StageDefaults,
    labels: dict[str, str],
    service: str | None,
    first_host: str,
) -> dict[str, Any]:
    """The PodTemplateSpec of one attempt; `service`: of several nodes that train together."""
    pod = _pod(spec, task, settings, defaults)
    template: dict[str, Any] = {"metadata": {}, "spec": pod}
    for changes in (defaults.pod_template, settings.pod_template or {}):
        # An empty `metadata:` in YAML is null, and asks for nothing.
        given = {key: changes[key] for key in template if changes.get(key) is not None}
        template = merge(template, given)
    metadata, pod = template["metadata"], template["spec"]
    kept = {
        key: value
        for key, value in (metadata.items() if isinstance(metadata, dict) else ())
        if key in ("annotations", "labels")
    }
    template["metadata"] = merge(kept, {"labels": labels})
    if not isinstance(pod, dict):
        return template
    pod["restartPolicy"] = "Never"
    if service is not None:
        pod["subdomain"] = service
    main = _container(pod, MAIN)
    if main is not None:
        _complete(main, task, settings.nodes if service else 1, first_host)
    return template


def solver_gpus(task: StageTask, settings: StageSettings) -> int | None:
    """GPUs of the Solver's sidecar, None for no sidecar."""
    found = getattr(settings, "solver_gpus", None)
    return found if isinstance(task, TrainChallengerTask) else None


def _pod(
    spec: RunSpec, task: StageTask, settings: StageSettings, defaults: StageDefaults
) -> dict[str, Any]:
    environment = _environment(spec, task)
    main = _base_container(MAIN, defaults, environment, settings.gpus)
    if defaults.metrics_port is not None:
        main["ports"] = [{"name": "metrics", "containerPort": defaults.metrics_port}]
        main["env"] = [
            *environment,
            {"name": METRICS_PORT_VARIABLE, "value": str(defaults.metrics_port)},
        ]
        if (seconds := defaults.metrics_linger_seconds) is not None:
            main["env"].append({"name": METRICS_LINGER_VARIABLE, "value": str(seconds)})
    pod: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "containers": [main],
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "securityContext": {
            "fsGroup": _USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "runAsGroup": _USER,
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": defaults.termination_grace_period_seconds,
        "volumes": [
            {"name": "tmp", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
            {"name": "cache", **defaults.cache},
        ],
    }
    if (gpus := solver_gpus(task, settings)) is not None:
        pod["initContainers"] = [_solver(defaults, environment, gpus)]
    if defaults.image_pull_secrets:
        pod["imagePullSecrets"] = defaults.image_pull_secrets
    if defaults.service_account_name:
        pod["serviceAccountName"] = defaults.service_account_name
    return pod


def _base_container(
    name: str, defaults: StageDefaults, environment: list[dict[str, Any]], gpus: int | None
) -> dict[str, Any]:
    """A container without its command."""
    container: dict[str, Any] = {
        "name": name,
        "image": defaults.image,
        "env": environment,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "terminationMessagePath": DEFAULT_RESULT_PATH,
        "terminationMessagePolicy": "File",
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "shm", "mountPath": "/dev/shm"},
            {"name": "cache", "mountPath": CACHE},
        ],
    }
    if defaults.image_pull_policy:
        container["imagePullPolicy"] = defaults.image_pull_policy
    devices = {GPU: str(gpus)} if gpus else {}
    asked = {"requests": devices, "limits": devices} if devices else {}
    if resources := merge(defaults.resources, asked):
        container["resources"] = resources
    return container


def _solver(
    defaults: StageDefaults, environment: list[dict[str, Any]], gpus: int
) -> dict[str, Any]:
    """A native sidecar: the stage starts when it answers, and it ends with the stage."""
    # What follows the module's name goes to vLLM.
    command = ["python", "-m", "rzero_stages.serve", f"--port={SOLVER_PORT}"]
    # On processors compiling the model takes minutes, and a compiler that an image need not have.
    command += [f"--tensor-parallel-size={gpus}"] if gpus else ["--enforce-eager"]
    return {
        **_base_container(SOLVER, defaults, environment, gpus),
        "command": command,
        "restartPolicy": "Always",
        "startupProbe": {
            # The server listens on the pod's own loopback address alone.
            "exec": {"command": ["python", "-c", _PROBE]},
            "periodSeconds": 10,
            "failureThreshold": 270,
            "timeoutSeconds": 5,
        },
    }


def _environment(spec: RunSpec, task: StageTask) -> list[dict[str, Any]]:
    """Variables of all containers of ours. Credentials come from the Secrets that a run names."""
    values = {
        TASK_VARIABLE: _task_text(task),
        CACHE_VARIABLE: CACHE,
        "HF_HOME": f"{CACHE}/huggingface",
        # The root file system is read-only, and the user may have no entry in /etc/passwd.
        "HOME": "/tmp",
        "USER": "rzero",
        "PYTHONUNBUFFERED": "1",
    }
    variables: list[dict[str, Any]] = [
        {"name": name, "value": value} for name, value in values.items()
    ]
    if secret := spec.storage.secret_name:
        variables += [
            _from_secret(secret, "AWS_ACCESS_KEY_ID"),
            _from_secret(secret, "AWS_SECRET_ACCESS_KEY"),
            _from_secret(secret, "AWS_SESSION_TOKEN", optional=True),
        ]
    if spec.model_secret_name and _loads_from_hub(task):
        variables.append(_from_secret(spec.model_secret_name, "HF_TOKEN"))
    oracle = spec.label_accuracy.auditor.oracle
    if oracle and oracle.secret_name and isinstance(task, BuildCurriculumTask):
        variables.append(_from_secret(oracle.secret_name, ORACLE_KEY_VARIABLE))
    return variables


def _task_text(task: StageTask) -> str:
    """The task without a dollar sign: in a pod's env `$(NAME)` is a reference and `$$` is `$`."""
    return task.to_json().replace("$", r"\u0024")


def _from_secret(secret: str, key: str, *, optional: bool = False) -> dict[str, Any]:
    reference: dict[str, Any] = {"name": secret, "key": key}
    if optional:
        reference["optional"] = True
    return {"name": key, "valueFrom": {"secretKeyRef": reference}}


def _loads_from_hub(task: StageTask) -> bool:
    models = [getattr(task, name, "") for name in ("challenger", "solver")]
    if isinstance(task, TrainChallengerTask | TrainSolverTask):
        training = task.training
        if training.kl_reference is KlReference.BASE_MODEL and training.kl_coefficient > 0:
            models.append(task.base_model)
    return any(model.startswith("hf://") for model in models)


def _complete(main: dict[str, Any], task: StageTask, nodes: int, first_host: str) -> None:
    """Put in what the merged template decides, and what no template may change."""
    variables = [{"name": TASK_VARIABLE, "value": _task_text(task)}]
    module = "rzero_stages"
    gpus = _gpus_of(main) if isinstance(task, TrainChallengerTask | TrainSolverTask) else 0
    if nodes > 1 or gpus > 1:
        module = "rzero_stages.ranks"
        variables += _ranks(nodes, max(1, gpus), first_host if nodes > 1 else "127.0.0.1")
    main.setdefault("command", ["python", "-m", module])
    main["terminationMessagePath"] = DEFAULT_RESULT_PATH
    main["terminationMessagePolicy"] = "File"
    main |= merge({"env": main.get("env", [])}, {"env": variables})


def _ranks(nodes: int, processes: int, first_host: str) -> list[dict[str, Any]]:
    """The variables by which torchrun's processes meet, and those of `rzero_stages.ranks`."""
    values = {
        "PET_NNODES": str(nodes),
        "PET_NPROC_PER_NODE": str(processes),
        "PET_MASTER_ADDR": first_host,
        "PET_MASTER_PORT": str(MASTER_PORT),
    }
    index = {"valueFrom": {"fieldRef": {"fieldPath": _INDEX}}}
    rank = {"name": "PET_NODE_RANK", **(index if nodes > 1 else {"value": "0"})}
    return [*({"name": name, "value": value} for name, value in values.items()), rank]


def _container(pod: Any, name: str) -> dict[str, Any] | None:
    """A container of the merged pod, None where the template has made nonsense of it."""
    containers = pod.get("containers") if isinstance(pod, dict) else None
    for container in containers if isinstance(containers, list) else ():
        if isinstance(container, dict) and container.get("name") == name:
            return container
    return None


def _gpus_of(container: dict[str, Any]) -> int:
    try:
        return int(container["resources"]["limits"][GPU])
    except (KeyError, TypeError, ValueError):
        return 0
