"""What a manifest may say, and the sentence that comes back when it may not."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from rzero_core.run import PRESETS, Baseline, CoEvolutionRun, Preset, RewardForm, RunSpec
from rzero_core.wire import explain

EXAMPLES = sorted(Path("examples").glob("*/*.yaml"))
SMALLEST = {"model": "m", "storage": {"uri": "runs"}}


def mistakes(**fields: Any) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        RunSpec.parse(SMALLEST | fields)
    return explain(caught.value, "spec")


def test_model_and_storage_make_a_valid_run() -> None:
    spec = RunSpec.parse(SMALLEST)
    assert (spec.iterations, spec.labels.votes, spec.questions.count) == (3, 10, 8000)


@pytest.mark.parametrize("path", EXAMPLES, ids=str)
def test_every_example_is_valid(path: Path) -> None:
    CoEvolutionRun.parse(yaml.safe_load(path.read_text()))


def test_a_preset_fills_what_the_manifest_leaves_out_and_nothing_else() -> None:
    spec = RunSpec.parse(
        SMALLEST | {"preset": "reference", "labels": {"votes": 5, "sampling": {"topP": 0.9}}}
    )
    assert spec.labels.votes == 5
    assert spec.labels.min_agreement == 0.3
    assert (spec.labels.sampling.top_p, spec.labels.sampling.top_k) == (0.9, 40)
    assert spec.challenger.reward is RewardForm.REFERENCE


def test_a_field_goes_by_its_camel_case_name_alone_as_in_a_cluster() -> None:
    (mistake,) = mistakes(solver={"batch_size": 64})
    assert mistake == "spec.solver.batch_size: unknown field; check its spelling and indentation"


def test_presets_have_the_published_values() -> None:
    paper = RunSpec.parse(SMALLEST | {"preset": "paper"})
    assert (paper.challenger.steps, paper.solver.steps) == (5, 15)
    assert (paper.challenger.batch_size, paper.challenger.group_size) == (128, 4)
    assert (paper.labels.min_agreement, paper.labels.max_agreement) == (0.25, 0.75)
    assert paper.challenger.baseline is Baseline.GROUP
    reference = RunSpec.parse(SMALLEST | {"preset": "reference"})
    assert (reference.challenger.batch_size, reference.challenger.update_batch_size) == (512, 16)
    assert (reference.labels.votes, reference.labels.max_agreement) == (9, 0.8)
    assert reference.solver.format_weight == 0.1


@pytest.mark.parametrize("preset", list(Preset))
def test_a_resolved_spec_reads_back_as_itself(preset: Preset) -> None:
    spec = RunSpec.parse(SMALLEST | {"preset": preset})
    assert RunSpec.parse(spec.to_dict()) == spec


def test_presets_only_name_fields_that_exist() -> None:
    for preset, overlay in PRESETS.items():
        RunSpec.parse(SMALLEST | overlay | {"preset": preset})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 1}, "spec.temperature: unknown field; check its spelling"),
        ({"labels": {"votse": 3}}, "spec.labels.votse: unknown field"),
        ({"iterations": "3"}, "spec.iterations: Input should be a valid integer (got '3')"),
        ({"iterations": 0}, "spec.iterations: Input should be greater than or equal to 1"),
        ({"model": None}, "spec.model: required, but missing"),
        ({"model": 4}, "spec.model: Input should be a valid string"),
        ({"model": "https://hub/x"}, "spec.model: write hf://owner/name@revision"),
        ({"storage": {}}, "spec.storage.uri: required, but missing"),
        ({"storage": {"uri": "gs://b/p"}}, "spec.storage.uri: write s3://bucket/prefix"),
        ({"storage": {"uri": "s3://x"}}, "a bucket name has 3 to 63 characters"),
        ({"preset": "best"}, "'paper', 'reference' or 'improved'"),
        (
            {"labels": {"minAgreement": 0.8}},
            "spec.labels.minAgreement: minAgreement must be less than maxAgreement",
        ),
        (
            {"challenger": {"batchSize": 10, "updateBatchSize": 4}},
            "spec.challenger.updateBatchSize: batchSize must be a multiple of updateBatchSize",
        ),
        (
            {"challenger": {"baseline": "Group", "groupSize": 1}},
            "spec.challenger.groupSize: groupSize must be at least 2 with baseline Group",
        ),
        (
            {"questions": {"count": 2, "shards": 3}},
            "spec.questions.shards: shards must not exceed count",
        ),
        ({"questions": {"count": 64}}, "questions.count must be at least solver.batchSize"),
        ({"prompts": {"solver": {"user": "Solve it."}}}, "user must contain {question}"),
        ({"solver": {"learningRate": float("inf")}}, "finite number"),
        (
            {"evaluation": {"datasets": [{"name": "a", "uri": "x"}, {"name": "a", "uri": "y"}]}},
            "two datasets have the same name",
        ),
    ],
)
def test_a_mistake_names_the_field_and_the_remedy(fields: dict[str, Any], message: str) -> None:
    assert any(message in line for line in mistakes(**fields)), mistakes(**fields)


@pytest.mark.parametrize("name", ["UPPER", "1a", "a_b", "a" * 41, "", "a-"])
def test_a_run_name_is_a_short_label(name: str) -> None:
    manifest = {
        "apiVersion": "rzero.dev/v1alpha1",
        "kind": "CoEvolutionRun",
        "metadata": {"name": name},
        "spec": SMALLEST,
    }
    with pytest.raises(ValidationError) as caught:
        CoEvolutionRun.parse(manifest)
    assert explain(caught.value)[0].startswith("metadata.name: ")


def test_the_contract_is_light() -> None:
    code = (
        "import sys, rzero_core.task, rzero_core.status, rzero_core.store, rzero_core.records\n"
        "heavy = {'torch', 'transformers', 'trl', 'vllm', 'kopf', 'kubernetes', 'boto3', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_nothing_shadows_the_standard_library() -> None:
    assert not Path("operator/__init__.py").exists()
    assert not Path("stages/__init__.py").exists()
