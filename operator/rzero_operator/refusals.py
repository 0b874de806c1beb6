"""Says what the server's refusal to create an object means for the attempt that needs it. Pure."""

from dataclasses import replace

from rzero_operator.cluster import ApiError
from rzero_operator.decision import Attempt, AttemptState, StartAttempt
from rzero_operator.observe import one_line

PATIENCE = 3
"""Errors of the server in a row that are waited out before they are told."""
_NO_RIGHT = 'cannot create resource "'
"""In the server's words when RBAC, and not admission, refuses: no fault of the run."""


def failed(start: StartAttempt, message: str) -> Attempt:
    """The attempt whose objects can never be created as they are."""
    return replace(_live(start, message), state=AttemptState.FAILED, exit_code=78)


def waiting(start: StartAttempt, reason: str, message: str) -> Attempt:
    """The attempt whose objects may be created later, when somebody has mended the cause."""
    return replace(_live(start, message), reason=reason)


def refused(start: StartAttempt, error: ApiError, times: int) -> Attempt | None:
    """What the plan must know of an attempt, None where to ask again soon is enough.

    `times`: errors of the server (500) in a row, this one too. It answers so for a moment while it
    starts, and for long where a webhook without which no Job may be created is away.
    """
    said = error.message
    match error.status:
        case 403 if "exceeded quota" in said:
            return waiting(start, "QuotaExceeded", said)
        case 403 if _NO_RIGHT in said:
            return waiting(start, "Forbidden", said)
        case 400 | 403 | 422 if "being terminated" not in said:
            return failed(start, said)
        case 413:
            return waiting(start, "CreateFailed", said)
        case 500 if times >= PATIENCE:
            return waiting(start, "CreateFailed", said)
    return None


def _live(start: StartAttempt, message: str) -> Attempt:
    return Attempt(
        start.step,
        start.task.attempt,
        AttemptState.RUNNING,
        execution="",
        # The server repeats what it refuses, however long that is.
        message=one_line(message),
    )
