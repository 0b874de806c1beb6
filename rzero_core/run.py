"""What a user declares: `RunSpec`, the one source of the CRD, of validation and of all defaults.

Presets are overlays on the defaults: a field that the manifest leaves out takes the value of the
preset, else the default that stands beside the field.
"""

import re
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from rzero_core.wire import Wire

API_VERSION = "rzero.dev/v1alpha1"
KIND = "CoEvolutionRun"

Ratio = Annotated[float, Field(ge=0.0, le=1.0)]
RunName = Annotated[str, StringConstraints(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=40)]


class Stage(StrEnum):
    """The stages of an iteration, in their order."""

    TRAIN_CHALLENGER = "trainChallenger"
    """GRPO on the Challenger, rewarded for questions on which the frozen Solver is uncertain."""
    GENERATE_QUESTIONS = "generateQuestions"
    """The trained Challenger writes the pool of questions, in shards."""
    LABEL_QUESTIONS = "labelQuestions"
    """The Solver votes on each question, in shards."""
    BUILD_CURRICULUM = "buildCurriculum"
    """Merge, deduplicate, filter by agreement."""
    TRAIN_SOLVER = "trainSolver"
    """GRPO on the Solver with the majority answers as labels."""
    EVALUATE = "evaluate"
    """Held-out scores. Its failure never fails the run."""


class Preset(StrEnum):
    """Where the values of fields come from that the manifest leaves out."""

    PAPER = "paper"
    """arXiv 2508.05004, appendix."""
    REFERENCE = "reference"
    """The values of the published code, without its defects."""
    IMPROVED = "improved"
    """The defaults beside the fields."""


class RewardForm(StrEnum):
    """How uncertainty, repetition and format make the Challenger's reward."""

    PAPER = "Paper"
    """max(0, 1 - 2|p - 1/2| - repetition); a malformed question earns 0 (section 3.2)."""
    REFERENCE = "Reference"
    """min(p, 1 - p) - repetition; a malformed question earns -1 - repetition."""


class Similarity(StrEnum):
    """The BLEU by which questions are called repetitions of one another."""

    SACREBLEU = "Sacrebleu"
    """sacrebleu's sentence_bleu: 13a tokens, exponential smoothing, effective order."""
    NLTK_METHOD1 = "NltkMethod1"
    """nltk's sentence_bleu: white-space tokens, smoothing method 1, as the published code."""


class Baseline(StrEnum):
    """Whose mean reward a completion is compared with."""

    GROUP = "Group"
    """The completions of the same group, as GRPO defines it."""
    BATCH = "Batch"
    """All completions of the step: valid for the Challenger, whose prompts are all the same."""


class KlReference(StrEnum):
    """The model that the KL term holds a training stage to."""

    STAGE_START = "StageStart"
    """The checkpoint that the stage starts from (paper and published code)."""
    BASE_MODEL = "BaseModel"
    """`spec.model`, in every iteration."""


class SamplerBackend(StrEnum):
    """What turns prompts into texts."""

    AUTO = "Auto"
    """vLLM where the stage sees a GPU, Transformers elsewhere."""
    TRANSFORMERS = "Transformers"
    VLLM = "Vllm"


class Prompt(Wire):
    """A chat prompt. `{question}` in `user` stands for the question; nothing else is replaced."""

    system: str = Field("", max_length=8192)
    """System message; left out of the conversation when empty."""
    user: str = Field(max_length=8192, min_length=1)
    """User message."""


class Prompts(Wire):
    """Prompts of the two roles, for models and subjects that the built-in ones do not suit."""

    challenger: Prompt | None = None
    """Asks for one new question. Default: a competition-mathematics question."""
    solver: Prompt | None = None
    """Asks for an answer in \\boxed{}; its user message must contain {question}."""

    @field_validator("solver")
    @classmethod
    def _has_a_place_for_the_question(cls, prompt: Prompt | None) -> Prompt | None:
        if prompt is not None and "{question}" not in prompt.user:
            raise ValueError("user must contain {question}, which stands for the question")
        return prompt


class Sampling(Wire):
    """How tokens are drawn."""

    temperature: float = Field(1.0, gt=0.0, le=4.0)
    """Softmax temperature."""
    top_p: float = Field(0.99, gt=0.0, le=1.0)
    """Nucleus: the smallest set of tokens with this much probability."""
    top_k: int = Field(0, ge=0)
    """Only the k likeliest tokens; 0 for no limit."""
    max_tokens: int = Field(2048, ge=1, le=131072)
    """Longest completion, in tokens."""


class Storage(Wire):
    """Where artifacts lie."""

    uri: str = Field(min_length=1, max_length=1024)
    """Root of all artifacts: `s3://bucket/prefix`, `file:///path`, or a plain path."""
    endpoint: str | None = Field(None, max_length=1024, pattern=r"^https?://")
    """URL of an S3-compatible server; absent for AWS."""
    region: str | None = Field(None, max_length=64)
    """S3 region."""
    secret_name: str | None = Field(None, max_length=253)
    """Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, referenced by stage pods only."""
    checksums: Literal["WhenSupported", "WhenRequired"] = "WhenSupported"
    """Request checksums; `WhenRequired` for stores that reject the newer headers."""

    @field_validator("uri")
    @classmethod
    def _known_scheme(cls, uri: str) -> str:
        if "://" in uri and not uri.startswith(("s3://", "file://")):
            raise ValueError("write s3://bucket/prefix, file:///path or a plain path")
        if uri.startswith("s3://") and not re.match(r"^s3://[a-z0-9][a-z0-9.-]{2,62}(/|$)", uri):
            raise ValueError("write s3://bucket/prefix; a bucket name has 3 to 63 characters")
        return uri.rstrip("/") if uri.strip("/") else uri


class Lora(Wire):
    """Low-rank adapters instead of full fine-tuning; merged into the checkpoint at the end."""

    rank: int = Field(16, ge=1, le=1024)
    """Rank of the update of each linear layer."""
    alpha: int = Field(32, ge=1)
    """Scale of the update: alpha / rank."""


class Training(Wire):
    """What both GRPO stages share."""

    steps: int = Field(ge=1, le=100_000)
    """Rounds of sampling and learning."""
    batch_size: int = Field(128, ge=1)
    """Prompts a step; each is answered `groupSize` times."""
    group_size: int = Field(ge=1)
    """Completions of one prompt."""
    update_batch_size: int | None = Field(None, ge=1)
    """Prompts an optimizer update; absent: the whole batch, one update a step."""
    micro_batch_size: int = Field(8, ge=1)
    """Completions in one forward and backward pass on one device: the knob for memory."""
    learning_rate: float = Field(1.0e-6, gt=0.0, le=1.0)
    """Constant learning rate of AdamW."""
    weight_decay: float = Field(1.0e-2, ge=0.0, le=1.0)
    """Decoupled weight decay."""
    kl_coefficient: float = Field(1.0e-2, ge=0.0)
    """Weight of the KL term in the loss; 0 saves the memory of the reference model."""
    kl_reference: KlReference = KlReference.STAGE_START
    """The model that the KL term holds the training to."""
    clip_low: float = Field(0.2, gt=0.0, lt=1.0)
    """Lower clip of the probability ratio: 1 - clipLow."""
    clip_high: float = Field(0.2, gt=0.0)
    """Upper clip of the probability ratio: 1 + clipHigh."""
    max_grad_norm: float = Field(1.0, gt=0.0)
    """Gradient norm above which gradients are scaled down."""
    checkpoint_every: int = Field(5, ge=1)
    """Steps between resumable checkpoints."""
    lora: Lora | None = None
    """Absent: full fine-tuning."""
    sampling: Sampling = Sampling()
    """How completions are drawn."""

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        update = self.update_batch_size
        if update is not None and self.batch_size % update:
            raise ValueError(
                f"batchSize must be a multiple of updateBatchSize: {self.batch_size} is not "
                f"a multiple of {update}"
            )
        return self


class Challenger(Training):
    """GRPO on the Challenger."""

    steps: int = Field(5, ge=1, le=100_000)
    """Rounds of sampling and learning."""
    group_size: int = Field(4, ge=1)
    """Completions of one prompt."""
    baseline: Baseline = Baseline.BATCH
    """Whose mean reward a question is compared with."""
    reward: RewardForm = RewardForm.PAPER
    """How uncertainty, repetition and format make the reward."""
    repetition_weight: float = Field(1.0, ge=0.0)
    """Weight of the repetition penalty, lambda in the paper."""
    repetition_threshold: float = Field(0.5, gt=0.0, le=1.0)
    """Distance 1 - BLEU under which questions fall into one cluster, tau in the paper."""
    similarity: Similarity = Similarity.SACREBLEU
    """The BLEU of the repetition penalty."""

    @model_validator(mode="after")
    def _someone_to_compare_with(self) -> Self:
        if self.baseline is Baseline.GROUP and self.group_size < 2:
            raise ValueError("groupSize must be at least 2 with baseline Group")
        if self.batch_size * self.group_size < 2:
            raise ValueError("batchSize times groupSize must be at least 2")
        return self


class Solver(Training):
    """GRPO on the Solver."""

    steps: int = Field(15, ge=1, le=100_000)
    """Rounds of sampling and learning."""
    group_size: int = Field(5, ge=2)
    """Answers to one question."""
    format_weight: Ratio = 0.0
    """Share of the reward for an answer in the asked form, right or wrong."""


class Questions(Wire):
    """The pool of questions that the Challenger writes."""

    count: int = Field(8000, ge=1, le=10_000_000)
    """Questions drawn in an iteration, before any is dropped."""
    shards: int = Field(8, ge=1, le=1000)
    """Parts of the pool that are generated and labelled independently."""
    max_characters: int = Field(4096, ge=1)
    """Longer questions are dropped (and counted)."""
    near_duplicate: float = Field(0.9, gt=0.0, le=1.0)
    """BLEU from which the later of two questions is dropped; 1 keeps all but exact duplicates."""
    top_ups: int = Field(2, ge=0, le=20)
    """Further rounds of the same size when the curriculum is smaller than one Solver batch."""
    sampling: Sampling = Sampling()
    """How questions are drawn."""

    @model_validator(mode="after")
    def _a_question_for_each_shard(self) -> Self:
        if self.shards > self.count:
            raise ValueError(f"shards must not exceed count: {self.shards} > {self.count}")
        return self


class Labels(Wire):
    """How the Solver's votes become labels and a curriculum."""

    votes: int = Field(10, ge=1, le=1000)
    """Answers sampled for each question."""
    min_agreement: Ratio = 0.25
    """Questions with less agreement are too hard."""
    max_agreement: Ratio = 0.75
    """Questions with more agreement are too easy."""
    sampling: Sampling = Sampling()
    """How votes are drawn."""

    @model_validator(mode="after")
    def _band(self) -> Self:
        if self.min_agreement >= self.max_agreement:
            raise ValueError(
                f"minAgreement must be less than maxAgreement: {self.min_agreement} is not "
                f"less than {self.max_agreement}; write for example 0.25 and 0.75"
            )
        return self


class Auditor(Wire):
    """What estimates the share of right labels."""

    type: Literal["None"] = "None"
    """No auditor."""


class LabelAccuracy(Wire):
    """How far labels may be trusted, and what happens when they may not."""

    auditor: Auditor = Auditor()
    """What estimates the share of right labels."""
    sample_size: int = Field(300, ge=1)
    """Labels audited in an iteration."""
    floor: Ratio = 0.60
    """Pseudo-label accuracy below which the guardrail acts."""
    max_drop: Ratio = 0.10
    """Loss of pseudo-label accuracy since the best iteration above which the guardrail acts."""
    on_violation: Literal["Warn", "Pause", "Stop"] = "Warn"
    """What the guardrail does."""


class Dataset(Wire):
    """Held-out questions with known answers, one JSON object {question, answer} a line."""

    name: str = Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)
    """Name in results and metrics."""
    uri: str = Field(min_length=1, max_length=1024)
    """A path, `file://` or `s3://` URI of a JSONL file."""


class Evaluation(Wire):
    """Held-out scores of the base model and of every Solver."""

    datasets: list[Dataset] = Field([], max_length=32)
    """Evaluated in this order; none: no evaluation."""
    samples: int = Field(8, ge=1, le=1024)
    """Answers sampled for each question: the k of mean@k and maj@k."""
    sampling: Sampling = Sampling()
    """How answers are drawn; greedy decoding stands beside it."""

    @field_validator("datasets")
    @classmethod
    def _names_differ(cls, datasets: list[Dataset]) -> list[Dataset]:
        names = [dataset.name for dataset in datasets]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two datasets are named {name}; names must differ")
        return datasets


class StageSettings(Wire):
    """Where and how a stage runs."""

    gpus: int | None = Field(None, ge=0, le=16)
    """GPUs of one node; absent: all that the machine shows (local), or those of podTemplate."""
    nodes: int = Field(1, ge=1, le=64)
    """Nodes that train together."""
    parallelism: int = Field(1, ge=1, le=1000)
    """Shards at the same time."""
    max_retries: int = Field(3, ge=0, le=100)
    """Failures after which the run fails."""
    max_preemptions: int = Field(50, ge=0, le=10_000)
    """Attempts lost through no fault of the stage after which the run fails."""
    active_deadline_seconds: int | None = Field(None, ge=1)
    """Longest time of one attempt."""
    pod_template: dict[str, Any] | None = None
    """A PodTemplateSpec merged into the stage's own; the container of the stage is `main`."""


class Stages(Wire):
    """Settings of each stage."""

    train_challenger: StageSettings = StageSettings()
    """TrainChallenger."""
    generate_questions: StageSettings = StageSettings()
    """GenerateQuestions."""
    label_questions: StageSettings = StageSettings()
    """LabelQuestions."""
    build_curriculum: StageSettings = StageSettings()
    """BuildCurriculum."""
    train_solver: StageSettings = StageSettings()
    """TrainSolver."""
    evaluate: StageSettings = StageSettings()
    """Evaluate."""

    def of(self, stage: Stage) -> StageSettings:
        """The settings of one stage."""
        return {
            Stage.TRAIN_CHALLENGER: self.train_challenger,
            Stage.GENERATE_QUESTIONS: self.generate_questions,
            Stage.LABEL_QUESTIONS: self.label_questions,
            Stage.BUILD_CURRICULUM: self.build_curriculum,
            Stage.TRAIN_SOLVER: self.train_solver,
            Stage.EVALUATE: self.evaluate,
        }[stage]


PRESETS: dict[Preset, dict[str, Any]] = {
    # The paper's appendix; it shares these values between the two roles.
    Preset.PAPER: {
        "challenger": {"baseline": "Group"},
        "questions": {"nearDuplicate": 1.0, "topUps": 0},
    },
    # scripts/ and examples/config.yaml of the published code, commit 5699329.
    Preset.REFERENCE: {
        "challenger": {
            "batchSize": 512,
            "updateBatchSize": 16,
            "clipHigh": 0.3,
            "baseline": "Group",
            "reward": "Reference",
            "similarity": "NltkMethod1",
        },
        "questions": {
            "nearDuplicate": 1.0,
            "topUps": 0,
            "sampling": {"topP": 0.95, "maxTokens": 4096},
        },
        "labels": {
            "votes": 9,
            "minAgreement": 0.3,
            "maxAgreement": 0.8,
            "sampling": {"topP": 1.0, "topK": 40, "maxTokens": 4096},
        },
        "solver": {
            "batchSize": 512,
            "updateBatchSize": 128,
            "clipHigh": 0.3,
            "formatWeight": 0.1,
            "sampling": {"maxTokens": 4096},
        },
    },
    Preset.IMPROVED: {},
}


class RunSpec(Wire):
    """What a user declares: one co-evolution of a Challenger and a Solver from a base model."""

    model: str = Field(min_length=1, max_length=1024)
    """Base model: `hf://owner/name@revision`, `s3://…`, `file://…` or a path. Immutable."""
    iterations: int = Field(3, ge=1, le=999)
    """Rounds of co-evolution. May grow later: the run continues."""
    preset: Preset = Preset.IMPROVED
    """Where the values of fields come from that the manifest leaves out."""
    seed: int = Field(0, ge=0, le=2**31 - 1)
    """All randomness derives from it. Immutable."""
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

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        preset = data.get("preset", Preset.IMPROVED)
        # An unknown preset is reported by the field itself.
        overlay = PRESETS[Preset(preset)] if preset in set(Preset) else {}
        return _overlay(data, overlay)

    @model_validator(mode="after")
    def _pool_feeds_a_batch(self) -> Self:
        if self.questions.count < self.solver.batch_size:
            raise ValueError(
                f"questions.count must be at least solver.batchSize: {self.questions.count} < "
                f"{self.solver.batch_size}; raise the one or lower the other"
            )
        return self


def _overlay(data: dict[str, Any], preset: dict[str, Any]) -> dict[str, Any]:
    """`data` with the preset's values where it says nothing."""
    merged = dict(data)
    for key, value in preset.items():
        if key not in merged:
            merged[key] = value
        elif isinstance(value, dict) and isinstance(merged[key], dict):
            merged[key] = _overlay(merged[key], value)
    return merged


class Metadata(Wire, extra="ignore"):
    """The part of Kubernetes' object metadata that a run reads; the rest is passed over."""

    name: RunName
    """Name of the run: an RFC 1035 label of at most 40 characters."""
    namespace: str = "default"
    """Namespace of the run."""


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
