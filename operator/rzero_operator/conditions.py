"""Tells the phase of a run as conditions in Kubernetes' form. Pure."""

from datetime import UTC, datetime
from typing import Literal

from rzero_core.status import Condition, Phase, RunStatus

Truth = Literal["True", "False", "Unknown"]
TERMINAL = frozenset({Phase.SUCCEEDED, Phase.FAILED})


def conditions(
    status: RunStatus,
    message: str,
    generation: int,
    time: str,
    blocked: str = "",
    reason: str = "",
) -> list[Condition]:
    """One condition of each type that a phase tells.

    `message` and `reason` go to those that are true; without them it is the phase that says why. An
    empty message leaves what a terminal run said last. `blocked` is one word for why a live attempt
    cannot go on by itself.
    """
    phase = status.phase
    truths = {
        "Ready": phase is Phase.SUCCEEDED,
        "Reconciling": phase in (Phase.PENDING, Phase.RUNNING, Phase.SUSPENDING),
        "Stalled": phase is Phase.FAILED or bool(blocked),
        "Suspended": phase is Phase.SUSPENDED,
        "Succeeded": phase is Phase.SUCCEEDED,
        "Failed": phase is Phase.FAILED,
    }
    told = []
    for name, truth in truths.items():
        old = condition_of(status, name)
        text, why = (message, reason or phase.value) if truth else ("", phase.value)
        if truth and old is not None and phase in TERMINAL and not message:
            text, why = old.message, old.reason
        if name == "Stalled" and blocked:
            why = blocked
        value: Truth = "True" if truth else "False"
        told.append(condition(name, value, why, text, old, generation, time))
    return told


def condition(
    name: str,
    value: Truth,
    reason: str,
    message: str,
    old: Condition | None,
    generation: int,
    time: str,
) -> Condition:
    """A condition; it keeps the time of `old`, as long as its truth did not change."""
    return Condition(
        type=name,
        status=value,
        reason=reason,
        message=message,
        last_transition_time=(
            old.last_transition_time if old is not None and old.status == value else time
        ),
        observed_generation=generation,
    )


def condition_of(status: RunStatus, name: str) -> Condition | None:
    """The condition of one type, None where there is none."""
    return next((item for item in status.conditions if item.type == name), None)


def message_of(status: RunStatus, name: str) -> str:
    """The message of one condition, empty where there is none."""
    condition = condition_of(status, name)
    return condition.message if condition is not None else ""


def rfc3339(moment: datetime) -> str:
    """A time as the status holds it, in UTC and whole seconds."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
