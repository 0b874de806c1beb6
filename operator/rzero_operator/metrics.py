"""Serves what the operator knows as Prometheus metrics: its runs, its queue, its requests.

Gauges of a run exist as long as the operator knows the run. Everything else counts since the
operator began, as Prometheus expects.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from importlib.metadata import version
from threading import Lock
from typing import NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from rzero_core.run import RunSpec, Stage
from rzero_core.status import RunStatus, StageState, StageStatus
from rzero_operator.run_gauges import GAUGES, Sample, samples

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
"""Of what `Metrics.render` returns."""
RESULTS = ("ok", "conflict", "error")
"""Ends of a reconcile: done, to be done again on a newer object, failed."""

_RECONCILE_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_GAP_SECONDS = (0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 30, 60, 300)
_STAGE_SECONDS = (5, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 28800, 86400)
_OUTCOMES = {StageState.DONE: "succeeded", StageState.FAILED: "failed"}

_StageKey = tuple[int, Stage, int]


class _Run(NamedTuple):
    """What is kept of a run between two reconciles."""

    samples: list[Sample]
    ended: frozenset[_StageKey]


class _RunCollector(Collector):
    """Gauges of the runs that are there now."""

    def __init__(self) -> None:
        self._runs: dict[tuple[str, str], _Run] = {}
        self._lock = Lock()

    def put(self, namespace: str, name: str, run: _Run) -> _Run | None:
        """What was kept of the run before."""
        with self._lock:
            old = self._runs.get((namespace, name))
            self._runs[namespace, name] = run
            return old

    def drop(self, namespace: str, name: str) -> None:
        with self._lock:
            self._runs.pop((namespace, name), None)

    def clear(self) -> None:
        with self._lock:
            self._runs.clear()

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return _families().values()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        families = _families()
        with self._lock:
            runs = sorted(self._runs.items())
        for (namespace, name), run in runs:
            for gauge, labels, value in run.samples:
                families[gauge].add_metric((namespace, name, *labels), value)
        yield from families.values()


class Metrics:
    """All metrics of one operator process, in a registry of their own."""

    def __init__(self) -> None:
        # Series of the library's own that say when each counter began: nobody asks for them.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._runs = _RunCollector()
        self.registry.register(self._runs)
        ProcessCollector(registry=self.registry)
        Info("rzero_build", "Version of the operator.", registry=self.registry).info(
            {"version": version("rzero")}
        )
        self._reconciles = self._counter("rzero_reconcile", "Reconciles by their end.", "result")
        for result in RESULTS:
            # From 0 on, or the first error would be no increase.
            self._reconciles.labels(result)
        self._reconcile_seconds = self._histogram(
            "rzero_reconcile_duration_seconds", "Time of one reconcile.", _RECONCILE_SECONDS
        )
        self._stage_seconds = self._histogram(
            "rzero_stage_duration_seconds",
            "Time from the first attempt of a stage to its end.",
            _STAGE_SECONDS,
            "stage",
            "outcome",
        )
        self._gap_seconds = self._histogram(
            "rzero_stage_gap_seconds",
            "Time from the end of a stage's pod to the creation of the next Job.",
            _GAP_SECONDS,
        )
        self._api_requests = self._counter(
            "rzero_api_requests", "Requests to the Kubernetes API.", "verb", "code"
        )
        self._queue_depth = self._gauge("rzero_workqueue_depth", "Runs that wait in the queue.")
        self._queue_age = self._gauge(
            "rzero_workqueue_oldest_age_seconds", "Time that the first of them has been due."
        )
        self._watch_events = self._gauge(
            "rzero_watch_last_event_timestamp_seconds",
            "When the watch of a resource last brought an event.",
            "resource",
        )

    def seen(self, namespace: str, name: str, spec: RunSpec, status: RunStatus) -> None:
        """Take in a run as a reconcile left it.

        A stage is timed when it ends between two calls; what ended before the first is not, or
        a new operator would count it again.
        """
        entries = {
            (group.iteration, entry.stage, entry.round): entry
            for group in status.iterations
            for entry in group.stages
        }
        ended = frozenset(key for key, entry in entries.items() if entry.state in _OUTCOMES)
        old = self._runs.put(namespace, name, _Run(samples(spec, status), ended))
        for key in ended - old.ended if old is not None else ():
            entry = entries[key]
            if (seconds := _seconds(entry)) is not None:
                self._stage_seconds.labels(entry.stage, _OUTCOMES[entry.state]).observe(seconds)

    def gone(self, namespace: str, name: str) -> None:
        """The run was deleted: its gauges vanish."""
        self._runs.drop(namespace, name)

    def clear(self) -> None:
        """Another replica leads and shows the runs: the gauges of all of them vanish here."""
        self._runs.clear()

    def reconciled(self, result: str, seconds: float) -> None:
        """A reconcile ended; `result` is one of `RESULTS`."""
        self._reconciles.labels(result).inc()
        self._reconcile_seconds.observe(seconds)

    def gap(self, seconds: float) -> None:
        """So long after the end of a stage's pod the next Job was created."""
        self._gap_seconds.observe(seconds)

    def api_request(self, verb: str, code: int | str) -> None:
        """The API server answered with an HTTP status, or an error's name stands for it."""
        self._api_requests.labels(verb, str(code)).inc()

    def watch_event(self, resource: str) -> None:
        """The watch of `resource` (a plural, such as jobs) brought an event now."""
        self._watch_events.labels(resource).set(time.time())

    def watch_queue(self, depth: Callable[[], float], oldest_age: Callable[[], float]) -> None:
        """Ask the queue at each scrape: how many wait, and how long (s) the first has been due."""
        self._queue_depth.set_function(depth)
        self._queue_age.set_function(oldest_age)

    def render(self) -> bytes:
        """The page of a scrape, of `CONTENT_TYPE`. Safe to call from any thread."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)


def _families() -> dict[str, GaugeMetricFamily]:
    return {
        name: GaugeMetricFamily(name, gauge.help, labels=("namespace", "run", *gauge.labels))
        for name, gauge in GAUGES.items()
    }


def _seconds(entry: StageStatus) -> float | None:
    if entry.started_at is None or entry.finished_at is None:
        return None
    began, ended = map(datetime.fromisoformat, (entry.started_at, entry.finished_at))
    return (ended - began).total_seconds()
