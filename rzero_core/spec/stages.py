"""The stages of an iteration, and where and how each of them runs."""

from enum import StrEnum
from typing import Any

from pydantic import Field

from rzero_core.wire import Wire


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
    ttl_seconds_after_finished: int = Field(86_400, ge=0)
    """Time for which a finished Job and its logs are kept; nothing depends on it."""
    pod_template: dict[str, Any] | None = None
    """A PodTemplateSpec merged into the stage's own; the container of the stage is `main`."""


class ChallengerStageSettings(StageSettings):
    """Where and how TrainChallenger runs."""

    solver_gpus: int | None = Field(None, ge=0, le=16)
    """GPUs of the sidecar that serves the frozen Solver by vLLM (0: on processors); absent: the
    stage samples the Solver itself."""


class Stages(Wire):
    """Settings of each stage."""

    train_challenger: ChallengerStageSettings = ChallengerStageSettings()
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
