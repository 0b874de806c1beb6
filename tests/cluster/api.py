"""A small client of the Kubernetes API for tests: JSON in, JSON out, one connection a thread."""

import http.client
import json
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

MERGE = "application/merge-patch+json"


class ApiError(Exception):
    """An answer of the API server that is not a success."""

    def __init__(self, method: str, path: str, status: int, text: str) -> None:
        super().__init__(f"{method} {path}: {status} {text}")
        self.status = status


class Api:
    """Requests with one bearer token. Safe to share between threads."""

    def __init__(self, server: str, ca: Path, token: str, agent: str = "rzero-tests") -> None:
        self.token = token
        self.agent = agent
        address = urlsplit(server)
        assert address.hostname is not None and address.port is not None
        self._address = (address.hostname, address.port)
        self._tls = ssl.create_default_context(cafile=str(ca))
        self._local = threading.local()

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        content_type: str = "application/json",
    ) -> Any:
        """The object in the answer. Raises ApiError, or OSError without a connection."""
        text = None if body is None else json.dumps(body)
        try:
            answer = self._send(method, path, text, content_type)
            data = answer.read().decode()
        except OSError:
            self._drop()
            raise
        except http.client.HTTPException as error:
            # A server that was killed in the middle of its answer.
            self._drop()
            raise ConnectionError(f"{method} {path}: {error!r}") from error
        if answer.status >= 300:
            raise ApiError(method, path, answer.status, data)
        return json.loads(data) if data.startswith(("{", "[")) else data

    def get(self, path: str) -> Any:
        """GET."""
        return self.request("GET", path)

    def patch(self, path: str, body: object) -> Any:
        """Merge patch."""
        return self.request("PATCH", path, body, MERGE)

    def watch(self, path: str, seconds: int = 300, **query: str) -> Iterator[dict[str, Any]]:
        """Events of a collection until the server ends the watch; needs a connection of its own.

        Raises ApiError, or OSError without a connection.
        """
        words = {"watch": "1", "timeoutSeconds": str(seconds), **query}
        connection = self._connect(timeout=seconds + 10)
        try:
            connection.request("GET", f"{path}?{urlencode(words)}", headers=self._headers())
            answer = connection.getresponse()
            if answer.status >= 300:
                raise ApiError("WATCH", path, answer.status, answer.read().decode())
            while line := answer.readline():
                yield json.loads(line)
        except http.client.HTTPException as error:
            raise ConnectionError(f"WATCH {path}: {error!r}") from error
        finally:
            connection.close()

    def _send(
        self, method: str, path: str, text: str | None, content_type: str
    ) -> http.client.HTTPResponse:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect(timeout=30)
        headers = self._headers() | {"Content-Type": content_type}
        connection.request(method, path, text, headers)
        answer: http.client.HTTPResponse = connection.getresponse()
        return answer

    def _connect(self, timeout: float) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(*self._address, timeout=timeout, context=self._tls)

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}", "User-Agent": self.agent}

    def _drop(self) -> None:
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None
