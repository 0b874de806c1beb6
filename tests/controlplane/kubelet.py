"""The part of a kubelet that the API server asks for logs, on behalf of the fake nodes."""

import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.cluster.control_plane import ControlPlane
from tests.cluster.pki import write_client_certificate

Lines = Callable[[str, str], Sequence[str] | None]
"""Pod and container to lines; None: the container has not started."""


@contextmanager
def logs_served(
    cluster: ControlPlane, folder: Path, lines: Lines, nodes: Sequence[str] = ("fake-0", "fake-1")
) -> Iterator[None]:
    """Let `pods/log` of pods on these nodes answer, through the real API server."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # /containerLogs/NAMESPACE/POD/CONTAINER?…
            _, _, pod, container = self.path.partition("?")[0].strip("/").split("/")
            found = lines(pod, container)
            if found is None:
                text = f'container "{container}" in pod "{pod}" is waiting to start: Pulling'
                self.send_response(400)
                self.end_headers()
                self.wfile.write(text.encode())
                return
            self.send_response(200)
            self.end_headers()
            for line in found:
                self.wfile.write(f"{line}\n".encode())
                self.wfile.flush()
                time.sleep(0.02)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    certificate, key = folder / "kubelet.crt", folder / "kubelet.key"
    write_client_certificate(certificate, key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    status = {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": server.server_port}},
    }
    for node in nodes:
        cluster.api().patch(f"/api/v1/nodes/{node}/status", {"status": status})
    try:
        yield
    finally:
        for node in nodes:
            change = {"status": {"addresses": None, "daemonEndpoints": None}}
            cluster.api().patch(f"/api/v1/nodes/{node}/status", change)
        server.shutdown()
        server.server_close()
