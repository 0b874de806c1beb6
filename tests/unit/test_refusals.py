"""A server that refuses a Job fails the run, stalls it, or is asked again, as its words say."""

import pytest
from plan_world import World, make_spec

from rzero_operator.cluster import ApiError
from rzero_operator.decision import AttemptState, StartAttempt
from rzero_operator.refusals import PATIENCE, refused

QUOTA = 'jobs.batch "a" is forbidden: exceeded quota: few'
RBAC = 'jobs.batch is forbidden: User "u" cannot create resource "jobs" in API group "batch"'
ENDING = 'jobs.batch "a" is forbidden: unable to create: namespace lab is being terminated'
WEBHOOK = 'Internal error occurred: failed calling webhook "kueue": connection refused'


@pytest.fixture
def start() -> StartAttempt:
    world = World(make_spec())
    world.turn()
    return world.started[0]


@pytest.mark.parametrize("status", [400, 403, 422])
def test_a_job_that_can_never_be_created_is_a_failure_of_configuration(
    start: StartAttempt, status: int
) -> None:
    attempt = refused(start, ApiError(status, "Invalid", "no such field"), 0)
    assert attempt is not None
    assert (attempt.state, attempt.exit_code) == (AttemptState.FAILED, 78)
    assert attempt.message == "no such field"


@pytest.mark.parametrize(
    ("status", "said", "reason"),
    [
        (403, QUOTA, "QuotaExceeded"),
        (403, RBAC, "Forbidden"),
        (413, "Request entity too large: limit is 3145728", "CreateFailed"),
        (500, WEBHOOK, "CreateFailed"),
    ],
)
def test_a_job_that_may_be_created_later_waits_with_the_servers_words(
    start: StartAttempt, status: int, said: str, reason: str
) -> None:
    attempt = refused(start, ApiError(status, "", said), PATIENCE)
    assert attempt is not None
    assert (attempt.state, attempt.reason, attempt.message) == (AttemptState.RUNNING, reason, said)
    assert (attempt.step, attempt.number) == (start.step, start.task.attempt)


@pytest.mark.parametrize(
    ("status", "said"),
    [(0, "reset"), (403, ENDING), (429, "too many"), (500, WEBHOOK), (503, "away"), (504, "late")],
)
def test_what_passes_by_itself_is_no_refusal(start: StartAttempt, status: int, said: str) -> None:
    assert refused(start, ApiError(status, "", said), PATIENCE - 1) is None


@pytest.mark.parametrize("status", [413, 422, 500])
def test_a_refusal_is_one_short_line_however_long_the_name_that_it_repeats(
    start: StartAttempt, status: int
) -> None:
    said = "Invalid value: " + "x" * 170_000 + "\nwrite\x1b[31m less"
    attempt = refused(start, ApiError(status, "", said), PATIENCE)
    assert attempt is not None
    assert attempt.message.startswith("Invalid value: xxx")
    assert len(attempt.message) <= 1000 and attempt.message.isprintable()
