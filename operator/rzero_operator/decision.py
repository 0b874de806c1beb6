"""The words of the plan: what is observed of a run, and what is decided about it."""

from dataclasses import dataclass
from enum import StrEnum

from rzero_core.run import StageSettings
from rzero_core.status import RunStatus
from rzero_core.task import RunRef, StageResult, StageTask
from rzero_operator.tasks import Step


@dataclass(frozen=True)
class RunIdentity:
    """Which run is decided about."""

    ref: RunRef
    generation: int = 0
    """Counts the changes of the spec."""
    retry: str = ""
    """The annotation `rzero.dev/retry`: another value than before tries a failed run again."""
    resume: str = ""
    """The annotation `rzero.dev/resume`: another value lets go what the guardrail held up."""


class AttemptState(StrEnum):
    """What is seen of an attempt."""

    RUNNING = "Running"
    STOPPING = "Stopping"
    """Told to stop, not yet ended."""
    FAILING = "Failing"
    """Cannot succeed any more, and does not end by itself."""
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


LIVE = frozenset({AttemptState.RUNNING, AttemptState.STOPPING, AttemptState.FAILING})
"""While it is so, it holds its devices."""


@dataclass(frozen=True)
class Attempt:
    """An attempt at a step, as it is observed (processes on one machine, a Job in a cluster)."""

    step: Step
    number: int
    state: AttemptState
    shards: int | None = None
    """Parts that the attempt consists of, None where the stage has no shards."""
    results: tuple[StageResult, ...] = ()
    """What a succeeded attempt reported, one for each shard, in any order."""
    exit_code: int | None = None
    execution: str = "local"
    """UID of its Job."""
    reason: str = ""
    """One word for why it failed (DeadlineExceeded, OutOfMemory, ...) or, while it is live, for why
    it cannot go on (ImagePullBackOff, Unschedulable, Queued, ...)."""
    preempted: bool = False
    """Ended through no fault of the stage."""
    message: str = ""
    """One line that says more about the reason."""


QUEUED = "Queued"
"""The reason of a live attempt that a queue holds back, as it should."""


@dataclass(frozen=True)
class StartAttempt:
    """Start the attempt that `task.attempt` numbers."""

    step: Step
    task: StageTask
    shards: int | None
    settings: StageSettings


@dataclass(frozen=True)
class StopAttempt:
    """Ask an attempt to stop; a training stage writes a checkpoint first."""

    step: Step
    number: int


@dataclass(frozen=True)
class Event:
    """A transition worth telling."""

    reason: str
    message: str
    warning: bool = False
    step: Step | None = None


@dataclass(frozen=True)
class Decision:
    """What to write, then what to do."""

    status: RunStatus
    actions: tuple[StartAttempt | StopAttempt, ...] = ()
    events: tuple[Event, ...] = ()
    requeue_after: float | None = None
    """Seconds after which to decide again though nothing was observed."""
