"""An oracle's endpoint may be down, slow, picky or broken: that costs bounded time, and is told."""

import time
from pathlib import Path
from typing import Any

import pytest
from audit_makers import audit, found, judge, oracle, probe, spider_pool, spiders, verdicts
from oracle_server import Reply, asked, legs, oracle_server, says

from rzero_core.run import Oracle
from rzero_stages.oracle_endpoint import CONNECTIONS, Draw, OracleEndpoint


def test_an_endpoint_that_is_down_costs_bounded_time_and_the_stage_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    began = time.monotonic()
    result = audit(tmp_path, spider_pool(300, lambda _: True), oracle("http://127.0.0.1:9/v1"))
    assert time.monotonic() - began < 20
    report = found(result)
    assert (report.estimate, report.lower, report.upper) == (None, None, None)
    assert (report.sample_size, report.abstained) == (0, 300)
    assert result.metrics["oracleCalls"] < 100
    assert result.metrics["kept"] == 300
    assert all("no connection" in str(row.why) for row in verdicts(result))
    given_up = [row.why for row in verdicts(result) if str(row.why).startswith("given up")]
    refused = "no connection (ConnectError)"
    assert report.why == (
        f"{len(given_up)} given up after 8 failures in a row: {refused}, "
        f"{300 - len(given_up)} {refused}"
    )
    assert f"300 of 300 labels got no verdict: {report.why}" in caplog.text


def test_an_upper_bound_in_place_of_an_oracle_says_why_it_is_there(tmp_path: Path) -> None:
    known = [probe(f"probe {n}", "1", "1" if n % 4 else "2") for n in range(200)]
    with oracle_server(lambda _: (401, {}, b"")) as (url, _):
        report = found(audit(tmp_path, spider_pool(40, lambda _: True), oracle(url), known))
    assert report.is_upper_bound and report.abstained == 40
    assert report.why == "40 HTTP 401: RZERO_ORACLE_API_KEY is missing or not accepted"


def test_an_endpoint_that_puts_everything_off_is_given_up(tmp_path: Path) -> None:
    began = time.monotonic()
    never = 429, {"Retry-After": "1000000000"}, b""
    outcome, calls = judge(tmp_path, lambda _: never, 300, timeout_seconds=1)
    # One batch runs out of time, and no other is asked for.
    assert time.monotonic() - began < 25 and calls <= CONNECTIONS
    assert outcome.result.why is not None
    assert "given up after 8 failures in a row: out of time" in outcome.result.why


def test_an_endpoint_that_answers_a_part_in_time_is_not_given_up() -> None:
    wanted = Oracle(endpoint="http://host", model="m", requests_per_minute=10**6, timeout_seconds=1)
    begun: list[Reply] = [says("\\boxed{8}")]
    with oracle_server(lambda _: begun.pop() if begun else (429, {"Retry-After": "60"}, b"")) as (
        url,
        _,
    ):
        endpoint = OracleEndpoint(wanted.model_copy(update={"endpoint": url}), 0)
        replies = endpoint.ask([Draw(str(n), spiders(n), 0) for n in range(CONNECTIONS)])
    assert sorted(str(reply.why) for reply in replies) == ["None"] + 15 * ["out of time"]
    assert endpoint.affordable() > 0


def test_an_endpoint_that_never_answers_costs_bounded_time(tmp_path: Path) -> None:
    def sleep(_: dict[str, Any]) -> Reply:
        time.sleep(6)
        return says("too late")

    began = time.monotonic()
    outcome, calls = judge(tmp_path, sleep, 200, timeout_seconds=1)
    assert time.monotonic() - began < 12 and calls < 60
    assert (outcome.result.estimate, outcome.result.abstained) == (None, 200)


def test_a_few_slow_answers_abstain_and_the_others_count(tmp_path: Path) -> None:
    def slow(body: dict[str, Any]) -> Reply:
        time.sleep(3 if asked(body) == spiders(7) else 0)
        return legs(body)

    outcome, _ = judge(tmp_path, slow, timeout_seconds=1)
    assert (outcome.result.sample_size, outcome.result.abstained) == (39, 1)


def test_a_limited_endpoint_is_asked_again_when_it_says_so(tmp_path: Path) -> None:
    began = time.monotonic()
    limited: list[Reply] = [(429, {"Retry-After": "1"}, b"{}"), (503, {}, b"busy")]
    outcome, calls = judge(
        tmp_path, lambda body: limited.pop(0) if limited else legs(body), samples=1
    )
    assert 1.0 <= time.monotonic() - began < 10
    assert (outcome.result.estimate, outcome.result.abstained, calls) == (1.0, 0, 42)


def test_a_limit_that_never_lifts_is_given_up(tmp_path: Path) -> None:
    began = time.monotonic()
    outcome, calls = judge(tmp_path, lambda _: (429, {"Retry-After": "0"}, b""), 300)
    assert time.monotonic() - began < 10 and calls < 100
    assert (outcome.result.estimate, outcome.result.abstained) == (None, 300)


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ((200, {}, b"<html>a proxy's page</html>"), "malformed answer"),
        ((200, {}, b'{"choices": []}'), "malformed answer"),
        ((200, {}, b'{"choices": [{"message": {"content": ["\\\\boxed{8}"]}}]}'), "malformed"),
        ((200, {}, b"[" * 50000), "malformed answer"),
        ((200, {}, b'"' + b"x" * 10_000_000 + b'"'), "answer too large"),
        ((200, {"Content-Encoding": "gzip"}, b"\x1f\x8b"), "malformed answer"),
        ((302, {"Location": "http://127.0.0.1:9/"}, b""), "HTTP 302"),
        ((404, {}, b"no such model"), "HTTP 404"),
    ],
)
def test_an_answer_that_is_none_abstains_at_once(tmp_path: Path, reply: Reply, why: str) -> None:
    began = time.monotonic()
    outcome, calls = judge(tmp_path, lambda _: reply, 3)
    assert time.monotonic() - began < 10 and calls == 6
    assert (outcome.result.estimate, outcome.result.abstained) == (None, 3)
    assert all(str(row.why).startswith(why) for row in outcome.verdicts)


def test_calls_are_spread_over_the_minute(tmp_path: Path) -> None:
    began = time.monotonic()
    judge(tmp_path, legs, 10, requests_per_minute=600, samples=1)
    assert 0.8 < time.monotonic() - began < 5


def test_an_oracle_that_wants_the_newer_name_of_a_field_gets_it(tmp_path: Path) -> None:
    def newer(body: dict[str, Any]) -> Reply:
        return (400, {}, b"use max_completion_tokens") if "max_tokens" in body else legs(body)

    assert judge(tmp_path, newer, 5)[0].result.estimate == 1.0


@pytest.mark.parametrize("code", [400, 422])
def test_an_oracle_that_knows_the_bare_fields_alone_gets_no_others(
    tmp_path: Path, code: int
) -> None:
    def strict(body: dict[str, Any]) -> Reply:
        known = {"model", "messages", "max_tokens", "headers"}
        return legs(body) if set(body) == known else (code, {}, b"extra fields not permitted")

    outcome, calls = judge(tmp_path, strict, 40)
    assert (outcome.result.estimate, outcome.result.abstained) == (1.0, 0)
    # Those that were on their way together when the first one was refused, and no more.
    assert 80 < calls <= 80 + CONNECTIONS
    assert outcome.metrics["oracleCalls"] == calls


def test_a_refused_question_is_not_asked_again_once_a_seed_was_taken(tmp_path: Path) -> None:
    with oracle_server(lambda b: (400, {}, b"") if "filtered" in asked(b) else legs(b)) as (url, _):
        wanted = Oracle(endpoint=url, model="m", requests_per_minute=10**6)
        endpoint = OracleEndpoint(wanted, 0)
        assert endpoint.ask([Draw("a", spiders(1), 0)])[0].answer == "8"
        assert endpoint.ask([Draw("b", "filtered", 0)])[0].why == "HTTP 400"
    assert endpoint.calls == 2
