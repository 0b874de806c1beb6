"""What the chart makes of its values, held against the kinds of a real API server."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rzero_operator.pods import StageDefaults
from tests.cluster.build import program
from tests.cluster.control_plane import ControlPlane
from tests.cluster.control_plane import control_plane as start_control_plane
from tests.cluster.openapi_schemas import write_schemas
from tests.cluster.skips import skip_without_programs
from tests.controlplane.helm import CHART, CRD_FILE, Helm, HelmError, one
from tests.controlplane.operator_process import wait_until

MONITORING = Path(__file__).with_name("monitoring_crds.yaml")
MONITORED = {"ServiceMonitor", "PodMonitor", "PrometheusRule"}
SWITCHES = (
    "crds.install=false",
    "crds.keep=false",
    "serviceAccount.create=false",
    "rbac.create=false",
    "rbac.aggregateRoles=false",
    "stages.serviceAccount.create=false",
    "watchNamespaces={here,there}",
    "replicas=2",
    "metrics.service.enabled=false",
    "metrics.podMonitor.enabled=true",
    "metrics.prometheusRule.enabled=true",
    "grafanaDashboard.enabled=true",
    "networkPolicy.enabled=true",
    "podDisruptionBudget.enabled=true",
    "stages.serviceAccount.name=stages",
    "fullnameOverride=other",
)
EVERYTHING = {
    "commonLabels": {"team": "a"},
    "image": {"registry": "registry.example/", "digest": f"sha256:{'0' * 64}"},
    "imagePullSecrets": [{"name": "pull"}],
    "metrics": {
        "service": {"annotations": {"a": "b"}},
        "serviceMonitor": {
            "enabled": True,
            "additionalLabels": {"release": "prometheus"},
            "relabelings": [{"action": "labeldrop", "regex": "pod"}],
            "metricRelabelings": [{"action": "drop", "sourceLabels": ["x"], "regex": "y"}],
        },
        "podMonitor": {
            "enabled": True,
            "namespace": "monitoring",
            "relabelings": [{"action": "labeldrop", "regex": "job"}],
            "metricRelabelings": [{"action": "drop", "sourceLabels": ["x"], "regex": "y"}],
        },
        "prometheusRule": {
            "enabled": True,
            "additionalLabels": {"release": "prometheus"},
            "runbookBaseUrl": "https://wiki.example/rzero",
        },
    },
    "grafanaDashboard": {"enabled": True, "annotations": {"folder": "rzero"}},
    "networkPolicy": {
        "enabled": True,
        "metricsFrom": [{"namespaceSelector": {}}],
        "apiServerCIDRs": ["10.0.0.1/32", "fd00::1/128"],
    },
    "podDisruptionBudget": {"enabled": True},
    "podLabels": {"a": "b"},
    "podAnnotations": {"a": "b"},
    "serviceAccount": {"annotations": {"a": "b"}},
    "crds": {"annotations": {"a": "b"}},
    "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy.example"}],
    "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
    "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ca"}],
    "nodeSelector": {"a": "b"},
    "tolerations": [{"operator": "Exists"}],
    "affinity": {"podAntiAffinity": {}},
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}
    ],
    "priorityClassName": "system-cluster-critical",
}
"""Every value that is empty by default."""


@pytest.fixture(scope="module")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    with skip_without_programs():
        program("helm")
    return Helm(tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[ControlPlane]:
    """A control plane that knows the kinds of the chart and of the Prometheus operator."""
    with skip_without_programs(), start_control_plane(fake_nodes=0) as cluster:
        cluster.kubectl("apply", "-f", str(MONITORING), "-f", str(CHART / CRD_FILE))
        for crd in ("servicemonitors", "podmonitors", "prometheusrules"):
            cluster.wait_for_crd(f"{crd}.monitoring.coreos.com")
        # The schemas come about a second after the kinds.
        wait_until(lambda: schemas_of(cluster) >= MONITORED, what="the schemas of the kinds")
        for name in ("here", "there", "monitoring"):
            cluster.kubectl("create", "namespace", name)
        yield cluster


def schemas_of(cluster: ControlPlane) -> set[str]:
    """Kinds of the Prometheus operator that the server describes."""
    page = cluster.api().get("/openapi/v3/apis/monitoring.coreos.com/v1")
    return {name.split(".")[-1] for name in page["components"]["schemas"]}


def settings(number: int) -> list[str]:
    """One of 32 choices of the switches, among which any three switches stand in all eight ways."""
    chosen = [
        switch for column, switch in enumerate(SWITCHES) if (number & (16 | column)).bit_count() % 2
    ]
    return [word for switch in chosen for word in ("--set", switch)]


def everything(folder: Path) -> Path:
    file = folder / "everything.json"
    file.write_text(json.dumps(EVERYTHING))
    return file


def test_every_combination_of_switches_renders_objects_that_the_server_knows(
    helm: Helm, cluster: ControlPlane, tmp_path: Path
) -> None:
    schemas, manifests = tmp_path / "schemas", tmp_path / "manifests"
    schemas.mkdir()
    manifests.mkdir()
    location = write_schemas(cluster.api(), schemas)
    values = everything(tmp_path)
    for number in range(32):
        words = [*settings(number), *(["--values", str(values)] if number % 3 == 0 else [])]
        if number % 3 == 0:
            words += ["--set", "metrics.service.enabled=true"]
        (manifests / f"{number}.yaml").write_text(helm.template(*words))

    done = subprocess.run(
        [program("kubeconform"), "-strict", "-summary", "-schema-location", location, manifests],
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Invalid: 0, Errors: 0, Skipped: 0" in done.stdout


def test_kubeconform_with_these_schemas_finds_a_field_that_does_not_exist(
    helm: Helm, cluster: ControlPlane, tmp_path: Path
) -> None:
    location = write_schemas(cluster.api(), tmp_path)
    deployment = one(helm.render(), "Deployment")
    deployment["spec"]["template"]["spec"]["contaners"] = []

    done = subprocess.run(
        [program("kubeconform"), "-strict", "-schema-location", location],
        input=json.dumps(deployment),
        capture_output=True,
        text=True,
    )

    assert done.returncode == 1
    assert "contaners" in done.stdout


@pytest.mark.parametrize("watched", ["[]", '["here", "there"]'])
def test_the_server_takes_every_object_with_every_value_set(
    helm: Helm, cluster: ControlPlane, tmp_path: Path, watched: str
) -> None:
    words = ["--values", str(everything(tmp_path)), "--set-json", f"watchNamespaces={watched}"]
    objects = helm.render(*words, "--set", "replicas=2")
    manifest = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})

    said = cluster.kubectl(
        "apply", "--dry-run=server", "--validate=strict", "-f", "-", input=manifest
    )

    assert len(said.splitlines()) == len(objects)


def test_the_chart_passes_helms_strict_lint(helm: Helm, tmp_path: Path) -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", CHART)
    assert "0 chart(s) failed" in helm("lint", "--strict", CHART, "-f", everything(tmp_path))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("watchNamespace={a}", "additional properties 'watchNamespace' not allowed"),
        ("watchNamespaces=a", "at '/watchNamespaces': got string, want array"),
        ("watchNamespaces={a,a}", "at '/watchNamespaces': items at 0 and 1 are equal"),
        ("image.tga=1", "at '/image': additional properties 'tga' not allowed"),
        ("image.repository=rzero-operator:1", "at '/image/repository'"),
        ("image.digest=sha256:12", "at '/image/digest'"),
        ("image.pullPolicy=always", "value must be one of 'IfNotPresent', 'Always', 'Never'"),
        ("replicas=two", "at '/replicas': got string, want integer"),
        ("log.level=INFO", "value must be one of 'debug', 'info', 'warning', 'error'"),
        ("stages.gpus=1", "at '/stages': additional properties 'gpus' not allowed"),
        ("stages.podTemplate.containers={}", "at '/stages/podTemplate': additional properties"),
        ("metrics.serviceMonitor.interval=30", "at '/metrics/serviceMonitor/interval'"),
        (
            "metrics.prometheusRule.runbookBaseUrl=",
            "at '/metrics/prometheusRule/runbookBaseUrl'",
        ),
        (
            "networkPolicy.apiServerPorts={https}",
            "at '/networkPolicy/apiServerPorts/0': got string",
        ),
        (
            "networkPolicy.apiServerCIDRs={api.example}",
            "at '/networkPolicy/apiServerCIDRs/0'",
        ),
        (
            "metrics.serviceMonitor.enabled=true,metrics.service.enabled=false",
            "metrics.serviceMonitor.enabled needs metrics.service.enabled: true",
        ),
    ],
)
def test_a_wrong_value_is_refused_with_its_name(helm: Helm, wrong: str, said: str) -> None:
    with pytest.raises(HelmError) as caught:
        helm.render("--set", wrong)

    assert said in str(caught.value)


def test_only_helm_test_joins_the_peers_that_are_named_and_the_api_server_may_be_named(
    helm: Helm,
) -> None:
    peers, name = "networkPolicy.metricsFrom[0].podSelector.matchLabels.app", "rzero"
    addresses = "networkPolicy.apiServerCIDRs={10.0.0.1/32}"
    rendered = helm.render(
        *("--set", "networkPolicy.enabled=true"), *("--set", f"{peers}=p"), *("--set", addresses)
    )
    policy = one(rendered, "NetworkPolicy")["spec"]
    (ingress,), egress = policy["ingress"], policy["egress"]
    tester = {"app.kubernetes.io/component": "test", "app.kubernetes.io/instance": name}
    selectors = [peer["podSelector"]["matchLabels"] for peer in ingress["from"]]
    assert selectors == [{"app": "p"}, tester]
    (pod,) = (item for item in rendered if item["kind"] == "Pod")
    assert tester.items() <= pod["metadata"]["labels"].items()
    assert [rule.get("to") for rule in egress] == [None, [{"ipBlock": {"cidr": "10.0.0.1/32"}}]]


def test_the_crd_in_the_chart_is_the_one_in_the_file_with_the_mark_to_keep_it(helm: Helm) -> None:
    expected = yaml.safe_load((CHART / CRD_FILE).read_text())

    crd = one(helm.render(), "CustomResourceDefinition")

    assert crd["spec"] == expected["spec"]
    assert crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_a_crd_that_is_not_to_be_kept_lacks_the_mark(helm: Helm) -> None:
    crd = one(helm.render("--set", "crds.keep=false"), "CustomResourceDefinition")

    assert "helm.sh/resource-policy" not in crd["metadata"].get("annotations", {})


def test_the_operator_reads_the_defaults_of_stages_that_the_chart_writes(helm: Helm) -> None:
    objects = helm.render(
        "--set", "watchNamespaces={a}", "--set", "stages.image.registry=registry.example",
        "--set", "stages.image.tag=v1", "--set", "stages.imagePullSecrets[0].name=pull",
        "--set", "stages.cache.persistentVolumeClaim.claimName=weights",
        "--set", "stages.resources.requests.cpu=2", "--set", "stages.labels.team=a",
        "--set", "stages.podTemplate.spec.nodeSelector.gpu=h200",
    )  # fmt: skip

    defaults = StageDefaults.from_environment(environment(objects))

    assert defaults.image == "registry.example/rzero-stages:v1"
    assert defaults.image_pull_secrets == [{"name": "pull"}]
    assert defaults.service_account_name == "rzero-stage"
    assert defaults.cache == {"persistentVolumeClaim": {"claimName": "weights"}}
    assert defaults.resources == {"requests": {"cpu": 2}}
    assert defaults.labels == {"team": "a"}
    assert defaults.metrics_port == 9090
    assert defaults.termination_grace_period_seconds == 120
    assert defaults.pod_template == {"spec": {"nodeSelector": {"gpu": "h200"}}}


@pytest.mark.parametrize(
    ("interval", "seconds"), [("15s", 30), ("1m30s", 180), ("1500ms", 3), ("1d", None)]
)
def test_stages_are_told_how_long_two_scrapes_take_where_a_pod_monitor_scrapes_them(
    helm: Helm, interval: str, seconds: int | None
) -> None:
    words = ["--set", f"metrics.podMonitor.interval={interval}"]
    scraped = environment(helm.render(*words, "--set", "metrics.podMonitor.enabled=true"))
    assert StageDefaults.from_environment(scraped).metrics_linger_seconds == seconds

    alone = environment(helm.render(*words))
    assert StageDefaults.from_environment(alone).metrics_linger_seconds is None


@pytest.mark.parametrize(
    ("words", "place"),
    [
        ([], "docs/runbooks/"),
        (["metrics.prometheusRule.runbookBaseUrl=https://wiki.example/rzero/"],
         "https://wiki.example/rzero/"),
    ],
)  # fmt: skip
def test_an_alert_names_its_runbook_where_people_on_call_find_it(
    helm: Helm, words: list[str], place: str
) -> None:
    sets = [part for word in words for part in ("--set", word)]
    objects = helm.render("--set", "metrics.prometheusRule.enabled=true", *sets)

    groups = one(objects, "PrometheusRule")["spec"]["groups"]
    alerts = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    assert len(alerts) == 13
    for rule in alerts:
        assert rule["annotations"]["runbook_url"] == f"{place}{rule['alert']}.md"


def test_stage_pods_run_as_their_namespaces_own_account_when_all_namespaces_are_watched(
    helm: Helm,
) -> None:
    objects = helm.render()

    defaults = StageDefaults.from_environment(environment(objects))

    assert defaults.service_account_name is None
    assert one(objects, "ServiceAccount")["metadata"]["name"] == "rzero"


def environment(objects: list[dict[str, Any]]) -> dict[str, str]:
    """The operator's variables that have a plain value."""
    (container,) = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    return {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}


def test_two_replicas_elect_a_leader_and_one_does_not(helm: Helm) -> None:
    alone, pair = helm.render(), helm.render("--set", "replicas=2")

    assert environment(alone)["RZERO_LEADER_ELECTION"] == "false"
    assert one(alone, "Deployment")["spec"]["strategy"]["type"] == "Recreate"
    assert environment(pair)["RZERO_LEADER_ELECTION"] == "true"
    assert one(pair, "Deployment")["spec"]["strategy"]["type"] == "RollingUpdate"


def test_a_digest_stands_above_a_tag(helm: Helm) -> None:
    digest = f"sha256:{'a' * 64}"
    objects = helm.render("--set", f"image.digest={digest}", "--set", "image.tag=v1")

    (container,) = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"rzero-operator@{digest}"


def test_an_install_for_some_namespaces_needs_no_object_outside_of_them(helm: Helm) -> None:
    objects = helm.render(
        "--set", "watchNamespaces={a,b}", "--set", "crds.install=false",
        "--set", "rbac.aggregateRoles=false",
    )  # fmt: skip

    assert {entry["metadata"]["namespace"] for entry in objects} == {"here", "a", "b"}


def test_notes_warn_of_the_selector_of_kube_prometheus_stack(
    helm: Helm, cluster: ControlPlane, tmp_path: Path
) -> None:
    notes = Helm(tmp_path, cluster)(
        "install", "rzero", CHART, "--dry-run=server", "--namespace", "here",
        "--set", "crds.install=false", "--set", "metrics.serviceMonitor.enabled=true",
        "--set", "metrics.prometheusRule.enabled=true",
        "--set", "metrics.prometheusRule.additionalLabels.release=mine",
    )  # fmt: skip

    assert "serviceMonitorSelectorNilUsesHelmValues" in notes
    assert "--set metrics.serviceMonitor.additionalLabels.release=" in notes
    assert "--set metrics.prometheusRule.additionalLabels.release=" not in notes
