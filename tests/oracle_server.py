"""An oracle on this machine: an OpenAI-compatible server that answers, or misbehaves, as told."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, str], bytes]
Answer = Callable[[dict[str, Any]], Reply]


USAGE = {"prompt_tokens": 100, "completion_tokens": 7}


def says(text: str, usage: Any = USAGE) -> Reply:
    """A reply of the protocol's form."""
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    body = {"choices": [choice], "usage": usage}
    return 200, {}, json.dumps(body).encode()


def asked(body: dict[str, Any]) -> str:
    """The question in a request."""
    return str(body["messages"][-1]["content"])


def legs(body: dict[str, Any]) -> Reply:
    """Solves "How many legs have 7 spiders?"."""
    found = re.search(r"\d+", asked(body))
    assert found is not None
    return says(f"Eight each, so \\boxed{{{8 * int(found[0])}}}.")


@contextmanager
def oracle_server(answer: Answer, port: int = 0) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Its base URL, and the requests that it got with their headers in lower case."""
    requests: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            headers = {name.lower(): value for name, value in self.headers.items()}
            requests.append(body | {"headers": headers, "path": self.path})
            try:
                code, extra, data = answer(body | {"headers": headers})
                self.send_response(code)
                for name, value in extra.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            """Keeps the test's output clean."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    server = Server(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", requests
    finally:
        server.shutdown()
        server.server_close()
