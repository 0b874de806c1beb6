"""Tells the phase of a run as conditions in Kubernetes' form. Pure."""

from datetime import UTC, datetime

from rzero_core.status import Condition, Phase, RunStatus

TERMINAL = frozenset({Phase.SUCCEEDED, Phase.FAILED})


def conditions(status: RunStatus, message: str, generation: int, time: str) -> list[Condition]:
    """One condition of each type; it keeps the time at which its truth last changed.

    `message` goes to those that are true. An empty one leaves what a terminal run said last.
    """
    phase = status.phase
    truths = {
        "Ready": phase is Phase.SUCCEEDED,
        "Reconciling": phase in (Phase.PENDING, Phase.RUNNING, Phase.SUSPENDING),
        "Stalled": phase is Phase.FAILED,
        "Suspended": phase is Phase.SUSPENDED,
        "Succeeded": phase is Phase.SUCCEEDED,
        "Failed": phase is Phase.FAILED,
    }
    before = {condition.type: condition for condition in status.conditions}
    return [
        _condition(name, truth, before.get(name), phase, message, generation, time)
        for name, truth in truths.items()
    ]


def _condition(
    name: str,
    truth: bool,
    old: Condition | None,
    phase: Phase,
    message: str,
    generation: int,
    time: str,
) -> Condition:
    same = old is not None and (old.status == "True") == truth
    if old is not None and phase in TERMINAL and not message:
        message = old.message
    return Condition(
        type=name,
        status="True" if truth else "False",
        reason=phase.value,
        message=message if truth else "",
        last_transition_time=old.last_transition_time if old and same else time,
        observed_generation=generation,
    )


def message_of(status: RunStatus, name: str) -> str:
    """The message of one condition, empty where there is none."""
    return next((item.message for item in status.conditions if item.type == name), "")


def rfc3339(moment: datetime) -> str:
    """A time as the status holds it, in UTC and whole seconds."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
