"""Asks an oracle for answers over HTTP, within bounds: calls, tokens, time, bytes, calls a minute.

Trouble never fails the stage: a draw that brings no answer abstains and says why. What the server
sends is not trusted and never logged, and the API key goes nowhere but into the request's header.
"""

import asyncio
import base64
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from rzero_core import answers
from rzero_core.run import Oracle
from rzero_core.task import ORACLE_KEY_VARIABLE, derive_seed
from rzero_stages.endpoint import PASSING_CODES, GrowingPause, Passing, retry_after
from rzero_stages.oracle_identity import ORACLE_PROMPT, completions_url

CONNECTIONS = 16
_TRIES = 4
_TRIES_OF_A_LATE_CALL = 2
"""A call that used up its time has cost enough."""
_PATIENCE = 8
"""Draws that fail one after the other, with all their tries, before the oracle counts as down."""
_BYTES_PER_TOKEN = 32
_BYTES_OF_FORM = 65536
_SHORTEST_KEY = 8
"""A shorter key may stand in an answer by chance."""
_REFUSES_A_FIELD = frozenset({400, 422})


@dataclass(frozen=True)
class Draw:
    """One answer that is asked for."""

    id: str
    """Of the question."""
    text: str
    number: int
    """Which of the question's draws: each has a seed of its own."""


@dataclass(frozen=True)
class Reply:
    """What came of a draw."""

    answer: str | None = None
    """The boxed answer; None when there is none."""
    why: str | None = None
    """Why no answer came; None when one did, be it without a box."""


class OracleEndpoint:
    """Asks `{endpoint}/chat/completions`, one answer a call.

    Passing trouble (429, 5xx, time-outs, a broken connection) is tried again, with pauses of at
    least what `Retry-After` says. A server may not know all fields of a call: `max_tokens` gets its
    newer name where the server names that, and `seed` goes where a first call is refused. All calls
    count against `maxCalls`, and their tokens against `maxTotalTokens`, which those on their way
    when it is reached may exceed: 16 at most. After eight failed draws in a row, whatever failed
    them, or a refused key, nothing more is asked. Draws that ran out of time are failed ones where
    no other of their `ask` was answered.
    """

    def __init__(self, oracle: Oracle, seed: int, first_pause: float = 0.5) -> None:
        self.calls = 0
        self.tokens = 0
        """Of prompts and answers, as the server counts them; more where that cannot be."""
        self.seconds = 0.0
        self._oracle = oracle
        self._seed = seed
        self._key = os.environ.get(ORACLE_KEY_VARIABLE, "").strip()
        self._pause = GrowingPause(first_pause)
        self._trust = httpx.create_ssl_context()
        self._closed: str | None = None
        try:
            self._url = httpx.URL(completions_url(oracle.endpoint))
        except httpx.InvalidURL:
            self._closed = "the endpoint is no URL"
        if not (self._key.isascii() and self._key.isprintable()):
            # No header can carry it, and a call without it is none that the user asked for.
            self._closed = f"{ORACLE_KEY_VARIABLE} is not printable ASCII, so no call was made"
        secrets = [self._key]
        if not self._closed and self._url.password:
            login = f"{self._url.username}:{self._url.password}".encode()
            secrets += [self._url.password, base64.b64encode(login).decode()]
        self._secrets = [bare for bare in map(_bare, secrets) if len(bare) >= _SHORTEST_KEY]
        self._failures = 0
        self._next_call = 0.0
        self._length_field = "max_tokens"
        self._seeded = True
        self._seed_is_known = False

    def ask(self, draws: Sequence[Draw]) -> list[Reply]:
        """The replies in the order of `draws`; takes at most `longest(len(draws))` seconds."""
        if not draws:
            return []
        clock = time.monotonic()
        try:
            return asyncio.run(self._ask_all(draws))
        finally:
            self.seconds += time.monotonic() - clock

    def affordable(self) -> int:
        """How many more calls the budgets can pay; 0 once nothing is asked any more.

        A call is taken to cost as many tokens as those before did on average, the first one as many
        as it may.
        """
        if self._closed:
            return 0
        most = _prompt_bytes("") + self._oracle.max_tokens
        each = self.tokens / self.calls if self.calls else most
        tokens = self._oracle.max_total_tokens - self.tokens
        return max(0, min(self._oracle.max_calls - self.calls, int(tokens / max(1.0, each))))

    def longest(self, draws: int) -> float:
        """Seconds after which what is still missing of so many draws abstains.

        Enough for every draw to take its whole time once, and a little for what is tried again.
        """
        waves = -(-draws // CONNECTIONS)
        calls = 60.0 * draws / self._oracle.requests_per_minute
        return max(calls, float(waves * self._oracle.timeout_seconds)) * 1.5 + 10.0

    async def _ask_all(self, draws: Sequence[Draw]) -> list[Reply]:
        limits = httpx.Limits(max_connections=CONNECTIONS)
        # A compressed answer could be a thousand times what came over the wire.
        headers = {"Accept-Encoding": "identity"}
        auth = None
        if self._key and not self._closed:
            headers["Authorization"] = f"Bearer {self._key}"
        elif not self._closed and self._url.userinfo:
            auth = httpx.BasicAuth(self._url.username, self._url.password)
        places = asyncio.Semaphore(CONNECTIONS)
        timeout = httpx.Timeout(float(self._oracle.timeout_seconds), pool=None)
        async with httpx.AsyncClient(
            timeout=timeout, limits=limits, headers=headers, auth=auth, verify=self._trust
        ) as client:
            tasks = [asyncio.create_task(self._draw(client, places, draw)) for draw in draws]
            _, late = await asyncio.wait(tasks, timeout=self.longest(len(draws)))
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        replies = [Reply(why="out of time") if task in late else task.result() for task in tasks]
        # An endpoint that answers some of them is slow, not down.
        if all(reply.why for reply in replies):
            self._fail("out of time", len(late))
        return replies

    async def _draw(
        self, client: httpx.AsyncClient, places: asyncio.Semaphore, draw: Draw
    ) -> Reply:
        async with places:
            try:
                async for attempt in AsyncRetrying(
                    retry=retry_if_exception_type(Passing),
                    stop=_tried_enough,
                    wait=self._pause,
                    reraise=True,
                ):
                    with attempt:
                        text = await self._call(client, draw)
            except _NotAsked as error:
                return Reply(why=str(error))
            except (_Abstain, Passing) as error:
                self._fail(str(error))
                return Reply(why=str(error))
        self._failures = 0
        return Reply(answer=answers.extract(text))

    def _fail(self, why: str, draws: int = 1) -> None:
        self._failures += draws
        if self._failures >= _PATIENCE and not self._closed:
            self._closed = f"given up after {_PATIENCE} failures in a row: {why}"

    async def _call(self, client: httpx.AsyncClient, draw: Draw) -> str:
        """The text of one answer. Errors say what happened in our own words, never the server's."""
        self._check_open()
        await self._await_turn()
        self._check_open()
        self.calls += 1
        body = self._body(draw)
        # The client logs addresses, and a password has no place in a log.
        url = self._url.copy_with(userinfo=b"")
        # Until the server says otherwise, also when it never will: an answer of full length.
        tokens = _prompt_bytes(draw.text) + self._oracle.max_tokens
        try:
            async with (
                asyncio.timeout(self._oracle.timeout_seconds),
                client.stream("POST", url, json=body) as response,
            ):
                data = await self._read(response)
            if response.status_code != 200:
                tokens = 0
            self._check_status(response, data, body)
            text, usage = _answer(data)
            tokens = self._counted(draw, text, usage)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            tokens = 0
            raise Passing(f"no connection ({type(error).__name__})") from error
        except (TimeoutError, httpx.TimeoutException) as error:
            raise _Late("time-out") from error
        except httpx.HTTPError as error:
            raise Passing(f"no connection ({type(error).__name__})") from error
        finally:
            self.tokens += tokens
        self._check_secrets(text)
        return text.encode("utf-8", "replace").decode()

    def _check_open(self) -> None:
        if self._closed:
            raise _NotAsked(self._closed)
        if self.calls >= self._oracle.max_calls:
            raise _NotAsked("maxCalls is used up")
        if self.tokens >= self._oracle.max_total_tokens:
            raise _NotAsked("maxTotalTokens is used up")

    async def _await_turn(self) -> None:
        """Spreads the calls evenly over the minute."""
        now = time.monotonic()
        turn = max(now, self._next_call)
        self._next_call = turn + 60.0 / self._oracle.requests_per_minute
        await asyncio.sleep(turn - now)

    def _body(self, draw: Draw) -> dict[str, Any]:
        # Some models refuse a temperature, and some servers a seed.
        seed = {"seed": derive_seed(self._seed, "oracle", draw.id, draw.number)}
        return {
            "model": self._oracle.model,
            "messages": [
                {"role": "system", "content": ORACLE_PROMPT.system},
                {"role": "user", "content": draw.text},
            ],
            self._length_field: self._oracle.max_tokens,
            **(seed if self._seeded else {}),
        }

    async def _read(self, response: httpx.Response) -> bytes:
        """The body, unless it is larger than an answer can be."""
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise _Abstain("malformed answer")
        limit = self._oracle.max_tokens * _BYTES_PER_TOKEN + _BYTES_OF_FORM
        data = bytearray()
        async for chunk in response.aiter_raw():
            data += chunk
            if len(data) > limit:
                raise _Abstain("answer too large")
        return bytes(data)

    def _check_status(self, response: httpx.Response, data: bytes, body: dict[str, Any]) -> None:
        code = response.status_code
        if code == 200:
            self._seed_is_known |= "seed" in body
            return
        pause = retry_after(response)
        if code >= 500 or code in PASSING_CODES:
            if code == 429:
                # The limit holds for all that wait for their turn.
                self._next_call = max(self._next_call, time.monotonic() + min(pause, 60.0))
            raise Passing(f"HTTP {code}", pause)
        if code == 400 and b"max_completion_tokens" in data and "max_tokens" in body:
            self._length_field = "max_completion_tokens"
            raise Passing(f"HTTP {code}")
        if code in _REFUSES_A_FIELD and "seed" in body and not self._seed_is_known:
            self._seeded = False
            raise Passing(f"HTTP {code}")
        if code in (401, 403):
            self._closed = f"HTTP {code}: {ORACLE_KEY_VARIABLE} is missing or not accepted"
        raise _Abstain(self._closed or f"HTTP {code}")

    def _counted(self, draw: Draw, text: str, usage: Any) -> int:
        """Tokens of a call that brought an answer.

        What the server counts, or more, since it is not trusted: where a count is missing, or
        smaller than the bytes allow, the prompt counts as a token a byte and the answer as
        `maxTokens`, which is all that it may have. A count that is too large is believed: it can
        only end the audit sooner.
        """
        given = usage if isinstance(usage, dict) else {}
        sizes = (
            ("prompt_tokens", _prompt_bytes(draw.text), _prompt_bytes(draw.text)),
            ("completion_tokens", len(text.encode("utf-8", "replace")), self._oracle.max_tokens),
        )
        total = 0
        for name, size, most in sizes:
            count = given.get(name)
            if not isinstance(count, int) or count < size / _BYTES_PER_TOKEN:
                count = most
            total += count
        return min(total, self._oracle.max_total_tokens)

    def _check_secrets(self, text: str) -> None:
        """An answer is kept in the artifact, and what authorizes us must not be."""
        letters = _bare(text)
        if any(secret in letters for secret in self._secrets):
            raise _Abstain("malformed answer")


def _answer(data: bytes) -> tuple[str, Any]:
    """The text of an answer, and what it says of its tokens."""
    try:
        answer = json.loads(data)
        text = answer["choices"][0]["message"]["content"] or ""
        if not isinstance(text, str):
            raise TypeError("content is no text")
        return text, answer.get("usage")
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise _Abstain("malformed answer") from error


def _bare(text: str) -> str:
    """Letters and digits alone, which is what white space and LaTeX leave of a key."""
    return "".join(filter(str.isalnum, text.casefold()))


def _prompt_bytes(question: str) -> int:
    return len((ORACLE_PROMPT.system + question).encode())


class _Abstain(Exception):
    """This draw brings no answer, and trying again would not help."""


class _NotAsked(_Abstain):
    """Nothing was sent."""


class _Late(Passing):
    """The call used up its time."""


def _tried_enough(state: RetryCallState) -> bool:
    error = state.outcome.exception() if state.outcome else None
    tries = _TRIES_OF_A_LATE_CALL if isinstance(error, _Late) else _TRIES
    return state.attempt_number >= tries
