"""Serves /livez, /readyz and /metrics over HTTP."""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from rzero_operator.health import Health
from rzero_operator.metrics import CONTENT_TYPE, Metrics


@asynccontextmanager
async def http_server(
    port: int, health: Health, metrics: Metrics, is_ready: Callable[[], bool]
) -> AsyncIterator[int]:
    """Serve until the context ends; gives the port, which the system chose if `port` is 0."""

    async def livez(_request: web.Request) -> web.Response:
        problem = health.problem()
        return web.Response(text=problem or "ok", status=503 if problem else 200)

    async def readyz(_request: web.Request) -> web.Response:
        ready = is_ready()
        return web.Response(text="ok" if ready else "starting", status=200 if ready else 503)

    async def scrape(_request: web.Request) -> web.Response:
        if not is_ready():
            # It does nothing for any run yet: the alert RZeroOperatorDown shall tell.
            return web.Response(text="starting", status=503)
        return web.Response(body=metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    app = web.Application()
    app.add_routes(
        [web.get("/livez", livez), web.get("/readyz", readyz), web.get("/metrics", scrape)]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        # Nothing secret is served, and the NetworkPolicy says who may ask.
        await web.SockSite(runner, _listener(port)).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def _listener(port: int) -> socket.socket:
    """A socket for all addresses of the pod, which may have IPv6 ones alone."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("0.0.0.0", port))
