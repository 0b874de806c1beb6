"""Reads held-out scores out of a status: which Solver is best, and whether they still rise. Pure.

Scores of one checkpoint are averaged over the datasets, each of which counts the same.
"""

from collections.abc import Collection
from typing import NamedTuple

from rzero_core.intervals import Interval, weighted_sum
from rzero_core.run import RunSpec, Stage
from rzero_core.status import RunStatus, StageState

_MEAN = ".mean"
_GAIN = ".gain"
_SETTINGS = "settings"
"""What scores depend on beside the checkpoint and the questions, as a number."""


class Checkpoint(NamedTuple):
    """A Solver of a run; iteration 0 is the base model."""

    iteration: int
    uri: str


def best(spec: RunSpec, status: RunStatus) -> Checkpoint:
    """The Solver with the best mean held-out score; of equals the earlier one.

    The highest estimate, also where the difference may be chance: one of them has to be named, and
    it is the likeliest to be the best. Of those that were evaluated as the newest one was, on the
    datasets that they have in common: a Solver that might answer at greater length scored higher,
    and had learned nothing. Without evaluation, the last one that was trained. Label accuracy has
    no say in it: Solvers improve on labels of which half are wrong.
    """
    solvers = [Checkpoint(0, spec.model)]
    for group in status.iterations:
        trained = status.find(group.iteration, Stage.TRAIN_SOLVER)
        if trained is not None and trained.state is StageState.DONE:
            solvers.append(Checkpoint(group.iteration, trained.outputs["checkpoint"]))
    scored = [solver for solver in solvers if datasets(status, solver.iteration)]
    if not scored:
        return solvers[-1]
    newest = _metrics(status, scored[-1].iteration).get(_SETTINGS)
    compared: list[Checkpoint] = []
    common: set[str] = set()
    for solver in reversed(scored):
        named = set(datasets(status, solver.iteration))
        both = common & named if compared else named
        if both and _metrics(status, solver.iteration).get(_SETTINGS) == newest:
            compared, common = [solver, *compared], both
    return max(compared, key=lambda solver: score(status, solver.iteration, common) or 0.0)


def datasets(status: RunStatus, iteration: int) -> list[str]:
    """Names of the datasets that the Solver of an iteration was evaluated on."""
    metrics = _metrics(status, iteration)
    return [name.removesuffix(_MEAN) for name in metrics if name.endswith(_MEAN)]


def score(status: RunStatus, iteration: int, names: Collection[str] | None = None) -> float | None:
    """Mean score of one Solver over some datasets, or over all; None where there is none."""
    metrics = _metrics(status, iteration)
    names = datasets(status, iteration) if names is None else names
    values = [float(metrics[f"{name}{_MEAN}"]) for name in names]
    return sum(values) / len(values) if values else None


def gain(status: RunStatus, iteration: int) -> Interval | None:
    """How much better the Solver of an iteration is than the one before, with its 95 % interval.

    On the same questions of every dataset, as Evaluate compared them. None where it did not: one of
    the two was not evaluated, or no question is in both evaluations.
    """
    metrics = _metrics(status, iteration)
    parts = []
    for name in datasets(status, iteration):
        ends = [metrics.get(f"{name}{_GAIN}{end}") for end in ("", "Lower", "Upper")]
        if None not in ends:
            parts.append(Interval(*(float(end) for end in ends if end is not None)))
    return weighted_sum([(1 / len(parts), part) for part in parts]) if parts else None


def _metrics(status: RunStatus, iteration: int) -> dict[str, str]:
    entry = status.find(iteration, Stage.EVALUATE)
    return entry.metrics if entry is not None and entry.state is StageState.DONE else {}
