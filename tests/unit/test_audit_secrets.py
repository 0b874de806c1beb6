"""The oracle's key is in its requests, and nowhere else that anybody could read."""

import logging
from pathlib import Path
from typing import Any

import pytest
from audit_makers import audit, found, oracle, spider_pool, verdicts
from oracle_server import Reply, oracle_server, says

KEY = "sk-secret-0123456789"


def everything_under(root: Path) -> str:
    files = [path for path in root.rglob("*") if path.is_file()]
    return "\n".join(path.read_bytes().decode(errors="replace") for path in files)


@pytest.mark.parametrize("code", [200, 401, 404])
def test_the_key_reaches_the_oracle_and_nothing_else(
    tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RZERO_ORACLE_API_KEY", f"{KEY}\n")
    caplog.set_level(logging.DEBUG)

    def echo(body: dict[str, Any]) -> Reply:
        text = f"you sent {body['headers']['authorization']}"
        if code != 200:
            return code, {"Retry-After": "0"}, text.encode()
        return says(f"\\boxed{{{KEY}}} {text}")

    with oracle_server(echo) as (url, requests):
        result = audit(tmp_path, spider_pool(3, lambda _: True), oracle(url))
    assert {request["headers"]["authorization"] for request in requests} == {f"Bearer {KEY}"}
    assert found(result).abstained == 3
    assert requests[0]["path"] == "/v1/chat/completions"
    for place in (everything_under(tmp_path), caplog.text, result.to_json()):
        assert KEY not in place
    if code == 401:
        assert len(requests) <= 6 and "RZERO_ORACLE_API_KEY" in str(verdicts(result)[0].why)


@pytest.mark.parametrize("key", ["sk-kéy-0123456789", "sk-secret\n-0123456789"])
def test_a_key_that_no_header_can_carry_is_named_and_no_call_goes_without_it(
    tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RZERO_ORACLE_API_KEY", key)
    with oracle_server(lambda _: says("\\boxed{8}")) as (url, requests):
        result = audit(tmp_path, spider_pool(3, lambda _: True), oracle(url))
    assert requests == []
    assert found(result).why == (
        "3 RZERO_ORACLE_API_KEY is not printable ASCII, so no call was made"
    )
    for place in (everything_under(tmp_path), caplog.text, result.to_json()):
        assert "0123456789" not in place


@pytest.mark.parametrize(
    "echo",
    [
        "{0} \n{1}",
        "{0}\\ {1}",
        "{0}\\,{1}",
        "{0}\u200b{1}",
        "{0}}}{{{1}",
        "\\text{{{0}-}}{1}",
        "{0}_{1}",
    ],
)
def test_a_key_in_pieces_does_not_become_an_answer(
    tmp_path: Path, echo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RZERO_ORACLE_API_KEY", KEY)
    boxed = echo.format(KEY[:9], KEY[9:])
    with oracle_server(lambda _: says(f"\\boxed{{{boxed}}}")) as (url, _):
        result = audit(tmp_path, spider_pool(3, lambda _: True), oracle(url))
    assert {row.why for row in verdicts(result)} == {"malformed answer"}
    assert KEY[9:] not in everything_under(tmp_path)


def test_a_password_that_an_oracle_repeats_does_not_become_an_answer(tmp_path: Path) -> None:
    def echo(body: dict[str, Any]) -> Reply:
        scheme, login = body["headers"]["authorization"].split()
        assert scheme == "Basic"
        return says(f"\\boxed{{{login}}}" if body["seed"] % 2 else "\\boxed{hunter2hunter2}")

    with oracle_server(echo) as (url, _):
        endpoint = url.replace("http://", "http://user:hunter2hunter2@")
        audit(tmp_path, spider_pool(8, lambda _: True), oracle(endpoint))
    kept = everything_under(tmp_path)
    assert "hunter2" not in kept and "dXNlcjpodW50" not in kept


def test_a_password_in_the_url_is_nowhere_but_in_the_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with oracle_server(lambda _: (404, {}, b"")) as (url, _):
        endpoint = url.replace("http://", "http://user:hunter2hunter2@")
        result = audit(tmp_path, spider_pool(3, lambda _: True), oracle(endpoint))
    for place in (everything_under(tmp_path), caplog.text, result.to_json()):
        assert "hunter2" not in place
