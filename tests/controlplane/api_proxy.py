"""Stands between an operator and the API server, and breaks what a test tells it to break.

The operator under test is the real one, and so is the server: only the wire between them is ours.
"""

import asyncio
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from aiohttp import web

from tests.cluster.control_plane import ControlPlane

WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_OWN_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "connection"})


@dataclass(frozen=True)
class Asked:
    """One request of the operator."""

    method: str
    path: str
    watch: bool
    body: bytes = b""

    @property
    def is_write(self) -> bool:
        return self.method in WRITES and "dryRun=" not in self.path


@dataclass(frozen=True)
class Answer:
    """Answer this instead of the server."""

    status: int
    reason: str
    headers: Mapping[str, str] = field(default_factory=dict)


RESET = Answer(0, "the connection is reset")


@dataclass
class ApiProxy:
    """A proxy; the callbacks run in its thread, before and after the server sees a request."""

    loop: asyncio.AbstractEventLoop
    url: str = ""
    before: Callable[[Asked], Answer | None] = lambda _: None
    """May answer in place of the server; may kill the operator."""
    after: Callable[[Asked], Answer | None] = lambda _: None
    """The server has answered, the operator does not know yet; may lose or change the answer."""
    asked: list[Asked] = field(default_factory=list)
    silent: bool = False
    """Watches stay open and deliver nothing."""
    _streams: set[asyncio.Event] = field(default_factory=set)
    _gone: bool = False

    def cut_watches(self, *, gone: bool = False) -> None:
        """End all watches in the middle of a line, or (gone) with the error 410."""
        self._gone = gone
        for cut in list(self._streams):
            self.loop.call_soon_threadsafe(cut.set)

    async def handle(
        self, request: web.Request, session: aiohttp.ClientSession
    ) -> web.StreamResponse:
        watch, data = "watch=true" in request.query_string, await request.read()
        asked = Asked(request.method, request.path_qs, watch, data)
        self.asked.append(asked)
        answer = self.before(asked)
        if answer is not None:
            return _answer(request, answer)
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _OWN_HEADERS}
        try:
            async with session.request(
                request.method, request.path_qs, headers=headers, data=data or None
            ) as upstream:
                if asked.watch:
                    return await self._stream(request, upstream)
                data = await upstream.read()
                if (answer := self.after(asked)) is not None:
                    return _answer(request, answer)
                kept = {"Content-Type": upstream.headers.get("Content-Type", "text/plain")}
                return web.Response(body=data, status=upstream.status, headers=kept)
        except aiohttp.ClientConnectionError:
            # As a load balancer does while the server restarts.
            return web.Response(status=502, text="no server")

    async def _stream(
        self, request: web.Request, upstream: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=upstream.status)
        cut_event = asyncio.Event()
        await response.prepare(request)
        self._streams.add(cut_event)
        cut = asyncio.ensure_future(cut_event.wait())
        try:
            while True:
                chunk = asyncio.ensure_future(upstream.content.readany())
                await asyncio.wait({cut, chunk}, return_when=asyncio.FIRST_COMPLETED)
                if cut.done():
                    chunk.cancel()
                    upstream.close()
                    if self._gone:
                        await response.write(
                            b'{"type":"ERROR","object":{"kind":"Status","code":410,'
                            b'"reason":"Expired","message":"too old resource version"}}\n'
                        )
                    else:
                        await response.write(b'{"type":"ADD')
                        assert request.transport is not None
                        request.transport.abort()
                    return response
                data = chunk.result()
                if not data:
                    return response
                if not self.silent:
                    await response.write(data)
        finally:
            cut.cancel()
            self._streams.discard(cut_event)


def _answer(request: web.Request, answer: Answer) -> web.Response:
    if answer is RESET:
        assert request.transport is not None
        request.transport.abort()
    body = {"kind": "Status", "status": "Failure", "reason": answer.reason}
    return web.json_response(
        {**body, "message": answer.reason, "code": answer.status},
        status=answer.status or 500,
        headers=answer.headers,
    )


@contextmanager
def api_proxy(cluster: ControlPlane) -> Iterator[ApiProxy]:
    """Run a proxy in a thread of its own."""
    loop = asyncio.new_event_loop()
    proxy, started = ApiProxy(loop), threading.Event()

    async def serve(over: asyncio.Event) -> None:
        trust = ssl.create_default_context(cafile=str(cluster.ca))
        connector = aiohttp.TCPConnector(ssl=trust, limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(
            cluster.server, connector=connector, timeout=timeout, auto_decompress=True
        ) as session:
            app = web.Application(client_max_size=2**24)
            app.router.add_route("*", "/{path:.*}", lambda request: proxy.handle(request, session))
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            proxy.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            started.set()
            await over.wait()
            proxy.cut_watches()
            await runner.cleanup()

    over = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve(over)), daemon=True)
    thread.start()
    started.wait(10)
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(10)


def kubeconfig_through(proxy: ApiProxy, cluster: ControlPlane, path: Path) -> Path:
    """A kubeconfig of the cluster's admin whose server is the proxy."""
    text = cluster.kubeconfig.read_text().replace(cluster.server, proxy.url)
    lines = [line for line in text.splitlines() if "certificate-authority" not in line]
    path.touch(0o600)
    path.write_text("\n".join(lines) + "\n")
    return path
