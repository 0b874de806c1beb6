"""The settings of the two GRPO stages, TrainChallenger and TrainSolver."""

from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from rzero_core.spec.rules import Rule, Ruled
from rzero_core.spec.sampling import Sampling
from rzero_core.wire import Wire


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


class Lora(Wire):
    """Low-rank adapters instead of full fine-tuning; merged into the checkpoint at the end."""

    rank: int = Field(16, ge=1, le=1024)
    """Rank of the update of each linear layer."""
    alpha: int = Field(32, ge=1)
    """Scale of the update: alpha / rank."""


class Training(Ruled):
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

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="updateBatchSize",
            message="batchSize must be a multiple of updateBatchSize; write for example 128 and 32",
            cel="!has(self.updateBatchSize) || self.batchSize % self.updateBatchSize == 0",
            holds=lambda training: (
                training.update_batch_size is None
                or training.batch_size % training.update_batch_size == 0
            ),
        ),
    )


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

    RULES: ClassVar[tuple[Rule, ...]] = (
        *Training.RULES,
        Rule(
            field="groupSize",
            message="groupSize must be at least 2 with baseline Group; write 2 or more, or "
            "baseline Batch",
            cel="self.baseline != 'Group' || self.groupSize >= 2",
            holds=lambda challenger: (
                challenger.baseline is not Baseline.GROUP or challenger.group_size >= 2
            ),
        ),
        Rule(
            field="batchSize",
            message="batchSize times groupSize must be at least 2: a single question has "
            "nothing to be compared with",
            cel="self.batchSize > 1 || self.groupSize > 1",
            holds=lambda challenger: challenger.batch_size > 1 or challenger.group_size > 1,
        ),
    )


class Solver(Training):
    """GRPO on the Solver."""

    steps: int = Field(15, ge=1, le=100_000)
    """Rounds of sampling and learning."""
    group_size: int = Field(5, ge=2)
    """Answers to one question."""
    format_weight: float = Field(0.0, ge=0.0, le=1.0)
    """Share of the reward for an answer in the asked form, right or wrong."""
