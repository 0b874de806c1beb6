"""Shows runs as tables, and one run as a tree of its iterations, stages and attempts."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.tree import Tree

from rzero_core.guardrail import Outcome
from rzero_core.run import Stage
from rzero_core.status import (
    GuardrailStatus,
    LabelAccuracyStatus,
    Phase,
    RunStatus,
    StageState,
    StageStatus,
)
from rzero_operator import accuracy_chart
from rzero_operator.printable import plain, printable

_MARKS = {
    StageState.DONE: "[green]done[/]",
    StageState.RUNNING: "[cyan]running[/]",
    StageState.WAITING: "[yellow]waiting[/]",
    StageState.FAILED: "[red]failed[/]",
}
_COLORS = {
    Outcome.HEALTHY: "green",
    Outcome.DROPPED: "red",
    Outcome.BELOW_FLOOR: "red",
    Outcome.INCONCLUSIVE: "yellow",
    Outcome.UNKNOWN: "yellow",
}


def overview(name: str, iterations: int, floor: float, status: RunStatus) -> Group:
    """A run as a tree, its label accuracy as a chart, and some of the auditor's verdicts."""
    parts: list[RenderableType] = [tree(name, iterations, status)]
    if (chart := accuracy_chart.chart(status, floor)) is not None:
        parts += ["\nlabel accuracy", chart]
    if told := list(accuracy_chart.verdicts(status)):
        parts += ["\nsome verdicts on the newest labels", *told]
    return Group(*parts)


def tree(name: str, iterations: int, status: RunStatus) -> Tree:
    """Iterations, their stages with attempts, times and main figures."""
    root = Tree(f"[bold]{name}[/] {status.phase} · iteration {status.iteration}/{iterations}")
    for group in status.iterations:
        title = f"iteration {group.iteration}" if group.iteration else "base model"
        if group.label_accuracy is not None:
            title += f" · label accuracy {plain(accuracy_chart.numbers(group.label_accuracy))}"
        branch = root.add(title)
        for entry in group.stages:
            branch.add(_entry_line(entry))
        if group.guardrail is not None:
            branch.add(_guardrail_line(group.guardrail))
            for canary in group.guardrail.canaries:
                branch.add(f"[yellow]canary[/] · {plain(canary)}")
    return root


_TOLD = (("Suspended", "True"), ("Stalled", "True"), ("LabelAccuracyHealthy", "False"))
"""Conditions that a user should read, and when."""


def table(runs: Sequence[Mapping[str, Any]], now: datetime, *, namespaces: bool) -> Table:
    """Runs as the API server lists them, one line each; with their namespaces if asked."""
    names = ("NAME", "PHASE", "ITERATION", "STAGE", "ATTEMPT", "LABEL ACCURACY", "SCORE", "AGE")
    shown = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="")
    for name in ("NAMESPACE", *names) if namespaces else names:
        shown.add_column(name, no_wrap=True)
    for run in runs:
        metadata, status = run["metadata"], run.get("status") or {}
        cells = [metadata["namespace"]] if namespaces else []
        cells += [metadata["name"], status.get("phase", Phase.PENDING)]
        cells += [status.get("progress", ""), status.get("stage", "")]
        cells += [str(status.get("attempt") or ""), _newest_label_accuracy(status)]
        cells += [status.get("latestScore", ""), _age(metadata["creationTimestamp"], now)]
        shown.add_row(*map(plain, cells))
    return shown


def closing_lines(status: RunStatus) -> list[str]:
    """What a user should know besides: why it does not go on, and where the model lies."""
    lines = []
    for item in status.conditions:
        if (item.type, item.status) in _TOLD:
            lines.append(printable(f"{item.type} {item.status} ({item.reason}): {item.message}"))
    if status.best_checkpoint is not None:
        best = f"best Solver: iteration {status.best_iteration}, {status.best_checkpoint}"
        return [*lines, printable(best)]
    for group in reversed(status.iterations):
        for entry in group.stages:
            if entry.stage is Stage.TRAIN_SOLVER and "checkpoint" in entry.outputs:
                last = f"Solver: iteration {group.iteration}, {entry.outputs['checkpoint']}"
                return [*lines, printable(last)]
    return lines


def _newest_label_accuracy(status: Mapping[str, Any]) -> str:
    """Of the last curriculum, with its interval where the status has one."""
    groups = [
        group["labelAccuracy"] for group in status.get("iterations", ()) if "labelAccuracy" in group
    ]
    try:
        if groups:
            return accuracy_chart.numbers(LabelAccuracyStatus.parse(groups[-1]))
    except ValueError:
        # Written by hand or by another version: the other runs of the table are shown all the same.
        pass
    return str(status.get("latestLabelAccuracy", ""))


def _age(created: str, now: datetime) -> str:
    """As kubectl writes it: 45s, 12m, 7h, 3d."""
    seconds = (now - datetime.fromisoformat(created)).total_seconds()
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"


def _guardrail_line(found: GuardrailStatus) -> str:
    """The verdict on the labels, what was done about it, and why."""
    parts = [f"guardrail [{_COLORS[found.outcome]}]{found.outcome}[/]"]
    if found.action is not None:
        parts.append(f"[bold]{found.action.lower()}[/]")
    return " · ".join([*parts, plain(found.message)])


def _entry_line(entry: StageStatus) -> str:
    top_up = f" (round {entry.round})" if entry.round > 1 else ""
    parts = [f"{entry.stage}{top_up} {_MARKS[entry.state]}", *figures(entry)]
    if entry.attempts > 1:
        ends = {"failed": entry.failures, "lost": entry.preemptions}
        told = ", ".join(f"{count} {word}" for word, count in ends.items() if count)
        parts.append(f"{entry.attempts} attempts" + (f" ({told})" if told else ""))
    if entry.message:
        parts.append(plain(entry.message))
    return " · ".join(parts)


def figures(entry: StageStatus) -> list[str]:
    """Wall-clock time and the main figures of a stage."""
    found = []
    if entry.started_at and entry.finished_at:
        begun, ended = map(datetime.fromisoformat, (entry.started_at, entry.finished_at))
        found.append(f"{(ended - begun).total_seconds():.0f} s")
    return found + _findings(entry.stage, {k: float(v) for k, v in entry.metrics.items()})


def _findings(stage: Stage, metrics: dict[str, float]) -> list[str]:
    """What a user asks first about a finished stage; nothing where it did not report it."""
    has = metrics.keys()
    match stage:
        case Stage.TRAIN_CHALLENGER | Stage.TRAIN_SOLVER if metrics.keys() >= {
            "rewardFirst",
            "rewardLast",
        }:
            return [f"reward {metrics['rewardFirst']:.3f} → {metrics['rewardLast']:.3f}"]
        case Stage.GENERATE_QUESTIONS if has >= {"valid", "questions"}:
            return [f"{metrics['valid']:.0f} of {metrics['questions']:.0f} questions valid"]
        case Stage.LABEL_QUESTIONS if metrics.get("questions") and "agreementSum" in has:
            return [f"mean agreement {metrics['agreementSum'] / metrics['questions']:.3f}"]
        case Stage.BUILD_CURRICULUM if has >= {"kept", "questions"}:
            top_up = [f"{metrics['short']:.0f} short"] if metrics.get("short") else []
            return [f"{metrics['kept']:.0f} of {metrics['questions']:.0f} kept", *top_up]
        case Stage.EVALUATE:
            # Bounds of intervals stand in the report.
            return [
                f"{plain(name)} {value:{'+' if name.endswith('.gain') else ''}.3f}"
                for name, value in metrics.items()
                if "." in name and not name.endswith(("Lower", "Upper"))
            ]
        case _:
            return []
