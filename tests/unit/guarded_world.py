"""Runs whose labels are audited, for tests of the guardrail in the plan."""

from collections.abc import Mapping
from typing import Any

from plan_world import DATASETS, World, make_spec

from rzero_core.intervals import wilson
from rzero_core.run import Stage
from rzero_core.status import Condition, RunStatus
from rzero_core.task import LabelAudit
from rzero_operator.guardrails import CONDITION
from rzero_operator.tasks import Step

Accuracies = Mapping[int, "float | LabelAudit"]


def audit(share: float, n: int = 400, method: str = "Oracle") -> LabelAudit:
    """As an auditor reports it of n labels."""
    right = round(share * n)
    found = wilson(right, n)
    return LabelAudit(
        estimate=found.estimate,
        lower=found.lower,
        upper=found.upper,
        sample_size=n,
        right=right,
        method=method,
    )


def declare(on_violation: str, *, evaluated: bool = False, **limits: Any) -> World:
    datasets = {"evaluation": DATASETS} if evaluated else {}
    accuracy = {"auditor": {"type": "Programmatic"}, "onViolation": on_violation, **limits}
    return World(make_spec(iterations=3, labelAccuracy=accuracy, **datasets))


def change(world: World, **limits: Any) -> None:
    """What a user edits while the run waits."""
    spec = world.spec.to_dict()
    world.spec = make_spec(**{**spec, "labelAccuracy": {**spec["labelAccuracy"], **limits}})


def play(
    world: World,
    accuracies: Accuracies,
    scores: Mapping[int, float] | None = None,
    metrics: Mapping[Step, Mapping[str, float]] | None = None,
) -> None:
    """Let every attempt succeed until the run ends or waits, with these findings by iteration.

    Gains in score are known to 3 points. `metrics`: what stages report besides.
    """
    for _ in range(100):
        world.turn()
        if not world.live:
            return
        step, found = world.live[0].step, None
        reported = dict((metrics or {}).get(step, {}))
        if step.stage is Stage.BUILD_CURRICULUM:
            share = accuracies.get(step.iteration)
            found = audit(share) if isinstance(share, float) else share
        if step.stage is Stage.EVALUATE and scores:
            reported["h.mean"] = scores[step.iteration]
            if step.iteration:
                gain = scores[step.iteration] - scores[step.iteration - 1]
                reported |= {"h.gain": gain, "h.gainLower": gain - 0.03, "h.gainUpper": gain + 0.03}
        world.succeed(found, **reported)
    raise AssertionError("the run does not end")


def healthy(status: RunStatus) -> Condition:
    return next(condition for condition in status.conditions if condition.type == CONDITION)


def trained(world: World) -> list[int]:
    return [s.step.iteration for s in world.started if s.step.stage is Stage.TRAIN_SOLVER]


def reasons(world: World) -> list[str]:
    """The events that are not about attempts and stages."""
    routine = ("AttemptStarted", "StageDone")
    return [event.reason for event in world.events if event.reason not in routine]
