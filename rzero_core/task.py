"""All that the operator and the stages say to each other: one task in, one result out.

A task is complete: a stage reads exactly the URIs in it and writes under its `prefix`. The
operator passes it in the environment variable `RZERO_TASK`; the stage leaves its `StageResult` in
the file that `RZERO_RESULT_PATH` names, which on Kubernetes is the termination message.
"""

import hashlib
import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, TypeAdapter

from rzero_core.run import (
    Challenger,
    Evaluation,
    LabelAccuracy,
    Labels,
    Probes,
    Prompts,
    Questions,
    SamplerBackend,
    Solver,
    Stage,
    Storage,
)
from rzero_core.wire import Wire

TASK_VARIABLE = "RZERO_TASK"
RESULT_VARIABLE = "RZERO_RESULT_PATH"
DEFAULT_RESULT_PATH = "/dev/termination-log"
SHARD_VARIABLE = "JOB_COMPLETION_INDEX"
CACHE_VARIABLE = "RZERO_CACHE"
MAX_RESULT_BYTES = 4096
MOST_SAMPLES, LONGEST_SAMPLE = 3, 80
"""Verdicts that a result shows, and the bytes of each of their texts."""
LONGEST_WHY = 160
"""Characters of a result's reason why label accuracy is unknown."""
ORACLE_KEY_VARIABLE = "RZERO_ORACLE_API_KEY"
"""Key of the oracle's API, for BuildCurriculum alone."""

_SHARD = re.compile(r"(.*/shard-)([0-9]{4})", re.DOTALL)
_SHARDS = re.compile(r"(.*/shard-)\{([0-9]{4})\.\.([0-9]{4})\}", re.DOTALL)


def _fold(uris: list[str]) -> list[str]:
    """Shards that follow one another as one entry, `.../shard-{0000..0999}`, as shells write it."""
    folded: list[str] = []
    for uri in uris:
        found = _SHARD.fullmatch(uri)
        before = _SHARDS.fullmatch(folded[-1]) if found and folded else None
        if found and before and uri == f"{before[1]}{int(before[3]) + 1:04d}":
            folded[-1] = f"{before[1]}{{{before[2]}..{found[2]}}}"
        else:
            folded.append(f"{found[1]}{{{found[2]}..{found[2]}}}" if found else uri)
    return folded


def _unfold(entries: Any) -> Any:
    """What `_fold` was given. Anything else is left to be refused as what it is."""
    if not isinstance(entries, list):
        return entries
    uris: list[Any] = []
    for entry in entries:
        found = _SHARDS.fullmatch(entry) if isinstance(entry, str) else None
        if found is None:
            uris.append(entry)
        else:
            numbers = range(int(found[2]), int(found[3]) + 1)
            uris += [f"{found[1]}{number:04d}" for number in numbers]
    return uris


Artifacts = Annotated[list[str], BeforeValidator(_unfold), PlainSerializer(_fold)]
"""URIs. As JSON those of shards are folded: a thousand do not fit an environment variable."""


class RunRef(Wire):
    """Which run a task or an artifact belongs to."""

    name: str
    """metadata.name."""
    namespace: str = "default"
    """metadata.namespace."""
    uid: str
    """metadata.uid: tells a run from a later one of the same name."""


class TaskBase(Wire):
    """What every task says."""

    run: RunRef
    """The run that the stage works for."""
    iteration: int = Field(ge=0)
    """0 for the evaluation of the base model, 1..n."""
    round: int = Field(1, ge=1)
    """1, or more for a top-up of the pool."""
    attempt: int = Field(1, ge=1)
    """For logs only: two attempts of one stage have the same result."""
    seed: int
    """The run's seed; `derive_seed` makes all others from it."""
    storage: Storage
    """How to reach the URIs of this task."""
    prefix: str
    """URI under which the stage writes."""
    prompts: Prompts
    """Prompts of the two roles; absent ones are the built-in ones."""
    sampler: SamplerBackend
    """What turns prompts into texts."""


class TrainChallengerTask(TaskBase):
    """Train the Challenger against the frozen Solver."""

    stage: Literal[Stage.TRAIN_CHALLENGER] = Stage.TRAIN_CHALLENGER
    challenger: str
    """Checkpoint to start from."""
    solver: str
    """Checkpoint of the frozen Solver."""
    base_model: str
    """`spec.model`, for klReference BaseModel."""
    solver_endpoint: str | None = None
    """URL of an OpenAI-compatible server of the frozen Solver; absent: sampled in the stage."""
    training: Challenger
    labels: Labels
    questions: Questions


class GenerateQuestionsTask(TaskBase):
    """Write one shard of the pool. The shard's number is in `JOB_COMPLETION_INDEX`."""

    stage: Literal[Stage.GENERATE_QUESTIONS] = Stage.GENERATE_QUESTIONS
    challenger: str
    """Checkpoint that writes the questions."""
    questions: Questions


class LabelQuestionsTask(TaskBase):
    """Vote on one shard of the pool. The shard's number is in `JOB_COMPLETION_INDEX`."""

    stage: Literal[Stage.LABEL_QUESTIONS] = Stage.LABEL_QUESTIONS
    solver: str
    """Checkpoint that votes."""
    solver_endpoint: str | None = None
    """URL of an OpenAI-compatible server of the Solver; absent: sampled in the stage."""
    pool: Artifacts
    """Artifact of each shard of questions, in order."""
    labels: Labels
    probes: Probes | None = None
    """Questions with known answers that are voted on among the others; absent in top-up rounds."""


class BuildCurriculumTask(TaskBase):
    """Merge the votes of all shards and rounds, drop duplicates, keep the band of agreement."""

    stage: Literal[Stage.BUILD_CURRICULUM] = Stage.BUILD_CURRICULUM
    votes: Artifacts
    """Artifact of each shard of votes, of all rounds, in order."""
    questions: Questions
    labels: Labels
    minimum: int
    """Questions that one Solver batch needs."""
    last_round: bool
    """True: no further round may follow, so too small a curriculum is an error."""
    label_accuracy: LabelAccuracy = LabelAccuracy()
    """How the labels are audited, once the curriculum is large enough."""
    previous: str | None = None
    """Curriculum of the iteration before: its audit is compared with, and paid answers are kept."""


class TrainSolverTask(TaskBase):
    """Train the Solver on the labels of the curriculum."""

    stage: Literal[Stage.TRAIN_SOLVER] = Stage.TRAIN_SOLVER
    solver: str
    """Checkpoint to start from."""
    base_model: str
    """`spec.model`, for klReference BaseModel."""
    curriculum: str
    """Artifact of BuildCurriculum."""
    training: Solver


class EvaluateTask(TaskBase):
    """Score a checkpoint on held-out questions."""

    stage: Literal[Stage.EVALUATE] = Stage.EVALUATE
    solver: str
    """Checkpoint to score."""
    evaluation: Evaluation
    previous: str | None = None
    """Scores of the Solver before, to compare with on the same questions; absent for the base model
    and where that evaluation failed."""


StageTask = Annotated[
    TrainChallengerTask
    | GenerateQuestionsTask
    | LabelQuestionsTask
    | BuildCurriculumTask
    | TrainSolverTask
    | EvaluateTask,
    Field(discriminator="stage"),
]


def parse_task(text: str) -> StageTask:
    """The task in `RZERO_TASK`. Raises `pydantic.ValidationError`."""
    task: StageTask = TypeAdapter[StageTask](StageTask).validate_json(text)
    return task


class UncorrectedLabelAudit(Wire):
    """What an oracle said, before its own errors were corrected: what drops are measured by."""

    estimate: float
    """Share of labels that it agreed with."""
    lower: float
    """Lower end of the 95 % interval."""
    upper: float
    """Upper end of the 95 % interval."""
    skill: float
    """Sensitivity + specificity - 1 of the oracle on probes."""


class EarlierLabelAudit(Wire):
    """Label accuracy of the iteration before, found again by the method of this one."""

    estimate: float
    """Share of right labels."""
    lower: float
    """Lower end of the 95 % interval."""
    upper: float
    """Upper end of the 95 % interval."""
    sample_size: int
    """Archived labels that were judged again."""
    uncorrected: UncorrectedLabelAudit | None = None
    """Of an oracle whose errors were corrected."""


class LabelSample(Wire):
    """One verdict, for people to see what labels are like; texts are cut, and printable."""

    question: str = Field(max_length=LONGEST_SAMPLE)
    """Begin of the question."""
    label: str = Field(max_length=LONGEST_SAMPLE)
    """What the Solver voted for."""
    truth: str | None = Field(None, max_length=LONGEST_SAMPLE)
    """The auditor's own answer; absent where it has none."""
    right: bool
    """Whether the auditor holds the label for right."""


class LabelAudit(Wire):
    """What BuildCurriculum found out about the labels of its curriculum."""

    estimate: float | None = None
    """Share of right labels; absent: unknown."""
    lower: float | None = None
    """Lower end of the 95 % interval. Programmatic: the worst case, for certain."""
    upper: float | None = None
    """Upper end of the 95 % interval. Programmatic: the best case, for certain."""
    sample_size: int
    """Labels that were judged; of an upper bound, questions or probes that it rests on."""
    right: int = 0
    """Those of them that are right."""
    abstained: int = 0
    """Labels of the sample that the auditor could not judge."""
    why: str | None = Field(None, max_length=LONGEST_WHY)
    """Why an oracle left the accuracy unknown: how many labels got no verdict for which reason."""
    method: str = Field(max_length=200)
    """Auditor and estimator; series are comparable while it stays the same."""
    is_upper_bound: bool = False
    """True: the label accuracy is at most about this."""
    uncorrected: UncorrectedLabelAudit | None = None
    """Of an oracle whose errors were corrected."""
    earlier: EarlierLabelAudit | None = None
    """Of the curriculum before, where that was audited by another method: what a drop is measured
    from. Absent where the method stayed the same, or nothing was left to judge again."""
    samples: list[LabelSample] = Field(default_factory=list, max_length=MOST_SAMPLES)
    """Some verdicts, of wrong labels first."""


class StageResult(Wire):
    """What a stage, or one shard of it, reports; at most 4096 bytes of JSON."""

    run_uid: str
    iteration: int
    stage: Stage
    round: int = 1
    shard: int | None = None
    """Absent where the stage has no shards."""
    outputs: dict[str, str]
    """URIs of the artifacts, by name: checkpoint, questions, votes, curriculum, scores."""
    metrics: dict[str, float]
    """Numbers; counts of rows and sums, so that those of shards can be added."""
    manifest_digest: str
    """sha256 of the manifest that proves the work."""
    seconds: float
    """Time that the work took when it was done."""
    label_audit: LabelAudit | None = None
    """Of BuildCurriculum only."""


def run_prefix(root: str, run: RunRef) -> str:
    """Where a run writes: its uid keeps runs of the same name apart."""
    return f"{root}/{run.name}-{run.uid[:8]}"


def stage_prefix(root: str, run: RunRef, iteration: int, stage: Stage, round: int = 1) -> str:
    """Where one stage of one iteration writes; top-up rounds have folders of their own."""
    suffix = f"-r{round}" if round > 1 else ""
    return f"{run_prefix(root, run)}/i{iteration:04d}/{stage}{suffix}"


def shard_prefix(prefix: str, shard: int) -> str:
    """Where one shard of a stage writes."""
    return f"{prefix}/shard-{shard:04d}"


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2**31) that depends on all of (run seed, iteration, stage, shard, item)."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") % 2**31


class StageError(Exception):
    """A failure of which one line says all; its exit code says whether to try again."""

    exit_code = 1


class BadTask(StageError):
    """The task contradicts itself or what it finds in storage."""

    exit_code = 64


class BadData(StageError, ValueError):
    """Input data that cannot be used: the message names the file and the line."""

    exit_code = 65


class TryAgain(StageError):
    """Storage or network trouble, or a stop on request: the same task may succeed later."""

    exit_code = 75


class BadConfiguration(StageError, ValueError):
    """Missing model, credentials, permission or space: somebody must act first."""

    exit_code = 78


NEVER_RETRIED = frozenset({64, 65, 78})
