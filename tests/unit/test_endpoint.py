"""A model server is asked by the task's settings, and what it sends is not trusted."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from rzero_core.run import SamplerBackend, Sampling
from rzero_core.task import BadConfiguration, TryAgain
from rzero_stages.endpoint import EndpointSampler
from rzero_stages.sampler import UNANSWERABLE, Completion, Messages
from rzero_stages.sampling import open_sampler

Reply = tuple[int, dict[str, str], bytes]
TOO_LONG: Reply = (400, {}, b'{"error": {"message": "maximum context length is 256 tokens"}}')
SETTINGS = Sampling(temperature=0.7, top_p=0.9, max_tokens=16)


def ask(text: str) -> Messages:
    return [{"role": "user", "content": text}]


def choices(texts: list[str], tokens: int = 0, reason: str = "stop") -> Reply:
    found = [{"message": {"content": text}, "finish_reason": reason} for text in texts]
    body = {"choices": found, "usage": {"completion_tokens": tokens}}
    return 200, {}, json.dumps(body).encode()


def echo(body: dict[str, Any]) -> Reply:
    text = body["messages"][-1]["content"]
    return choices([f"{text}!"] * body["n"], tokens=3 * body["n"])


@contextmanager
def serving(
    answer: Callable[[dict[str, Any]], Reply],
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server on this machine: its URL, and the requests that it got."""
    requests: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, {}, b'{"data": [{"id": "the-solver", "max_model_len": 256}]}')

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append(body)
            self._send(*answer(body))

        def _send(self, code: int, headers: dict[str, str], data: bytes) -> None:
            self.send_response(code)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Keeps the test's output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()


def sampler(url: str, attempts: int = 3) -> EndpointSampler:
    return EndpointSampler(url, attempts=attempts, first_pause=0.01)


def test_answers_come_back_in_the_order_of_the_prompts() -> None:
    def slow_first(body: dict[str, Any]) -> Reply:
        time.sleep(0.2 if body["messages"][-1]["content"] == "0" else 0)
        return echo(body)

    told: list[int] = []
    with serving(slow_first) as (url, _):
        asked = EndpointSampler(url, on_completions=told.append)
        drawn = asked.sample([ask(str(i)) for i in range(20)], 2, SETTINGS, seed=0)
    assert drawn == [[Completion(f"{i}!", 3, True)] * 2 for i in range(20)]
    assert sum(told) == 40


def test_all_settings_are_sent_so_that_the_server_adds_none_of_its_own() -> None:
    with serving(echo) as (url, requests):
        sampler(url).sample([ask("1"), ask("1")], 4, SETTINGS, seed=0)
    first, second = requests
    assert first["seed"] != second["seed"]
    assert first | {"seed": 0} == {
        "model": "the-solver",
        "messages": ask("1"),
        "n": 4,
        "seed": 0,
        "max_tokens": 16,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
    }


def test_no_more_tokens_are_asked_for_than_the_servers_context_holds() -> None:
    with serving(echo) as (url, requests):
        sampler(url).sample([ask("1")], 1, Sampling(max_tokens=4096), seed=0)
    assert "max_tokens" not in requests[0]


def test_a_prompt_that_leaves_less_room_than_asked_for_is_answered_in_what_is_left() -> None:
    def strict(body: dict[str, Any]) -> Reply:
        return TOO_LONG if "max_tokens" in body else echo(body)

    with serving(strict) as (url, requests):
        ((found,),) = sampler(url).sample([ask("1")], 1, SETTINGS, seed=0)
    assert (found.text, len(requests)) == ("1!", 2)


def test_greedy_is_a_temperature_of_zero() -> None:
    with serving(echo) as (url, requests):
        sampler(url).sample([ask("1")], 1, SETTINGS, seed=0, greedy=True)
    assert (requests[0]["temperature"], requests[0]["top_p"]) == (0.0, 1.0)


@pytest.mark.parametrize(
    "trouble",
    [
        (503, {}, b"overloaded"),
        (429, {"Retry-After": "0"}, b""),
        (500, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, b"{}"),
        (200, {}, b"<html>a proxy's page</html>"),
        (200, {}, b'{"choices": []}'),
        (200, {}, b'{"choices": [{"message": null, "finish_reason": "stop"}]}'),
        (200, {}, b"[" * 60000),
        (200, {}, b'"' + b"x" * 2_000_000 + b'"'),
    ],
)
def test_trouble_that_may_pass_is_tried_again(trouble: Reply) -> None:
    replies = [trouble, trouble]
    with serving(lambda body: replies.pop() if replies else echo(body)) as (url, requests):
        assert sampler(url).sample([ask("1")], 1, SETTINGS, seed=0)[0][0].text == "1!"
    assert len(requests) == 3


def test_trouble_that_stays_ends_as_try_again_and_names_the_server() -> None:
    with (
        serving(lambda _: (503, {}, b"overloaded")) as (url, requests),
        pytest.raises(TryAgain, match=f"{url}.*503: overloaded"),
    ):
        sampler(url).sample([ask("1")], 1, SETTINGS, seed=0)
    assert len(requests) == 3


def test_the_pause_is_at_least_what_the_server_asks_for() -> None:
    replies: list[Reply] = [(429, {"Retry-After": "1"}, b"")]
    with serving(lambda body: replies.pop() if replies else echo(body)) as (url, _):
        began = time.monotonic()
        sampler(url).sample([ask("1")], 1, SETTINGS, seed=0)
    assert time.monotonic() - began >= 1.0


def test_a_server_that_is_not_there_is_trouble_that_may_pass() -> None:
    with pytest.raises(TryAgain, match=r"127\.0\.0\.1:9"):
        sampler("http://127.0.0.1:9", attempts=2).sample([ask("1")], 1, SETTINGS, seed=0)


@pytest.mark.parametrize("code", [400, 401, 404, 422])
def test_a_refused_request_is_bad_configuration_at_once(code: int) -> None:
    with (
        serving(lambda _: (code, {}, b"no\nsuch model")) as (url, requests),
        pytest.raises(BadConfiguration, match=f"HTTP {code}: no such model"),
    ):
        sampler(url).sample([ask("1")], 1, SETTINGS, seed=0)
    assert len(requests) == 1


def test_a_prompt_beyond_the_servers_context_is_left_unanswered() -> None:
    def refuse(body: dict[str, Any]) -> Reply:
        too_long = len(body["messages"][-1]["content"]) > 100
        return TOO_LONG if too_long else echo(body)

    with serving(refuse) as (url, _):
        long, short = sampler(url).sample([ask("9" * 500), ask("1")], 2, SETTINGS, seed=0)
    assert long == [UNANSWERABLE] * 2
    assert short[0].text == "1!"


def test_a_text_is_cut_and_made_valid_unicode() -> None:
    with serving(lambda _: choices(["\ud800" + "x" * 5000], 16, "length")) as (url, _):
        ((found,),) = sampler(url).sample([ask("1")], 1, SETTINGS, seed=0)
    assert found.text.startswith("?x") and len(found.text) == 16 * 32
    assert not found.finished


def test_a_url_that_already_ends_in_v1_is_the_same_server() -> None:
    with serving(echo) as (url, _):
        opened = open_sampler(SamplerBackend.AUTO, None, f"{url}/v1/")
        assert opened.sample([ask("1")], 1, SETTINGS, seed=0)[0][0].text == "1!"


def test_a_url_without_a_scheme_says_what_to_write() -> None:
    with pytest.raises(BadConfiguration, match="http://"):
        sampler("localhost:8000").sample([ask("1")], 1, SETTINGS, seed=0)
