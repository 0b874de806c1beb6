"""What is reported of a run: `RunStatus`, all of which the plan writes and nothing else does."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from rzero_core.guardrail import Outcome
from rzero_core.run import Stage
from rzero_core.task import LONGEST_WHY, MOST_SAMPLES, LabelSample
from rzero_core.wire import Wire


class Phase(StrEnum):
    """One word for where a run stands."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUSPENDING = "Suspending"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class StageState(StrEnum):
    """Where one stage of an iteration stands."""

    RUNNING = "Running"
    """An attempt is reserved, and live until its end is seen."""
    WAITING = "Waiting"
    """Between two attempts: the end of the last one is counted, the next is not reserved."""
    DONE = "Done"
    FAILED = "Failed"


class StageStatus(Wire):
    """One stage of one iteration, with all its attempts."""

    stage: Stage
    """Name of the stage."""
    round: int = Field(1, ge=1)
    """1, or more for a top-up of the pool."""
    state: StageState
    """Where it stands."""
    attempts: int = Field(0, ge=0)
    """Attempts reserved; the last one has begun when `execution` names it."""
    execution: str | None = None
    """UID of the Job of the last attempt, once it was seen (`local` on one machine)."""
    failures: int = Field(0, ge=0)
    """Attempts that failed through the stage's own fault."""
    preemptions: int = Field(0, ge=0)
    """Attempts lost through no fault of the stage."""
    started_at: str | None = None
    """RFC 3339, first attempt."""
    finished_at: str | None = None
    """RFC 3339."""
    not_before: str | None = None
    """RFC 3339: the next attempt waits until then."""
    outputs: dict[str, str] = Field(default_factory=dict)
    """URIs of the artifacts, by name (checkpoint, questions, votes, curriculum, scores)."""
    metrics: dict[str, str] = Field(default_factory=dict)
    """Numbers that the stage reported, as decimal strings."""
    manifest_digest: str | None = None
    """sha256 of the manifest; of several shards, of their digests in order."""
    message: str | None = None
    """Why the last attempt failed."""


class UncorrectedLabelAccuracy(Wire):
    """What an oracle said, before its own errors were corrected: what drops are measured by."""

    estimate: str
    """Share of labels that it agreed with, a decimal string."""
    lower: str
    """Lower end of the 95 % interval, a decimal string."""
    upper: str
    """Upper end of the 95 % interval, a decimal string."""
    skill: str
    """Sensitivity + specificity - 1 of the oracle on probes, a decimal string."""


class EarlierLabelAccuracy(Wire):
    """Label accuracy of the iteration before, found again by the method of this one."""

    estimate: str
    """Decimal string."""
    lower: str
    """Lower end of the 95 % interval, a decimal string."""
    upper: str
    """Upper end of the 95 % interval, a decimal string."""
    sample_size: int = Field(ge=0)
    """Archived labels that were judged again."""
    uncorrected: UncorrectedLabelAccuracy | None = None
    """Of an oracle whose errors were corrected."""


class LabelAccuracyStatus(Wire):
    """The estimated share of right labels in a curriculum, with what it rests on."""

    estimate: str | None = None
    """Decimal string; absent: unknown."""
    lower: str | None = None
    """Lower end of the 95 % interval, a decimal string; by Programmatic: if all labels that it
    could not judge are wrong."""
    upper: str | None = None
    """Upper end of the 95 % interval, a decimal string; by Programmatic: if all these are right."""
    sample_size: int = Field(0, ge=0)
    """Labels that were judged."""
    abstained: int = Field(0, ge=0)
    """Labels of the sample that the auditor could not judge."""
    why: str | None = Field(None, max_length=LONGEST_WHY)
    """Why an oracle left the accuracy unknown: how many labels got no verdict for which reason."""
    method: str
    """Auditor and estimator; series are comparable while it stays the same."""
    is_upper_bound: bool = False
    """True: the label accuracy is at most about this, and no guardrail acts on it."""
    uncorrected: UncorrectedLabelAccuracy | None = None
    """Of an oracle whose errors were corrected."""
    earlier: EarlierLabelAccuracy | None = None
    """Of the curriculum before, where that was audited by another method: what a drop is measured
    from."""
    samples: list[LabelSample] = Field(default_factory=list, max_length=MOST_SAMPLES)
    """Some verdicts, of wrong labels first."""


class GuardrailAction(StrEnum):
    """What the guardrail did about a curriculum that breaks a limit."""

    WARNED = "Warned"
    """It told, and the Solver was trained all the same."""
    PAUSED = "Paused"
    """It waits for a user before the Solver is trained."""
    RESUMED = "Resumed"
    """It held the run up, and a user let it go on or changed the limits."""
    STOPPED = "Stopped"
    """It ended the run."""


MOST_CANARIES = 8
LONGEST_CANARY = 160


class GuardrailStatus(Wire):
    """What the guardrail holds of the labels of a curriculum, and what it did."""

    outcome: Outcome
    """The verdict by the limits of that time."""
    message: str
    """One sentence with the figures."""
    acts: bool = False
    """True: a limit is broken, so `labelAccuracy.onViolation` applies."""
    action: GuardrailAction | None = None
    """What was done; absent where nothing was due."""
    canaries: list[Annotated[str, Field(max_length=LONGEST_CANARY)]] = Field(
        default_factory=list, max_length=MOST_CANARIES
    )
    """Figures that left the band of the iterations before, a sentence each; none of them acts."""


class IterationStatus(Wire):
    """One iteration; number 0 holds the evaluation of the base model."""

    iteration: int = Field(ge=0)
    """0..n."""
    stages: list[StageStatus] = Field(default_factory=list)
    """In the order in which they began."""
    label_accuracy: LabelAccuracyStatus | None = None
    """Of the curriculum of this iteration; absent before it is built."""
    guardrail: GuardrailStatus | None = None
    """Of the same curriculum."""


class Condition(Wire):
    """A condition in Kubernetes' form."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str = ""
    last_transition_time: str
    observed_generation: int = 0


class RunStatus(Wire):
    """What is reported: all that the next decision needs, nothing that can be derived."""

    observed_generation: int = 0
    """Generation of the spec that this status answers."""
    phase: Phase = Phase.PENDING
    """One word for where the run stands."""
    iteration: int = 0
    """Iteration of the current stage."""
    stage: Stage | None = None
    """Current stage; absent when none is due."""
    attempt: int = 0
    """Attempt of the current stage."""
    progress: str | None = None
    """The iteration and how many there are, such as 2/5."""
    latest_label_accuracy: str | None = None
    """Of the last curriculum, a decimal string; with `<=` before it where it is an upper bound."""
    latest_score: str | None = None
    """Mean held-out score of the last Solver that was evaluated, a decimal string."""
    iterations: list[IterationStatus] = Field(default_factory=list)
    """History."""
    conditions: list[Condition] = Field(default_factory=list)
    """Ready, Reconciling, Stalled, Suspended, Succeeded, Failed, LabelAccuracyHealthy."""
    last_retry: str | None = None
    """The last value of the annotation `rzero.dev/retry` that was acted on."""
    last_resume: str | None = None
    """The last value of the annotation `rzero.dev/resume` that was acted on."""
    best_iteration: int | None = None
    """Iteration of the Solver with the best held-out score so far, 0 for the base model; the last
    trained Solver where nothing is evaluated."""
    best_checkpoint: str | None = None
    """URI of that Solver's checkpoint."""

    def find(self, iteration: int, stage: Stage, round: int = 1) -> StageStatus | None:
        """The status of one stage of one iteration, None before its first attempt."""
        for entry in self.iterations:
            if entry.iteration == iteration:
                for item in entry.stages:
                    if item.stage is stage and item.round == round:
                        return item
        return None
