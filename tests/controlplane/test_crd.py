"""What a cluster says to a manifest, and that `rzero validate` says the same without a cluster."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rzero_core.crd import definition, files
from rzero_core.run import CoEvolutionRun, RunSpec, Stage
from rzero_core.spec.presets import overlay
from rzero_core.status import IterationStatus, Phase, RunStatus, StageState, StageStatus
from rzero_operator.conditions import conditions
from rzero_operator.manifests import ManifestError, load
from tests.cluster.api import ApiError
from tests.cluster.control_plane import ControlPlane

CRD = "crds/rzero.dev_coevolutionruns.yaml"
DATA = Path("tests/data")
EXAMPLES = sorted(Path("examples").glob("*/*.yaml"))
SMALLEST = {
    "apiVersion": "rzero.dev/v1alpha1",
    "kind": "CoEvolutionRun",
    "metadata": {"name": "smallest"},
    "spec": {"model": "hf://Qwen/Qwen3-4B-Base", "storage": {"uri": "s3://rzero/runs"}},
}


def manifest(**fields: Any) -> dict[str, Any]:
    """The smallest valid manifest with these fields over it."""
    return overlay(fields, SMALLEST)


def cases(name: str) -> list[dict[str, Any]]:
    return yaml.safe_load((DATA / name).read_text())


def shortest(number: float) -> float:
    return int(number) if number.is_integer() else number


class Runs:
    """The runs of one namespace."""

    def __init__(self, cluster: ControlPlane, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self._api = cluster.api()
        self._path = f"/apis/rzero.dev/v1alpha1/namespaces/{namespace}/coevolutionruns"

    def create(self, manifest: dict[str, Any], *, dry: bool = False) -> dict[str, Any]:
        """As `kubectl create` does it. Raises ApiError."""
        path = f"{self._path}?fieldValidation=Strict{'&dryRun=All' if dry else ''}"
        # kubectl writes 3 where a manifest says 3.0.
        body = json.loads(json.dumps(manifest), parse_float=lambda text: shortest(float(text)))
        return self._api.request("POST", path, body)

    def patch(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Change the smallest run; null takes a field away."""
        return self._api.patch(f"{self._path}/smallest", {"spec": spec})

    def write_status(self, status: dict[str, Any]) -> dict[str, Any]:
        """Replace the status of the smallest run."""
        run = self._api.get(f"{self._path}/smallest")
        return self._api.request("PUT", f"{self._path}/smallest/status", run | {"status": status})

    def kubectl(self, *words: str, input: str | None = None) -> str:
        return self.cluster.kubectl("--namespace", self.namespace, *words, input=input)

    def verdict(self, manifest: dict[str, Any]) -> dict[str, str]:
        """What a cluster says to a manifest: sentences by field; empty when it is accepted."""
        try:
            self.create(manifest, dry=True)
        except ApiError as error:
            answer = json.loads(str(error).partition(f": {error.status} ")[2])
            causes = answer.get("details", {}).get("causes", [])
            if error.status == 422:
                found: dict[str, str] = {}
                for cause in causes:
                    # `<nil>`: rules that were not looked at because of the mistake.
                    if cause["field"] == "<nil>":
                        continue
                    field = re.sub(r"\[\d+\]", "", cause["field"])
                    found[field] = f"{found.get(field, '')} {cause['message']}".strip()
                return found
            unknown = re.search(r'unknown field "([^"]+)"', answer["message"])
            assert unknown is not None, answer
            return {unknown[1]: answer["message"]}
        return {}


@pytest.fixture(scope="module")
def installed(control_plane: ControlPlane) -> ControlPlane:
    control_plane.kubectl("apply", "--filename", CRD)
    control_plane.wait_for_crd("coevolutionruns.rzero.dev")
    return control_plane


@pytest.fixture
def runs(installed: ControlPlane, namespace: str) -> Runs:
    return Runs(installed, namespace)


def client_verdict(manifest: dict[str, Any], folder: Path) -> dict[str, str]:
    """What `rzero validate` says to a manifest, in the form of `Runs.verdict`."""
    path = folder / "run.yaml"
    path.write_text(json.dumps(manifest))
    try:
        load(path)
    except ManifestError as error:
        lines = [line.removeprefix(f"{path}: ") for line in error.lines]
        found: dict[str, str] = {}
        for line in lines:
            field, _, message = line.partition(": ")
            found[re.sub(r"\.\d+(?=\.|$)", "", field)] = message
        return found
    return {}


def test_what_is_generated_is_up_to_date_and_small() -> None:
    for path, text in files(Path()).items():
        assert path.read_text() == text, "run `make crds`"
    assert Path(CRD).stat().st_size < 256 * 1024


@pytest.mark.parametrize("path", EXAMPLES, ids=str)
def test_every_example_is_accepted_by_kubectl_and_listed(path: Path, runs: Runs) -> None:
    assert "created" in runs.kubectl("apply", "--filename", str(path))
    name = yaml.safe_load(path.read_text())["metadata"]["name"]
    assert runs.kubectl("get", "cer", "--output=name").strip().endswith(f"/{name}")
    assert name in runs.kubectl("get", "all")


def test_four_lines_make_a_run_and_its_defaults_are_to_be_seen(runs: Runs) -> None:
    spec = runs.create(manifest())["spec"]
    assert (spec["iterations"], spec["preset"], spec["seed"]) == (3, "improved", 0)
    assert spec["challenger"]["steps"] == 5 and spec["stages"]["evaluate"]["maxRetries"] == 3
    assert spec["labelAccuracy"]["floor"] == 0.6
    # A preset may say otherwise.
    assert "votes" not in spec["labels"] and "batchSize" not in spec["solver"]


@pytest.mark.parametrize("case", cases("good_manifests.yaml"), ids=str)
def test_what_a_cluster_stores_reads_as_what_was_written(
    case: dict[str, Any], runs: Runs, tmp_path: Path
) -> None:
    written = manifest(**case)
    stored = runs.create(written)
    (tmp_path / "run.yaml").write_text(json.dumps(written))
    assert CoEvolutionRun.parse(stored).spec == load(tmp_path / "run.yaml").spec


@pytest.mark.parametrize("case", cases("bad_manifests.yaml"), ids=str)
def test_a_bad_manifest_is_refused_with_a_sentence_by_both(
    case: dict[str, Any], runs: Runs, tmp_path: Path
) -> None:
    field, sentence = case.pop("field"), case.pop("says")
    bad = manifest(**case)
    if "spec" in case and not isinstance(case["spec"], dict):
        bad["spec"] = case["spec"]
    server = runs.verdict(bad)
    client = client_verdict(bad, tmp_path)
    assert sentence in server.get(field, ""), server
    assert field in client, client
    if sentence in RULES:
        assert sentence in client[field]


def rules(schema: dict[str, Any]) -> Iterator[str]:
    """Every message of every rule below a schema."""
    for rule in schema.get("x-kubernetes-validations", []):
        yield rule["message"]
    for field in schema.get("properties", {}).values():
        yield from rules(field.get("items", field))


SCHEMA = definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
RULES = " ".join(rules(SCHEMA))


def test_each_rule_has_a_manifest_or_a_change_that_breaks_it() -> None:
    sentences = [case["says"] for case in cases("bad_manifests.yaml")]
    sentences += [sentence for _, sentence in REFUSED_CHANGES]
    untried = [rule for rule in rules(SCHEMA) if not any(words in rule for words in sentences)]
    assert untried == []


def fields_of(
    schema: dict[str, Any], path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Every field below a schema that is no list of objects, with its own schema."""
    for name, field in schema["properties"].items():
        if "properties" in field:
            yield from fields_of(field, (*path, name))
        yield (*path, name), field


def at_the_edges(field: dict[str, Any]) -> list[Any]:
    """Values at and beyond the edges of what a field may hold, and of other types."""
    values: list[Any] = [None, "", "a b", "3", 0, 1, -1, 2.5, 3.0, True, [], {}]
    values += field.get("enum", [])
    for bound in ("minimum", "maximum"):
        if bound in field:
            values += [field[bound] + step for step in (-1, 0, 1)]
    if "maxLength" in field:
        values += [letter * (field["maxLength"] + more) for letter in "aä" for more in (0, 1)]
        values += ["s3://", "s3://abc/d", "file://x", "http://x", "http://", "hf://a/b"]
    return values


# What an object must hold beside the field in question.
COMPANIONS: dict[str, dict[str, Any]] = {
    "prompts.solver": {"user": "{question}"},
    "prompts.challenger": {"user": "Ask."},
    "labelAccuracy.auditor.oracle": {"endpoint": "http://host", "model": "m"},
    "labelAccuracy.auditor.probes": {"uri": "probes.jsonl"},
}


def test_both_give_the_same_verdict_at_the_edges_of_every_field(runs: Runs, tmp_path: Path) -> None:
    tried = 0
    for path, field in fields_of(SCHEMA["properties"]["spec"], ()):
        for value in at_the_edges(field):
            spec: Any = {path[-1]: value}
            for depth in range(len(path) - 1, 0, -1):
                spec = overlay(spec, COMPANIONS.get(".".join(path[:depth]), {}))
                spec = {path[depth - 1]: spec}
            if "oracle" in path[:-1]:
                spec["labelAccuracy"]["auditor"]["type"] = "Oracle"
            tested = manifest(spec=spec)
            server, client = runs.verdict(tested), client_verdict(tested, tmp_path)
            assert bool(server) == bool(client), (tested, server, client)
            # A cluster may find fault with more fields than one.
            assert set(client) <= set(server), (tested, server, client)
            tried += 1
    assert tried > 1000


REFUSED_CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"model": "hf://Qwen/Qwen3-8B-Base"}, "model is immutable"),
    ({"seed": 1}, "seed is immutable"),
    ({"seed": None}, "seed is immutable"),
    ({"preset": None}, "preset is immutable"),
    ({"storage": {"uri": "s3://rzero/other"}}, "storage.uri is immutable"),
    ({"storage": {"endpoint": "http://other"}}, "storage.endpoint is immutable"),
    ({"storage": {"endpoint": None}}, "storage.endpoint is immutable"),
    ({"storage": {"region": "eu-1"}}, "storage.region is immutable"),
    ({"iterations": 4}, "iterations may only grow"),
    ({"iterations": None}, "iterations may only grow"),
]
ALLOWED_CHANGES: list[dict[str, Any]] = [
    {"iterations": 6},
    {"suspend": True},
    {"storage": {"secretName": "other", "checksums": "WhenRequired"}},
    {"labelAccuracy": {"floor": 0.5}},
    {"stages": {"trainSolver": {"gpus": 4, "podTemplate": {"spec": {"nodeSelector": {"a": "b"}}}}}},
]


@pytest.fixture
def begun(runs: Runs) -> Runs:
    """A run that others change."""
    storage = SMALLEST["spec"]["storage"] | {"endpoint": "http://minio:9000"}
    runs.create(manifest(spec={"seed": 7, "iterations": 5, "preset": "paper", "storage": storage}))
    return runs


@pytest.mark.parametrize(("change", "sentence"), REFUSED_CHANGES, ids=str)
def test_what_a_run_is_made_of_cannot_change(
    change: dict[str, Any], sentence: str, begun: Runs
) -> None:
    with pytest.raises(ApiError, match=sentence) as refused:
        begun.patch(change)
    assert refused.value.status == 422


@pytest.mark.parametrize("change", ALLOWED_CHANGES, ids=str)
def test_what_a_run_needs_can_change(change: dict[str, Any], begun: Runs) -> None:
    assert CoEvolutionRun.parse(begun.patch(change)).spec.seed == 7


def test_a_misspelt_field_is_refused_by_kubectl_and_dropped_by_who_does_not_ask(
    runs: Runs,
) -> None:
    text = json.dumps(manifest(spec={"iteration": 7}))
    with pytest.raises(RuntimeError, match=r'unknown field "spec\.iteration"'):
        runs.kubectl("apply", "--filename", "-", input=text)
    runs.kubectl("apply", "--validate=false", "--filename", "-", input=text)
    stored = json.loads(runs.kubectl("get", "cer", "smallest", "--output=json"))
    assert "iteration" not in stored["spec"]


def test_a_pod_template_keeps_fields_that_only_kubernetes_knows(runs: Runs) -> None:
    template = {"spec": {"tolerations": [{"operator": "Exists"}], "futureField": {"a": [1, None]}}}
    stored = runs.create(manifest(spec={"stages": {"evaluate": {"podTemplate": template}}}))
    assert stored["spec"]["stages"]["evaluate"]["podTemplate"] == template


STATUS = RunStatus(
    observed_generation=1,
    phase=Phase.RUNNING,
    iteration=1,
    stage=Stage.TRAIN_SOLVER,
    attempt=2,
    progress="1/3",
    latest_label_accuracy="0.71",
    latest_score="0.412",
    iterations=[
        IterationStatus(
            iteration=1,
            stages=[
                StageStatus(
                    stage=Stage.GENERATE_QUESTIONS,
                    round=round,
                    state=StageState.DONE,
                    attempts=1,
                    outputs={"questions": "s3://rzero/runs/q"},
                    metrics={"kept": "7990"},
                )
                for round in (1, 2)
            ],
        )
    ],
    conditions=conditions(
        RunStatus(phase=Phase.RUNNING), "trainSolver of iteration 1 runs", 1, "2026-01-01T00:00:00Z"
    ),
)


def test_kubectl_get_shows_where_a_run_stands(runs: Runs) -> None:
    runs.create(manifest())
    runs.write_status(STATUS.to_dict())
    head, row = runs.kubectl("get", "cer").splitlines()
    assert " ".join(head.split()) == "NAME PHASE ITERATION STAGE LABEL ACCURACY SCORE AGE"
    assert row.split()[:6] == ["smallest", "Running", "1/3", "trainSolver", "0.71", "0.412"]
    assert "trainSolver of iteration 1 runs" in runs.kubectl("get", "cer", "--output=wide")
    assert "smallest" in runs.kubectl("get", "cer", "--field-selector=status.phase=Running")
    assert runs.kubectl("get", "cer", "--field-selector=status.phase=Failed").strip() == ""


def test_a_status_reads_back_as_it_was_written(runs: Runs) -> None:
    runs.create(manifest())
    stored = runs.write_status(STATUS.to_dict())
    assert RunStatus.parse(stored["status"]) == STATUS


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"phase": "Done"}, "supported values"),
        ({"iterations": [{"iteration": 1}, {"iteration": 1}]}, "Duplicate value"),
        ({"conditions": [STATUS.conditions[0].to_dict()] * 2}, "Duplicate value"),
    ],
)
def test_a_status_of_nonsense_is_refused(fields: dict[str, Any], words: str, runs: Runs) -> None:
    runs.create(manifest())
    with pytest.raises(ApiError, match=words):
        runs.write_status(fields)


def test_kubectl_explains_fields_in_the_words_of_the_code(runs: Runs) -> None:
    words = " ".join(runs.kubectl("explain", "cer.spec.labels.votes").split())
    assert "Answers sampled for each question." in words
    assert "Default by preset: 10 (paper), 9 (reference), 10 (improved)." in words


def test_the_reference_page_has_every_field() -> None:
    page = Path("docs/reference.md").read_text()
    for model in (RunSpec, RunStatus):
        for field in model.model_fields.values():
            assert f"| `{field.alias}` |" in page
