"""What a user declares: `RunSpec`, the one source of the CRD, of validation and of all defaults.

Each part of it has its module in `rzero_core.spec`, with its fields and rules. Presets are overlays
on the defaults: a field that the manifest leaves out takes the value of the preset, else the
default that stands beside the field.
"""

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from rzero_core.spec.curriculum import Labels, Questions
from rzero_core.spec.evaluation import Dataset, Evaluation
from rzero_core.spec.label_accuracy import Auditor, AuditorType, LabelAccuracy, Oracle, Probes
from rzero_core.spec.presets import PRESETS, Preset, overlay
from rzero_core.spec.rules import (
    S3_BUCKET,
    Rule,
    Ruled,
    Transition,
    immutable,
    object_name,
    path_or_uri,
    written_as,
)
from rzero_core.spec.sampling import Prompt, Prompts, SamplerBackend, Sampling
from rzero_core.spec.stages import ChallengerStageSettings, Stage, Stages, StageSettings
from rzero_core.spec.storage import Storage
from rzero_core.spec.training import (
    Baseline,
    Challenger,
    KlReference,
    Lora,
    RewardForm,
    Similarity,
    Solver,
    Training,
)
from rzero_core.wire import Wire

__all__ = [
    "API_VERSION",
    "KIND",
    "PRESETS",
    "Auditor",
    "AuditorType",
    "Baseline",
    "Challenger",
    "ChallengerStageSettings",
    "CoEvolutionRun",
    "Dataset",
    "Evaluation",
    "KlReference",
    "LabelAccuracy",
    "Labels",
    "Lora",
    "Metadata",
    "Oracle",
    "Preset",
    "Probes",
    "Prompt",
    "Prompts",
    "Questions",
    "RewardForm",
    "RunSpec",
    "SamplerBackend",
    "Sampling",
    "Similarity",
    "Solver",
    "Stage",
    "StageSettings",
    "Stages",
    "Storage",
    "Training",
]

API_VERSION = "rzero.dev/v1alpha1"
KIND = "CoEvolutionRun"


class RunSpec(Ruled):
    """What a user declares: one co-evolution of a Challenger and a Solver from a base model."""

    model: str = Field(min_length=1, max_length=1024)
    """Base model: `hf://owner/name@revision`, `s3://…`, `file://…` or a path. Immutable."""
    iterations: int = Field(3, ge=1, le=100)
    """Rounds of co-evolution. May grow later: the run continues. At most 100, whose history still
    fits the status of one object, with up to two top-ups each and a few datasets."""
    preset: Preset = Preset.IMPROVED
    """Where the values of fields come from that the manifest leaves out."""
    seed: int = Field(0, ge=0, le=2**31 - 1)
    """All randomness derives from it. Immutable."""
    model_secret_name: str | None = Field(None, max_length=253)
    """Secret with HF_TOKEN, for an `hf://` model that asks for one."""
    storage: Storage
    """Where artifacts lie. Immutable."""
    prompts: Prompts = Prompts()
    """Prompts of the two roles."""
    sampler: SamplerBackend = SamplerBackend.AUTO
    """What turns prompts into texts."""
    challenger: Challenger = Challenger()
    """GRPO on the Challenger."""
    questions: Questions = Questions()
    """The pool of questions."""
    labels: Labels = Labels()
    """How votes become labels and a curriculum."""
    solver: Solver = Solver()
    """GRPO on the Solver."""
    label_accuracy: LabelAccuracy = LabelAccuracy()
    """How far labels may be trusted."""
    evaluation: Evaluation = Evaluation()
    """Held-out scores."""
    stages: Stages = Stages()
    """Where and how each stage runs."""
    suspend: bool = False
    """Stops the run after a checkpoint, until it is false again."""
    queue_name: str | None = Field(None, max_length=63)
    """Kueue LocalQueue of every Job."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        path_or_uri(
            "model",
            f"hf://[^/@]+/[^/@]+(@.+)?|{S3_BUCKET}/.+|file://.*[^/].*",
            "write hf://owner/name@revision, s3://bucket/path, file:///path or a plain path",
        ),
        object_name("modelSecretName", "Secret"),
        written_as(
            "queueName",
            r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?",
            "write the name of a LocalQueue of Kueue: lower-case letters, digits, '-' and '.'",
        ),
        Rule(
            field="questions.count",
            message="questions.count must be at least solver.batchSize; raise the one or lower the "
            "other",
            cel="self.questions.count >= self.solver.batchSize",
            holds=lambda spec: spec.questions.count >= spec.solver.batch_size,
        ),
    )
    TRANSITIONS: ClassVar[tuple[Transition, ...]] = (
        *(immutable(field) for field in ("model", "seed", "preset")),
        *(immutable(f"storage.{field}") for field in ("uri", "endpoint", "region")),
        Transition(
            field="iterations",
            message="iterations may only grow; write the old number or more",
            cel="self.iterations >= oldSelf.iterations",
        ),
    )

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, data: Any) -> Any:
        """What the manifest leaves out comes from the preset."""
        if not isinstance(data, dict):
            return data
        data = as_stored(data)
        preset = data.get("preset", Preset.IMPROVED)
        # An unknown preset is reported by the field itself.
        return overlay(data, PRESETS[Preset(preset)] if preset in list(Preset) else {})


def as_stored(value: Any) -> Any:
    """Plain data as the API server stores it: null is absent, and 3.0 may stand for 3."""
    match value:
        case dict():
            return {
                key: item if key == "podTemplate" else as_stored(item)
                for key, item in value.items()
                if item is not None
            }
        case list():
            return [as_stored(item) for item in value]
        case float() if value.is_integer():
            return int(value)
        case _:
            return value


class Metadata(Ruled, extra="ignore"):
    """The part of Kubernetes' object metadata that a run reads; the rest is passed over."""

    name: str
    """Name of the run: an RFC 1035 label of at most 40 characters."""
    namespace: str = "default"
    """Namespace of the run."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        written_as(
            "name",
            "[a-z]([-a-z0-9]{0,38}[a-z0-9])?",
            "write at most 40 lower-case letters, digits and '-', beginning with a letter and not "
            "ending with '-'",
        ),
    )


class CoEvolutionRun(Wire):
    """A run manifest."""

    api_version: Literal["rzero.dev/v1alpha1"]
    """rzero.dev/v1alpha1."""
    kind: Literal["CoEvolutionRun"]
    """CoEvolutionRun."""
    metadata: Metadata
    """Name and namespace."""
    spec: RunSpec
    """What is declared."""

    @model_validator(mode="before")
    @classmethod
    def _as_stored(cls, data: Any) -> Any:
        return as_stored(data)
