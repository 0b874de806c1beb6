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


def test_a_password_in_the_url_is_nowhere_but_in_the_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with oracle_server(lambda _: (404, {}, b"")) as (url, _):
        endpoint = url.replace("http://", "http://user:hunter2hunter2@")
        result = audit(tmp_path, spider_pool(3, lambda _: True), oracle(endpoint))
    for place in (everything_under(tmp_path), caplog.text, result.to_json()):
        assert "hunter2" not in place
