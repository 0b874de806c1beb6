"""Samples from a model server over HTTP: the frozen Solver's sidecar, or any OpenAI-compatible one.

What a server sends is not trusted: its answers are bounded in size, and one that is not of the
protocol's form counts as trouble that may pass.
"""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential_jitter,
)

from rzero_core.run import Sampling
from rzero_core.task import BadConfiguration, TryAgain, derive_seed
from rzero_stages.sampler import UNANSWERABLE, Completion, Messages, OnCompletions

T = TypeVar("T")

_CONNECTIONS = 64
_ATTEMPTS = 8
_TIMEOUT = httpx.Timeout(600.0, connect=10.0)
_LONGEST_WAIT = 60.0
_BYTES_PER_TOKEN = 32
_BYTES_OF_FORM = 65536
PASSING_CODES = frozenset({408, 409, 425, 429})


class EndpointSampler:
    """Asks `{url}/v1/chat/completions`; the server renders the model's chat template.

    The model is the first one that the server offers. Failures that
    may pass (429, 5xx, time-outs, answers that are no answers) are tried `attempts` times, with
    pauses of at least what `Retry-After` says; then `TryAgain` is raised.
    """

    def __init__(
        self,
        url: str,
        on_completions: OnCompletions | None = None,
        attempts: int = _ATTEMPTS,
        first_pause: float = 0.5,
    ) -> None:
        self._url = url.rstrip("/").removesuffix("/v1")
        self._offer: _Offer | None = None
        self._on_completions = on_completions or (lambda _: None)
        limits = httpx.Limits(max_connections=_CONNECTIONS)
        self._client = httpx.Client(timeout=_TIMEOUT, limits=limits)
        self._retrying = Retrying(
            retry=retry_if_exception_type(Passing),
            stop=stop_after_attempt(attempts),
            wait=GrowingPause(first_pause),
            reraise=True,
        )

    def sample(
        self,
        prompts: Sequence[Messages],
        n: int,
        sampling: Sampling,
        seed: int,
        greedy: bool = False,
    ) -> list[list[Completion]]:
        """See `Sampler`. A choice's tokens are its even share of what the server counted."""
        if not prompts:
            return []
        if self._offer is None:
            self._offer = self._request("GET", "/v1/models", _BYTES_OF_FORM, _offer)
        settings = self._offer.settings(n, sampling, greedy)

        def ask(place: int) -> list[Completion]:
            body = {**settings, "messages": prompts[place], "seed": derive_seed(seed, place)}
            completions = self._complete(body, n, sampling.max_tokens)
            self._on_completions(n)
            return completions

        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            pending = [pool.submit(ask, place) for place in range(len(prompts))]
            try:
                return [future.result() for future in pending]
            except BaseException:
                # The others would only repeat what this one met.
                for future in pending:
                    future.cancel()
                raise

    def _complete(self, body: dict[str, Any], n: int, max_tokens: int) -> list[Completion]:
        """vLLM refuses more tokens than its context has left, instead of drawing only so many.

        Without `max_tokens` it fills its context, which then ends before `max_tokens` would.
        """
        longest = max_tokens * _BYTES_PER_TOKEN

        def read(answer: Any) -> list[Completion]:
            return _completions(answer, n, longest)

        context = self._offer.context if self._offer else None
        exact = [] if context and max_tokens >= context else [{**body, "max_tokens": max_tokens}]
        for request in [*exact, body]:
            try:
                limit = n * longest + _BYTES_OF_FORM
                return self._request("POST", "/v1/chat/completions", limit, read, request)
            except _TooLong:
                continue
        return [UNANSWERABLE] * n

    def _request(
        self,
        method: str,
        path: str,
        limit: int,
        read: Callable[[Any], T],
        body: dict[str, Any] | None = None,
    ) -> T:
        """What `read` makes of the server's JSON; `read` may fail as on any malformed data."""
        try:
            for attempt in self._retrying:
                with attempt:
                    return self._request_once(method, path, limit, read, body)
        except Passing as error:
            raise TryAgain(f"{self._url}{path}: {error}") from error
        raise AssertionError("tenacity ends with a result or an error")

    def _request_once(
        self,
        method: str,
        path: str,
        limit: int,
        read: Callable[[Any], T],
        body: dict[str, Any] | None,
    ) -> T:
        try:
            with self._client.stream(method, self._url + path, json=body) as response:
                data = _read_bounded(response, limit)
        except httpx.UnsupportedProtocol as error:
            raise BadConfiguration(f"{self._url}: write http:// or https://") from error
        except httpx.HTTPError as error:
            raise Passing(str(error) or type(error).__name__) from error
        _check_status(self._url + path, response, data)
        try:
            return read(json.loads(data))
        except (
            ValueError,
            KeyError,
            IndexError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as error:
            raise Passing(f"the answer is not of the protocol's form ({error!r})") from error


@dataclass(frozen=True)
class _Offer:
    """The model that a server offers."""

    model: str
    context: int | None
    """Its longest sequence in tokens, where the server says so, as vLLM and SGLang do."""

    def settings(self, n: int, sampling: Sampling, greedy: bool) -> dict[str, Any]:
        """All settings, also those that are off: servers fill gaps from the model's own."""
        return {
            "model": self.model,
            "n": n,
            "temperature": 0.0 if greedy else sampling.temperature,
            "top_p": 1.0 if greedy else sampling.top_p,
            "top_k": -1 if greedy or sampling.top_k == 0 else sampling.top_k,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
        }


class Passing(Exception):
    """Trouble that may pass."""

    def __init__(self, message: str, pause: float = 0.0) -> None:
        super().__init__(message)
        self.pause = pause


class _TooLong(Exception):
    """The prompt does not fit the model's context."""


class GrowingPause:
    """Growing pauses with jitter, and never less than the server asked for."""

    def __init__(self, first: float) -> None:
        self._jittered = wait_exponential_jitter(initial=first, max=_LONGEST_WAIT, jitter=first)

    def __call__(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.pause if isinstance(error, Passing) else 0.0
        return max(self._jittered(state), min(asked, _LONGEST_WAIT))


def _read_bounded(response: httpx.Response, limit: int) -> bytes:
    data = bytearray()
    for chunk in response.iter_bytes():
        data += chunk
        if len(data) > limit:
            raise Passing(f"the answer is larger than {limit} bytes")
    return bytes(data)


def _check_status(url: str, response: httpx.Response, data: bytes) -> None:
    code = response.status_code
    if code < 400:
        return
    text = data[:300].decode("utf-8", "replace").replace("\n", " ")
    if code >= 500 or code in PASSING_CODES:
        raise Passing(f"HTTP {code}: {text}", retry_after(response))
    if code == 400 and "context length" in text:
        raise _TooLong(text)
    raise BadConfiguration(f"{url} refuses the request with HTTP {code}: {text}")


def retry_after(response: httpx.Response) -> float:
    """Seconds; a date, the header's other form, counts as none: pauses grow anyway."""
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() else 0.0


def _offer(answer: Any) -> _Offer:
    first = answer["data"][0]
    context = first.get("max_model_len")
    return _Offer(str(first["id"]), context if isinstance(context, int) and context > 0 else None)


def _completions(answer: Any, n: int, longest: int) -> list[Completion]:
    choices = answer["choices"]
    if len(choices) != n:
        raise ValueError(f"{len(choices)} choices instead of {n}")
    tokens = int((answer.get("usage") or {}).get("completion_tokens", 0))
    return [
        Completion(
            text=_valid(str(choice["message"]["content"] or "")[:longest]),
            tokens=tokens // n + (place < tokens % n),
            finished=choice["finish_reason"] == "stop",
        )
        for place, choice in enumerate(choices)
    ]


def _valid(text: str) -> str:
    """The text without halves of surrogate pairs, which JSON can hold and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()
