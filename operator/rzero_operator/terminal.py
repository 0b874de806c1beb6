"""Shows a run to its user: live bars on a terminal, one plain line per event elsewhere."""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from rzero_core.run import RunSpec, Stage
from rzero_core.status import RunStatus, StageState
from rzero_operator.decision import Event
from rzero_operator.process import Progress as StageProgress
from rzero_operator.tasks import Step, steps
from rzero_operator.views import figures

LIVE_METRICS = ("reward", "agreement", "rightShare")
"""What stands beside the bar, in this order, where a stage reports it."""
_SAID_ELSEWHERE = ("Succeeded", "Failed")
"""The command's last line tells how the run ended."""


class PlainDisplay:
    """One line for each event, for logs and pipes."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self.console = console
        self.quiet = quiet

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        pass

    def update(self, status: RunStatus, events: Sequence[Event]) -> None:
        """Print the events; only warnings when quiet."""
        for event in events:
            if event.reason not in _SAID_ELSEWHERE and (event.warning or not self.quiet):
                self.say(_line(event, status))

    def progress(self, step: Step, progress: StageProgress) -> None:
        """Progress is for those who watch."""

    def say(self, line: str) -> None:
        """Print one line with the time of day."""
        stamp = time.strftime("%H:%M:%S")
        self.console.print(f"{stamp} {line}", markup=False, highlight=False, soft_wrap=True)


class LiveDisplay:
    """A bar for the run and one for the stage, with reward, rate and time left."""

    def __init__(self, console: Console, spec: RunSpec) -> None:
        self.console = console
        self.spec = spec
        # Refreshed by the runner's own loop: it must not have threads (see `process`).
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            auto_refresh=False,
            transient=True,
        )
        self.run: TaskID = self.bars.add_task("run", total=None, figures="")
        self.stage: TaskID = self.bars.add_task("", total=None, figures="", visible=False)
        self.step: Step | None = None
        self.first: tuple[float, float] = (0.0, 0.0)
        self.refreshed = 0.0

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bars.stop()

    def update(self, status: RunStatus, events: Sequence[Event]) -> None:
        """Print what ended above the bars and move the run's bar."""
        if events:
            plan = list(steps(self.spec, status))
            ended = [step for step in plan if _has_ended(status, step)]
            self.bars.update(
                self.run,
                total=len(plan),
                completed=len(ended),
                description=f"iteration {status.iteration}/{self.spec.iterations}",
                figures=f"{len(ended)}/{len(plan)} stages",
            )
            self.bars.update(self.stage, visible=status.stage is not None)
            if status.stage is not None:
                self._begin(status.stage, status.attempt)
        for event in events:
            if event.reason not in (*_SAID_ELSEWHERE, "AttemptStarted"):
                mark = "[red]![/]" if event.warning else "[green]✓[/]"
                self.console.print(f"{mark} {escape(_line(event, status))}", highlight=False)
        self._refresh()

    def progress(self, step: Step, progress: StageProgress) -> None:
        """Move the stage's bar."""
        if step != self.step:
            self.step = step
            self.first = (time.monotonic(), progress.done)
        began, start = self.first
        elapsed = time.monotonic() - began
        figures = [f"{progress.done:.0f}/{progress.total:.0f} {progress.unit}"]
        if elapsed > 1.0 and progress.done > start:
            figures.append(_rate((progress.done - start) / elapsed, progress.unit))
        figures += [
            f"{name} {progress.metrics[name]:.3g}"
            for name in LIVE_METRICS
            if name in progress.metrics
        ]
        self.bars.update(
            self.stage, total=progress.total, completed=progress.done, figures=" · ".join(figures)
        )
        self._refresh()

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self.console.print(line, markup=False, highlight=False)

    def _begin(self, stage: Stage, attempt: int) -> None:
        again = f" (attempt {attempt})" if attempt > 1 else ""
        self.step = None
        self.bars.reset(
            self.stage, total=None, description=f"{stage}{again}", figures="starting", visible=True
        )

    def _refresh(self) -> None:
        now = time.monotonic()
        if now - self.refreshed > 0.2:
            self.refreshed = now
            self.bars.refresh()


def _line(event: Event, status: RunStatus) -> str:
    if event.step is None or event.reason != "StageDone":
        return event.message
    entry = status.find(*event.step)
    return " · ".join([event.message, *(figures(entry) if entry else [])])


def _has_ended(status: RunStatus, step: Step) -> bool:
    entry = status.find(*step)
    return entry is not None and entry.state in (StageState.DONE, StageState.FAILED)


def _rate(per_second: float, unit: str) -> str:
    return f"{per_second:.1f} {unit}/s" if per_second >= 1 else f"{1 / per_second:.1f} s each"
