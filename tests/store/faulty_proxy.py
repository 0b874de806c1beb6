"""A proxy between an S3 client and a real server that does to answers what networks do to them."""

import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

BUSY = b"<Error><Code>SlowDown</Code><Message>reduce your request rate</Message></Error>"


@dataclass
class Fault:
    """What happens to the next `times` requests whose method and path match."""

    kind: str
    """busy: answered 503, never forwarded · reset: the connection breaks before the server hears
    of it · swallow: forwarded, then the connection breaks · truncate: half the body, then the end ·
    flip: one byte of the body is wrong."""
    method: str
    path: str
    """A regular expression."""
    times: int = 1
    happened: int = 0


@dataclass
class FaultyProxy:
    """A running proxy."""

    endpoint: str
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    """Method and path of all requests, as they came."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    on_request: Callable[[str], None] = lambda request: None

    def fault_for(self, method: str, path: str) -> str | None:
        with self.lock:
            self.requests.append(f"{method} {path}")
            self.on_request(f"{method} {path}")
            for fault in self.faults:
                matches = fault.method == method and re.search(fault.path, path)
                if matches and fault.happened < fault.times:
                    fault.happened += 1
                    return fault.kind
        return None


@contextmanager
def faulty_proxy(server: str) -> Iterator[FaultyProxy]:
    """Start a proxy for the server at this URL, and stop it."""
    handler = type("Handler", (_Handler,), {"upstream": urlsplit(server).netloc})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listener:
        listener.daemon_threads = True
        proxy = FaultyProxy(f"http://127.0.0.1:{listener.server_address[1]}")
        handler.proxy = proxy  # type: ignore[attr-defined]
        thread = threading.Thread(target=listener.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield proxy
        finally:
            listener.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    upstream: str
    proxy: FaultyProxy

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind = self.proxy.fault_for(self.command, self.path)
        if kind == "busy":
            self._answer(503, [("Content-Type", "application/xml")], BUSY)
            return
        if kind == "reset":
            self._reset()
            return
        connection = HTTPConnection(self.upstream, timeout=60)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in {"expect", "connection"}:
                connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        if kind == "swallow":
            self._reset()
        elif kind == "truncate":
            self._answer(answer.status, _headers(answer), data[: len(data) // 2], len(data))
            self._reset()
        elif kind == "flip":
            middle = len(data) // 2
            data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
            self._answer(answer.status, _headers(answer, checksums=False), data)
        else:
            length = int(answer.headers.get("Content-Length") or 0)
            self._answer(answer.status, _headers(answer), data, max(length, len(data)))

    def _answer(
        self, status: int, headers: list[tuple[str, str]], data: bytes, length: int | None = None
    ) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def _reset(self) -> None:
        self.close_connection = True
        # With no time to linger, closing the socket sends RST.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.shutdown(socket.SHUT_RD)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _headers(answer: HTTPResponse, checksums: bool = True) -> list[tuple[str, str]]:
    return [
        (name, value)
        for name, value in answer.getheaders()
        if name.lower() not in {"content-length", "connection", "transfer-encoding"}
        and (checksums or not name.lower().startswith("x-amz-checksum"))
    ]
