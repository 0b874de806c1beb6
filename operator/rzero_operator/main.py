"""Wires the operator together: kopf's watches wake the queue, workers reconcile, a resync finds
what the watches missed.

Kopf is the source of events and nothing else: no handler of it changes an object, so it keeps no
state in annotations, and adds no finalizer.
"""

import asyncio
import logging
import random
import signal
from collections.abc import Coroutine, Sequence
from typing import Any

import kopf

from rzero_core.run import API_VERSION
from rzero_operator import preflight
from rzero_operator.cluster import PLURAL, ApiError, Cluster
from rzero_operator.health import Health
from rzero_operator.jobs import RUN_LABEL
from rzero_operator.leader import Leadership
from rzero_operator.metrics import Metrics
from rzero_operator.queue import RunKey, WorkQueue
from rzero_operator.reconciler import Conflict, Reconciler, needs_a_look
from rzero_operator.server import http_server
from rzero_operator.settings import Settings
from rzero_operator.watches import kopf_settings, registry

PREFLIGHT_PAUSE = 3.0
"""Seconds between two looks at a cluster that is not ready for the operator."""
log = logging.getLogger(__name__)


class Operator:
    """One operator process."""

    def __init__(self, settings: Settings, cluster: Cluster, metrics: Metrics) -> None:
        self.settings = settings
        self.cluster = cluster
        self.metrics = metrics
        self.queue = WorkQueue()
        self.health = Health(settings.resync_seconds, lambda: self.queue.oldest_age)
        self.reconciler = Reconciler(cluster, settings.stage_defaults, metrics)
        self.leadership = Leadership(
            elected=settings.leader_election, on_end=self.reconciler.forget_all
        )
        self.ready = asyncio.Event()
        """Set when the watches have begun."""
        self._stirred: set[RunKey] = set()
        metrics.watch_queue(lambda: self.queue.depth, lambda: self.queue.oldest_age)

    async def run(self) -> None:
        """Work until SIGTERM or SIGINT, or until a part fails, which ends the process."""
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        port = self.settings.http_port
        async with http_server(port, self.health, self.metrics, self.ready.is_set) as port:
            log.info("serving /livez, /readyz and /metrics on port %d", port)
            await _until_one_ends([stop.wait(), self._prepare()])
            if stop.is_set():
                return
            try:
                await _until_one_ends(self._parts(stop))
            finally:
                # No worker writes any more.
                if self.settings.leader_election:
                    await self.leadership.release(self.cluster.client, self.settings)

    async def _prepare(self) -> None:
        """Wait, alive but not ready, until the cluster has what all runs need."""
        while (obstacle := await preflight.obstacle(self.cluster, self.settings)) is not None:
            log.error("%s", obstacle)
            self.health.ticked()
            await asyncio.sleep(PREFLIGHT_PAUSE)

    def _parts(self, stop: asyncio.Event) -> list[Coroutine[Any, Any, object]]:
        settings = self.settings
        parts: list[Coroutine[Any, Any, object]] = [
            stop.wait(),
            self._watch(),
            self._resync(),
            *(self.queue.work(self._handle) for _ in range(settings.workers)),
        ]
        if settings.leader_election:
            parts.append(self.leadership.campaign(self.cluster.client, settings))
            parts.append(self._take_over())
        return parts

    async def _watch(self) -> None:
        """Watch until a signal: kopf takes those for itself once it runs, and returns on them."""
        await kopf.operator(
            registry=registry(self._on_run, self._on_child),
            settings=kopf_settings(),
            clusterwide=not self.settings.namespaces,
            namespaces=self.settings.namespaces,
            standalone=True,
            ready_flag=self.ready,
        )

    async def _on_run(self, event: kopf.RawEvent, **_: Any) -> None:
        metadata = event["object"]["metadata"]
        uid, version = metadata["uid"], metadata["resourceVersion"]
        self.metrics.watch_event(PLURAL)
        key = RunKey(metadata["namespace"], metadata["name"])
        if event["type"] == "DELETED":
            self.health.deleted(uid)
        else:
            self.health.delivered(uid, version)
            if self.reconciler.written.get(key) == version:
                return  # Our own write: nothing happened that we do not know.
        self._stir(key)

    async def _on_child(self, event: kopf.RawEvent, resource: kopf.Resource, **_: Any) -> None:
        metadata = event["object"]["metadata"]
        self.metrics.watch_event(resource.plural)
        run = (metadata.get("labels") or {}).get(RUN_LABEL)
        if run:
            self._stir(RunKey(metadata["namespace"], run))

    def _stir(self, key: RunKey) -> None:
        self._stirred.add(key)
        self.queue.add(key)

    async def _handle(self, key: RunKey) -> None:
        """Reconcile one run; every end of it is counted, and its errors come back later."""
        stirred = key in self._stirred
        self._stirred.discard(key)
        if not self.leadership.leads:
            return
        began = asyncio.get_running_loop().time()
        (outcome,) = await asyncio.gather(
            self.reconciler.reconcile(key, stirred=stirred), return_exceptions=True
        )
        result = self._conclude(key, outcome)
        self.metrics.reconciled(result, asyncio.get_running_loop().time() - began)
        if not self.leadership.leads:
            # Lost meanwhile: what this look has left would stay for ever.
            self.reconciler.forget(key)

    def _conclude(self, key: RunKey, outcome: float | BaseException | None) -> str:
        """When to look at the run again, after a look that ended like this. Names the end."""
        fields = {"namespace": key.namespace, "run": key.name}
        match outcome:
            case Conflict():
                self._stir(key)
                return "conflict"
            case ApiError():
                self._stirred.add(key)
                pause = self.queue.retry(key, outcome.retry_after)
                log.warning("%s; again in %.1f s", outcome, pause, extra=fields)
                return "error"
            case BaseException():
                # A mistake of ours about one run must not stop the others; it is told and counted.
                self._stirred.add(key)
                self.queue.retry(key)
                log.error("reconciling failed", extra=fields, exc_info=outcome)
                return "error"
            case _:
                self.queue.forget_errors(key)
                if outcome is not None:
                    self.queue.add_after(key, outcome)
                return "ok"

    async def _resync(self) -> None:
        """Look at every run that has not ended, spread over each period."""
        period = self.settings.resync_seconds
        while True:
            await asyncio.sleep(period * random.uniform(0.9, 1.1))
            self.health.ticked()
            try:
                await self._list_all(period)
            except ApiError as error:
                log.warning("resync: %s", error)

    async def _list_all(self, spread: float, *, ended: bool = False) -> None:
        """Queue the runs to be looked at within `spread` seconds; those that ended where asked."""
        uids: set[str] = set()
        known, gone = self.health.known, set(self.reconciler.written)
        for namespace in self.settings.namespaces or (None,):
            async for run in self.cluster.runs(namespace):
                metadata = run["metadata"]
                # A long list is no reason to restart the operator.
                self.health.ticked()
                uids.add(metadata["uid"])
                self.health.listed(metadata["uid"], metadata["resourceVersion"])
                key = RunKey(metadata["namespace"], metadata["name"])
                gone.discard(key)
                if ended or needs_a_look(run):
                    self.queue.add_after(key, random.uniform(0.0, spread / 2))
        # Deleted while no watch was there to tell: their gauges must vanish.
        for key in gone:
            self.queue.add(key)
        self.health.resynced(uids, known)

    async def _take_over(self) -> None:
        """Look at all runs when this replica begins to lead: also those that ended have gauges."""
        gained = self.leadership.gained
        while True:
            await gained.wait()
            gained.clear()
            try:
                await self._list_all(1.0, ended=True)
            except ApiError as error:
                log.warning("taking over: %s", error)
                await asyncio.sleep(1.0)
                if self.leadership.leads:
                    gained.set()


async def _until_one_ends(parts: Sequence[Coroutine[Any, Any, object]]) -> None:
    """Run parts side by side until one ends, then end the others; raises what it raised."""
    tasks = [asyncio.create_task(part) for part in parts]
    ended, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    for task in ended:
        task.result()


async def serve(settings: Settings) -> None:
    """Run the operator until it is told to stop."""
    metrics = Metrics()
    async with Cluster(metrics) as cluster:
        log.info(
            "serving %s in %s",
            API_VERSION,
            ", ".join(settings.namespaces) or "all namespaces",
        )
        await Operator(settings, cluster, metrics).run()
