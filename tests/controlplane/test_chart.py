"""The chart installed by Helm on a real control plane: admission, rights, upgrade, uninstall."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.api import ApiError
from tests.cluster.build import program
from tests.cluster.control_plane import ControlPlane
from tests.cluster.control_plane import control_plane as start_control_plane
from tests.cluster.skips import skip_without_programs
from tests.controlplane.helm import CHART, CRD_FILE, Helm, HelmError, previous_chart

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
CRD = "coevolutionruns.rzero.dev"
ALONE = ("--set", "crds.install=false", "--set", "rbac.aggregateRoles=false")
"""Without the objects that a cluster has only once."""
WAIT = ("--wait", "--timeout=60s")
RIGHTS = {
    "rzero.dev/coevolutionruns": {"get", "list", "watch"},
    "rzero.dev/coevolutionruns/status": {"update"},
    "rzero.dev/coevolutionruns/finalizers": {"update"},
    "batch/jobs": {"get", "list", "watch", "create", "delete"},
    "/services": {"create"},
    "/pods": {"list", "watch"},
    "/events": {"list", "create"},
}
"""All that the operator may do in a namespace with runs."""
LEASES = {"coordination.k8s.io/leases": {"get", "create", "update"}}
"""What it may do in its own namespace where it is one of two."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[ControlPlane]:
    """A control plane of its own: the CRD and who owns it are what these tests change."""
    with skip_without_programs():
        program("helm")
        with start_control_plane() as cluster:
            yield cluster


@pytest.fixture
def helm(cluster: ControlPlane, tmp_path: Path) -> Iterator[Helm]:
    helm = Helm(tmp_path / "helm", cluster)
    yield helm
    for release in json.loads(helm("list", "--all-namespaces", "--output=json")):
        helm("uninstall", release["name"], "--namespace", release["namespace"], "--wait")
    cluster.kubectl("delete", "crd", CRD, "--ignore-not-found")


@pytest.fixture
def place(cluster: ControlPlane) -> Iterator[str]:
    """A namespace that enforces the restricted Pod Security Standard."""
    yield from restricted_namespace(cluster)


@pytest.fixture
def elsewhere(cluster: ControlPlane) -> Iterator[str]:
    """Another one."""
    yield from restricted_namespace(cluster)


def restricted_namespace(cluster: ControlPlane) -> Iterator[str]:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    body = {"metadata": {"generateName": "chart-", "labels": labels}}
    name: str = cluster.api().request("POST", "/api/v1/namespaces", body)["metadata"]["name"]
    yield name
    cluster.api().request("DELETE", f"/api/v1/namespaces/{name}")


def runs(namespace: str) -> str:
    return f"/apis/rzero.dev/v1alpha1/namespaces/{namespace}/coevolutionruns"


def await_served(cluster: ControlPlane) -> None:
    """Until the server has made room for a new kind: first it knows none, then it says 429."""
    deadline = time.monotonic() + 30
    while True:
        try:
            cluster.api().get("/apis/rzero.dev/v1alpha1/coevolutionruns")
            return
        except ApiError as error:
            if error.status not in (404, 429, 503) or time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def create_run(cluster: ControlPlane, namespace: str) -> dict[str, Any]:
    run: dict[str, Any] = {
        "apiVersion": "rzero.dev/v1alpha1",
        "kind": "CoEvolutionRun",
        "metadata": {"name": "kept"},
        "spec": {"model": "hf://owner/model@main", "storage": {"uri": "s3://bucket/runs"}},
    }
    await_served(cluster)
    created: dict[str, Any] = cluster.api().request("POST", runs(namespace), run)
    return created


def comes_true(seen: Callable[[], Any], wanted: Any) -> None:
    """What is seen is soon as wanted: the server takes a moment to read new rules and kinds."""
    deadline = time.monotonic() + 30
    while (found := seen()) != wanted:
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def rights(cluster: ControlPlane, account: str, home: str, namespace: str) -> dict[str, set[str]]:
    """Verbs by group and resource that an account has in a namespace and others do not have."""
    found = []
    for name in (account, "default"):
        api = cluster.api(cluster.service_account_token(home, name))
        review = {"spec": {"namespace": namespace}}
        path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
        rules = api.request("POST", path, review)["status"]["resourceRules"]
        found.append(
            {
                (f"{group}/{resource}", verb)
                for rule in rules
                for group in rule["apiGroups"]
                for resource in rule["resources"]
                for verb in rule["verbs"]
            }
        )
    mine: dict[str, set[str]] = {}
    for resource, verb in found[0] - found[1]:
        mine.setdefault(resource, set()).add(verb)
    return mine


def test_all_of_it_is_admitted_to_a_restricted_namespace(
    cluster: ControlPlane, helm: Helm, place: str
) -> None:
    helm("install", "rzero", CHART, "--namespace", place, *WAIT, "--set", "replicas=2",
         "--set", "networkPolicy.enabled=true", "--set", "podDisruptionBudget.enabled=true",
         "--set", "grafanaDashboard.enabled=true")  # fmt: skip

    deployment = cluster.api().get(f"/apis/apps/v1/namespaces/{place}/deployments/rzero")
    assert deployment["status"]["availableReplicas"] == 2
    test_pod = helm("get", "hooks", "rzero", "--namespace", place)
    cluster.kubectl("create", "--dry-run=server", "-f", "-", input=test_pod)
    with pytest.raises(RuntimeError, match="violates PodSecurity"):
        unsafe = test_pod.replace("allowPrivilegeEscalation: false", "privileged: true")
        cluster.kubectl("create", "--dry-run=server", "-f", "-", input=unsafe)


def test_the_operator_has_these_rights_in_all_namespaces_and_no_others(
    cluster: ControlPlane, helm: Helm, place: str, elsewhere: str
) -> None:
    helm("install", "rzero", CHART, "--namespace", place, "--set", "replicas=2")

    comes_true(lambda: rights(cluster, "rzero", place, place), RIGHTS | LEASES)
    comes_true(lambda: rights(cluster, "rzero", place, elsewhere), RIGHTS)


def test_an_install_for_one_namespace_has_rights_there_and_sees_nothing_outside(
    cluster: ControlPlane, helm: Helm, place: str, elsewhere: str
) -> None:
    helm(
        "install", "rzero", CHART, "--namespace", place, "--set", f"watchNamespaces={{{elsewhere}}}"
    )

    comes_true(lambda: rights(cluster, "rzero", place, elsewhere), RIGHTS)
    assert rights(cluster, "rzero", place, place) == {}
    assert rights(cluster, "rzero", place, "kube-system") == {}
    await_served(cluster)
    api = cluster.api(cluster.service_account_token(place, "rzero"))
    assert api.get(runs(elsewhere))["items"] == []
    for path in (runs(place), "/apis/rzero.dev/v1alpha1/coevolutionruns", "/apis/batch/v1/jobs"):
        assert status_of(api.get, path) == 403


def test_the_operators_token_opens_no_secret_no_shell_and_no_log(
    cluster: ControlPlane, helm: Helm, place: str
) -> None:
    helm("install", "rzero", CHART, "--namespace", place, *WAIT)
    core = f"/api/v1/namespaces/{place}"
    pods = cluster.api().get(f"{core}/pods")["items"]
    pod = f"{core}/pods/{pods[0]['metadata']['name']}"

    api = cluster.api(cluster.service_account_token(place, "rzero"))

    assert api.get(f"{core}/pods")["items"]
    for path in (
        f"{core}/secrets",
        "/api/v1/secrets",
        f"{core}/configmaps",
        f"{pod}/log",
        f"{pod}/exec?command=sh",
        f"{core}/serviceaccounts",
        "/api/v1/nodes",
        "/api/v1/namespaces",
        CRDS,
        "/apis/apps/v1/deployments",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    ):
        assert status_of(api.get, path) == 403, path
    token = f"{core}/serviceaccounts/rzero/token"
    assert status_of(lambda path: api.request("POST", path, {"spec": {}}), token) == 403


def status_of(get: Any, path: str) -> int:
    with pytest.raises(ApiError) as caught:
        get(path)
    return caught.value.status


def test_the_account_of_stage_pods_has_no_right_and_gives_no_token(
    cluster: ControlPlane, helm: Helm, place: str, elsewhere: str
) -> None:
    helm(
        "install", "rzero", CHART, "--namespace", place, "--set", f"watchNamespaces={{{elsewhere}}}"
    )

    path = f"/api/v1/namespaces/{elsewhere}/serviceaccounts/rzero-stage"
    assert cluster.api().get(path)["automountServiceAccountToken"] is False
    assert rights(cluster, "rzero-stage", elsewhere, elsewhere) == {}


def test_viewers_see_runs_editors_change_them_and_nobody_else_does_either(
    cluster: ControlPlane, helm: Helm, place: str
) -> None:
    helm("install", "rzero", CHART, "--namespace", place)
    for role in ("view", "edit", "admin"):
        words = (f"--clusterrole={role}", f"--user={role}er", "--namespace", place)
        cluster.kubectl("create", "rolebinding", role, *words)

    comes_true(lambda: verbs(cluster, place, "viewer"), ["get", "list", "watch"])
    editor = ["create", "delete", "get", "list", "patch", "update", "watch"]
    comes_true(lambda: verbs(cluster, place, "editer"), editor)
    comes_true(lambda: verbs(cluster, place, "adminer"), sorted([*editor, "deletecollection"]))
    assert verbs(cluster, place, "stranger") == []


def verbs(cluster: ControlPlane, namespace: str, user: str) -> list[str]:
    """What a user may do with runs, once the aggregation of roles has come to rest."""
    words = "get list watch create update patch delete deletecollection"
    cluster.kubectl("wait", "clusterrole/admin", "--timeout=30s",
                    "--for=jsonpath={.rules[?(@.verbs[0]=='deletecollection')].apiGroups[0]}"
                    "=rzero.dev")  # fmt: skip
    allowed = []
    for verb in words.split():
        attributes = {
            "namespace": namespace,
            "verb": verb,
            "group": "rzero.dev",
            "resource": "coevolutionruns",
        }
        review = {"spec": {"user": user, "resourceAttributes": attributes}}
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        if cluster.api().request("POST", path, review)["status"]["allowed"]:
            allowed.append(verb)
    return sorted(allowed)


def test_an_upgrade_from_the_commit_before_leaves_runs_as_they_are(
    cluster: ControlPlane, helm: Helm, place: str, tmp_path: Path
) -> None:
    helm("install", "rzero", previous_chart(tmp_path), "--namespace", place, *WAIT)
    run = create_run(cluster, place)

    helm("upgrade", "rzero", CHART, "--namespace", place, *WAIT, "--set", "workers=8")

    assert cluster.api().get(f"{runs(place)}/kept") == run
    deployment = cluster.api().get(f"/apis/apps/v1/namespaces/{place}/deployments/rzero")
    assert deployment["status"]["updatedReplicas"] == 1
    assert has_the_crd_of(CHART, cluster)


def test_an_upgrade_brings_the_new_crd_and_keeps_what_was_declared(
    cluster: ControlPlane, helm: Helm, place: str, tmp_path: Path
) -> None:
    older = shutil.copytree(CHART, tmp_path / "older")
    crd = yaml.safe_load((CHART / CRD_FILE).read_text())
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    del spec["properties"]["queueName"], spec["x-kubernetes-validations"]
    (older / CRD_FILE).write_text(yaml.safe_dump(crd))
    helm("install", "rzero", older, "--namespace", place)
    run = create_run(cluster, place)

    helm("upgrade", "rzero", CHART, "--namespace", place)

    assert has_the_crd_of(CHART, cluster)
    await_served(cluster)
    change = {"spec": {"queueName": "research"}}
    comes_true(
        lambda: cluster.api().patch(f"{runs(place)}/kept", change)["spec"],
        run["spec"] | change["spec"],
    )
    assert cluster.api().get(f"{runs(place)}/kept")["metadata"]["uid"] == run["metadata"]["uid"]


def has_the_crd_of(chart: Path, cluster: ControlPlane) -> bool:
    """Whether nothing would change if the file were applied over it."""
    words = ("replace", "--dry-run=server", "--output=json", "-f", str(chart / CRD_FILE))
    wanted = json.loads(cluster.kubectl(*words))
    return bool(cluster.api().get(f"{CRDS}/{CRD}")["spec"] == wanted["spec"])


def test_an_uninstall_leaves_runs_and_crd_which_the_next_install_takes_over(
    cluster: ControlPlane, helm: Helm, place: str
) -> None:
    helm("install", "rzero", CHART, "--namespace", place, *WAIT)
    run = create_run(cluster, place)

    helm("uninstall", "rzero", "--namespace", place, "--wait")

    assert cluster.api().get(f"{runs(place)}/kept") == run
    kinds = ("all,sa,role,rolebinding", "-l", "app.kubernetes.io/instance=rzero")
    # Helm waits for the Deployment, not for what the cluster then collects of it.
    comes_true(lambda: cluster.kubectl("get", *kinds, "-n", place, "-o", "name"), "")
    assert "rzero" not in cluster.kubectl("get", "clusterrole,clusterrolebinding", "-o", "name")
    helm("install", "rzero", CHART, "--namespace", place, *WAIT)
    assert cluster.api().get(f"{runs(place)}/kept") == run


def test_a_kept_crd_goes_to_a_release_of_another_name_only_when_asked(
    cluster: ControlPlane, helm: Helm, place: str, elsewhere: str
) -> None:
    helm("install", "rzero", CHART, "--namespace", place)
    helm("uninstall", "rzero", "--namespace", place)

    with pytest.raises(HelmError, match="invalid ownership metadata"):
        helm("install", "other", CHART, "--namespace", elsewhere)
    helm("install", "other", CHART, "--namespace", elsewhere, "--take-ownership")

    owner = cluster.api().get(f"{CRDS}/{CRD}")["metadata"]["annotations"]
    assert owner["meta.helm.sh/release-name"] == "other"


def test_a_release_that_no_longer_brings_the_crd_lets_go_of_it_and_of_no_run(
    cluster: ControlPlane, helm: Helm, place: str
) -> None:
    helm("install", "rzero", CHART, "--namespace", place)
    run = create_run(cluster, place)

    helm("upgrade", "rzero", CHART, "--namespace", place, "--set", "crds.install=false")

    assert cluster.api().get(f"{runs(place)}/kept") == run


def test_a_crd_that_is_not_kept_goes_with_the_release(
    cluster: ControlPlane, helm: Helm, place: str
) -> None:
    helm("install", "rzero", CHART, "--namespace", place, "--set", "crds.keep=false")

    helm("uninstall", "rzero", "--namespace", place, "--wait")

    assert status_of(cluster.api().get, f"{CRDS}/{CRD}") == 404


def test_two_installs_serve_a_namespace_each(
    cluster: ControlPlane, helm: Helm, place: str, elsewhere: str
) -> None:
    helm("install", "rzero", CHART, "--namespace", place, "--set", f"watchNamespaces={{{place}}}")
    helm("install", "rzero", CHART, "--namespace", elsewhere, *ALONE,
         "--set", f"watchNamespaces={{{elsewhere}}}")  # fmt: skip

    await_served(cluster)
    for home, other in ((place, elsewhere), (elsewhere, place)):
        comes_true(lambda home=home: rights(cluster, "rzero", home, home), RIGHTS)
        api = cluster.api(cluster.service_account_token(home, "rzero"))
        assert api.get(runs(home))["items"] == []
        assert status_of(api.get, runs(other)) == 403
