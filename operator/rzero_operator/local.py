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
from types import FrameType
from typing import IO, Protocol

from rzero_core.run import CoEvolutionRun, RunSpec
from rzero_core.status import Phase, RunStatus, StageState
from rzero_core.task import NEVER_RETRIED, BadConfiguration, parse_task
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
    ) -> None:
        """`command` starts a stage; absent, a nursery does where it can, else `STAGE_COMMAND`."""
        self.spec = manifest.spec
        self.folder = folder
        self.display = display
        self._command = command or STAGE_COMMAND
        # The kernel's descriptors of processes are Linux's; a GPU's driver does not survive a fork.
        self._by_fork = command is None and sys.platform == "linux" and not visible_gpus()
        self._nursery: Nursery | None = None
        self.identity = RunIdentity(folder.run)
        self.status = folder.read_status()
        self.interrupts: list[int] = []
        """Signals that asked the runner to stop."""
        self._live: list[LiveAttempt] = []
        self._finished = list(finished_attempts(folder, self.status))

    def run(self) -> RunStatus:
        """Carry out the run until it ends or is suspended; needs an open folder."""
        check_iterations(self.spec, self.status)
        if self.status.phase is Phase.FAILED:
            self.display.say("the run had failed; its last stage is tried again")
            self.status = reopen(self.status)
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


def finished_attempts(folder: RunFolder, status: RunStatus) -> Iterator[Attempt]:
    """Attempts that ended while no runner looked: their results lie in the run's folder."""
    for path in sorted((folder.path / "attempts").glob("*/task.json")):
        task = parse_task(path.read_text())
        step = Step(task.iteration, task.stage, task.round)
        entry = status.find(*step)
        if entry is not None and entry.state is StageState.DONE:
            continue
        shards, results = shards_of(task), read_results(path.parent)
        if len(results) == (shards or 1):
            yield Attempt(step, task.attempt, AttemptState.SUCCEEDED, shards, results)


def check_inputs(spec: RunSpec) -> None:
    """Find what is missing before anything starts. Raises `BadConfiguration` with the remedy."""
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


def check_iterations(spec: RunSpec, status: RunStatus) -> None:
    """Iterations only grow. Raises `BadConfiguration`."""
    reached = max((group.iteration for group in status.iterations), default=0)
    if spec.iterations < reached:
        raise BadConfiguration(
            f"spec.iterations: the run has begun iteration {reached}, so {spec.iterations} is too "
            f"few; write {reached} or more"
        )
