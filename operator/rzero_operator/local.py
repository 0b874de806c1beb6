"""Carries out a run on this machine: the plan of the operator, with processes instead of Jobs.

One loop: observe the processes, decide, write the status, act. All that matters is in the run's
folder, so the runner may be killed at any moment and started again.
"""

import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import IO, Protocol

from rzero_core.manifest import disk_errors
from rzero_core.records import HeldOutQuestion, read_jsonl
from rzero_core.run import CoEvolutionRun, RunSpec
from rzero_core.status import Phase, RunStatus, StageState, StageStatus
from rzero_core.store import ArtifactStore
from rzero_core.task import NEVER_RETRIED, BadConfiguration, BadData, parse_task, shard_prefix
from rzero_operator.conditions import TERMINAL
from rzero_operator.decision import (
    Attempt,
    AttemptState,
    Event,
    RunIdentity,
    StartAttempt,
    StopAttempt,
)
from rzero_operator.folder import RunFolder, local_path
from rzero_operator.launch import LiveAttempt, read_results
from rzero_operator.nursery import Nursery
from rzero_operator.plan import decide, reopen
from rzero_operator.process import Progress, StageProcess, popen_stage, visible_gpus
from rzero_operator.tasks import Step, shards_of

STAGE_COMMAND = (sys.executable, "-P", "-m", "rzero_stages")
"""How a stage starts; not from the working directory, whose files would shadow libraries."""
_DATASET_LINE = 'write one JSON object {"question": ..., "answer": ...} a line'
TICK = 0.1
"""Seconds between two looks at the processes."""


class Display(Protocol):
    """What shows a run to its user."""

    def update(self, status: RunStatus, events: Sequence[Event]) -> None:
        """The status changed."""

    def progress(self, step: Step, progress: Progress) -> None:
        """A stage reported how far it is."""

    def say(self, line: str) -> None:
        """A word from the runner."""


class LocalRunner:
    """One run on this machine."""

    def __init__(
        self,
        manifest: CoEvolutionRun,
        folder: RunFolder,
        display: Display,
        command: Sequence[str] | None = None,
        resume: str = "",
    ) -> None:
        """`command` starts a stage; absent, a nursery does where it can, else `STAGE_COMMAND`.

        `resume`, another value each time, lets go what the guardrail held up.
        """
        self.spec = manifest.spec
        self.folder = folder
        self.display = display
        self._command = command or STAGE_COMMAND
        # The kernel's descriptors of processes are Linux's; a GPU's driver does not survive a fork.
        self._by_fork = command is None and sys.platform == "linux" and not visible_gpus()
        self._nursery: Nursery | None = None
        self.identity = RunIdentity(folder.run, resume=resume)
        self._store = ArtifactStore(manifest.spec.storage)
        self.status = folder.read_status()
        self.interrupts: list[int] = []
        """Signals that asked the runner to stop."""
        self._live: list[LiveAttempt] = []
        self._finished: list[Attempt] = []

    def run(self) -> RunStatus:
        """Carry out the run until it ends or is suspended; needs an open folder."""
        check_iterations(self.spec, self.status)
        if self.status.phase is Phase.FAILED:
            self.display.say("the run had failed; its last stage is tried again")
            self.status = without_lost(reopen(self.spec, self.status), self._store)
        elif (again := reopen(self.spec, self.status)) != self.status:
            self.display.say("an evaluation had failed; it is tried again")
            self.status = again
        self._finished = list(finished_attempts(self.folder, self.status, self._store))
        with self._signals():
            try:
                while not self._step():
                    time.sleep(TICK)
            finally:
                for live in self._live:
                    live.kill()
                if self._nursery is not None:
                    self._nursery.close()
        return self.status

    def failure_code(self) -> int:
        """The exit code of a failed run: that of its stage where no retry can mend it, else 1."""
        codes = [attempt.exit_code for attempt in self._finished if attempt.exit_code]
        return codes[-1] if codes and codes[-1] in NEVER_RETRIED else 1

    def _step(self) -> bool:
        """Observe, decide, write, act. True when nothing is left to do."""
        spec = self.spec.model_copy(update={"suspend": self.spec.suspend or bool(self.interrupts)})
        decision = decide(
            self.identity, spec, self.status, list(self._observe()), datetime.now(UTC)
        )
        if decision.status != self.status or not self.folder.status_path.exists():
            self.folder.write_status(decision.status)
        self.status = decision.status
        self.display.update(decision.status, decision.events)
        for action in decision.actions:
            match action:
                case StartAttempt():
                    self._live.append(LiveAttempt(action, self.folder, self._launch))
                case StopAttempt():
                    for live in self._live:
                        if (live.start.step, live.start.task.attempt) == (
                            action.step,
                            action.number,
                        ):
                            live.stop()
        return self.status.phase in TERMINAL | {Phase.SUSPENDED} and not self._live

    def _launch(self, environment: dict[str, str], log: IO[bytes]) -> StageProcess:
        if self._by_fork:
            if self._nursery is None:
                self._nursery = Nursery(self.folder.path, self.folder.stages_lock)
            born = self._nursery.start(environment, log)
            if born is not None:
                return born
            # What ails it shows in the stage's own log.
            self._by_fork = False
        return popen_stage(self._command, environment, log, self.folder.stages_lock)

    def _observe(self) -> Iterator[Attempt]:
        for live in list(self._live):
            if len(self.interrupts) > 1:
                live.kill()
            live.poll()
            attempt = live.observed()
            progress = live.overall()
            if progress is not None and attempt.state is AttemptState.RUNNING:
                self.display.progress(live.start.step, progress)
            if attempt.state in (AttemptState.SUCCEEDED, AttemptState.FAILED):
                self._live.remove(live)
                self._finished.append(attempt)
            else:
                yield attempt
        yield from self._finished

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Count requests to stop: the first lets stages write a checkpoint, the second kills."""

        def note(number: int, _frame: FrameType | None) -> None:
            self.interrupts.append(number)

        wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, note) for number in wanted}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def finished_attempts(
    folder: RunFolder, status: RunStatus, store: ArtifactStore
) -> Iterator[Attempt]:
    """Attempts that ended while no runner looked: their results lie in the run's folder."""
    for path in sorted((folder.path / "attempts").glob("*/task.json")):
        try:
            task = parse_task(path.read_text())
        except ValueError:
            continue  # Killed, or out of space, while it was written.
        step = Step(task.iteration, task.stage, task.round)
        entry = status.find(*step)
        if entry is not None and entry.state is StageState.DONE:
            continue
        shards, results = shards_of(task), read_results(path.parent)
        places = [uri for result in results for uri in result.outputs.values()]
        if len(results) == (shards or 1) and all(map(store.manifest, places)):
            yield Attempt(step, task.attempt, AttemptState.SUCCEEDED, shards, results)


def without_lost(status: RunStatus, store: ArtifactStore) -> RunStatus:
    """The status with stages to be done again whose artifacts somebody deleted.

    Only of the current iteration and the one before: a stage reads nothing older.
    """

    def is_lost(entry: StageStatus) -> bool:
        places = list(entry.outputs.values())
        if shards := int(entry.metrics.get("shards", "0")):
            places = [shard_prefix(uri, shard) for uri in places for shard in range(shards)]
        return entry.state is StageState.DONE and not all(map(store.manifest, places))

    waiting = {"state": StageState.WAITING, "finished_at": None}
    groups = [
        group
        if group.iteration < status.iteration - 1
        else group.model_copy(
            update={
                "stages": [
                    entry.model_copy(update=waiting) if is_lost(entry) else entry
                    for entry in group.stages
                ]
            }
        )
        for group in status.iterations
    ]
    return status.model_copy(update={"iterations": groups})


def check_inputs(spec: RunSpec) -> None:
    """Find what is missing or malformed before anything starts.

    Raises `BadConfiguration` or `BadData`, with the field and the remedy.
    """
    model = local_path(spec.model)
    if model is not None and not (model / "config.json").is_file():
        why = "has no config.json" if model.exists() else "does not exist"
        raise BadConfiguration(
            f"spec.model: {model.absolute()} {why}; name a folder in Hugging Face's format, or "
            "hf://owner/name@revision"
        )
    for index, dataset in enumerate(spec.evaluation.datasets):
        path = local_path(dataset.uri)
        if path is not None and not path.is_file():
            raise BadConfiguration(
                f"spec.evaluation.datasets.{index}.uri: {path.absolute()} does not exist; name a "
                "JSONL file, or remove the dataset"
            )
        if path is not None:
            _check_dataset(path, f"spec.evaluation.datasets.{index}.uri")


def _check_dataset(path: Path, field: str) -> None:
    """Its evaluation would fail hours later, and a failed evaluation does not stop a run."""
    try:
        with disk_errors(path):
            rows = sum(1 for _ in read_jsonl(path, HeldOutQuestion))
    except BadData as error:
        raise BadData(f"{field}: {error}; {_DATASET_LINE}") from error
    if not rows:
        raise BadData(f"{field}: {path} has no questions; {_DATASET_LINE}")


def check_iterations(spec: RunSpec, status: RunStatus) -> None:
    """Iterations only grow. Raises `BadConfiguration`."""
    reached = max((group.iteration for group in status.iterations), default=0)
    if spec.iterations < reached:
        raise BadConfiguration(
            f"spec.iterations: the run has begun iteration {reached}, so {spec.iterations} is too "
            f"few; write {reached} or more"
        )
