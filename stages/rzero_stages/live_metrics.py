"""Serves the progress of a stage as Prometheus metrics while it runs, on a port of its pod.

What outlives the stage is in its result, from which the operator exports its own metrics; here is
the curve inside a stage. Without `RZERO_METRICS_PORT` nothing is served.
"""

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Condition
from typing import TYPE_CHECKING, Any, NamedTuple

from rzero_core.task import BadConfiguration, StageTask
from rzero_stages import progress

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import GaugeMetricFamily

PORT_VARIABLE = "RZERO_METRICS_PORT"
LINGER_VARIABLE = "RZERO_METRICS_LINGER_SECONDS"
LINGER = 30.0
"""Seconds that a finished stage waits at most for its last figures to be fetched, if somebody has
fetched some; the variable says how long two scrapes take that are sure to come."""
LAST_SCRAPES = 2
"""After so many it need not wait longer: two, for Prometheus often runs in pairs."""

log = logging.getLogger(__name__)


class Series(NamedTuple):
    """A metric, what it says, and the figures of progress that it comes from: the first known."""

    name: str
    help: str
    figures: tuple[str, ...]


SERIES = (
    Series("rzero_stage_reward", "Mean reward of the last step.", ("reward",)),
    Series("rzero_stage_agreement_ratio", "Mean agreement on its questions.", ("agreement",)),
    Series(
        "rzero_stage_label_match_ratio", "Share of answers equal to the label.", ("rightShare",)
    ),
    Series(
        "rzero_stage_format_ratio",
        "Share of completions in the asked form.",
        ("validShare", "boxedShare"),
    ),
    Series("rzero_stage_repetition_penalty", "Mean repetition penalty.", ("repetition",)),
    Series("rzero_stage_kl_nats", "Divergence from the reference model.", ("kl",)),
    Series("rzero_stage_tokens_per_second", "Tokens sampled per second.", ("tokensPerSecond",)),
)
PROGRESS = "rzero_stage_progress_ratio"
GPU_MEMORY = "rzero_stage_gpu_memory_bytes"
STORAGE_REQUESTS = "rzero_storage_requests"
STORAGE_DURATION = "rzero_storage_request_duration_seconds"
LABELS = ("namespace", "run", "stage", "iteration", "shard")


@contextmanager
def served(task: StageTask, shard: int | None, environment: Mapping[str, str]) -> Iterator[None]:
    """Serve what the work within reports; after success linger for whoever fetches it.

    `BadConfiguration` when a variable is no number. A port that is taken costs the metrics only.
    """
    port = _number(environment, PORT_VARIABLE, 0)
    linger = _number(environment, LINGER_VARIABLE, LINGER)
    # Of the processes that train together on one machine, one has the port.
    if not port or environment.get("LOCAL_RANK", "0") != "0":
        yield
        return
    from prometheus_client import CollectorRegistry

    figures = _Figures(task, shard)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(figures)
    with _server(registry, int(port)) as is_up:
        with progress.heard_by(figures.take), _storage_watched(task, registry):
            yield
        if is_up:
            figures.await_scrapes(linger, expected=bool(environment.get(LINGER_VARIABLE)))


def _number(environment: Mapping[str, str], variable: str, default: float) -> float:
    text = environment.get(variable, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit()):
        raise BadConfiguration(f"{variable} must be a whole number, not {text!r}")
    return float(text)


class _Figures:
    """The newest figures of the stage, as a collector that knows how often it was asked."""

    def __init__(self, task: StageTask, shard: int | None) -> None:
        place = "" if shard is None else str(shard)
        self._labels = (
            task.run.namespace,
            task.run.name,
            str(task.stage),
            str(task.iteration),
            place,
        )
        self._values: dict[str, float] = {}
        self._scrapes = 0
        self._changed = Condition()

    def take(self, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """A line of progress. What it does not name keeps its value."""
        values = {PROGRESS: done / total if total else 1.0}
        for series in SERIES:
            for figure in series.figures:
                if figure in metrics:
                    values[series.name] = metrics[figure]
        with self._changed:
            self._values |= values

    def collect(self) -> Iterator["GaugeMetricFamily"]:
        """One scrape."""
        from prometheus_client.core import GaugeMetricFamily

        with self._changed:
            values = dict(self._values)
        if (used := _gpu_memory()) is not None:
            values[GPU_MEMORY] = used
        for name, value in values.items():
            family = GaugeMetricFamily(name, _HELP[name], labels=LABELS)
            family.add_metric(self._labels, value)
            yield family
        with self._changed:
            self._scrapes += 1
            self._changed.notify_all()

    def await_scrapes(self, seconds: float, expected: bool) -> None:
        """Until the last figures were fetched; at most so long, and no longer after SIGTERM.

        Not at all where nobody has asked so far, unless scrapes are `expected` and there are
        figures: waiting costs the run time, and perhaps GPUs.
        """
        if not self._scrapes and not (expected and self._values):
            return
        told = _Told()
        deadline = time.monotonic() + seconds
        with told, self._changed:
            enough = self._scrapes + LAST_SCRAPES
            while self._scrapes < enough and not told.yes and time.monotonic() < deadline:
                # A signal handler must not take the lock, so this looks again by itself.
                self._changed.wait(min(0.2, max(0.0, deadline - time.monotonic())))


_HELP = {series.name: series.help for series in SERIES} | {
    PROGRESS: "Share of the work of this stage that is done.",
    GPU_MEMORY: "Memory in use on the GPU of this process.",
}


class _Told:
    """Whether SIGTERM came: the stage is done, so it only cuts the waiting short."""

    def __init__(self) -> None:
        self.yes = False

    def __enter__(self) -> None:
        self._before = signal.signal(signal.SIGTERM, self._tell)

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def _tell(self, _number: int, _frame: Any) -> None:
        self.yes = True


@contextmanager
def _storage_watched(task: StageTask, registry: "CollectorRegistry") -> Iterator[None]:
    """Count requests to S3; of files and of datasets elsewhere there is nothing to count."""
    if not task.storage.uri.startswith("s3://"):
        yield
        return
    from prometheus_client import Counter, Histogram, disable_created_metrics

    from rzero_core import s3_client

    disable_created_metrics()  # type: ignore[no-untyped-call]
    requests = Counter(
        STORAGE_REQUESTS, "Requests to storage.", ("operation", "code"), registry=registry
    )
    durations = Histogram(
        STORAGE_DURATION,
        "Time of a request to storage, with its retries.",
        ("operation",),
        buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100),
        registry=registry,
    )

    def observe(operation: str, code: str, seconds: float) -> None:
        requests.labels(operation, code).inc()
        durations.labels(operation).observe(seconds)

    s3_client.observers.append(observe)
    try:
        yield
    finally:
        s3_client.observers.remove(observe)


@contextmanager
def _server(registry: "CollectorRegistry", port: int) -> Iterator[bool]:
    """A server of the registry while within; whether it could have the port."""
    from prometheus_client import start_http_server

    try:
        # A pod may have IPv6 addresses alone.
        everywhere = "::" if socket.has_dualstack_ipv6() else "0.0.0.0"
        server, thread = start_http_server(port, everywhere, registry)
    except OSError as error:
        log.warning("no metrics on port %d: %s", port, os.strerror(error.errno or 0))
        yield False
        return
    try:
        yield True
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _gpu_memory() -> float | None:
    """Bytes in use on this process's GPU; None where it has not begun to use one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    free, total = torch.cuda.mem_get_info()
    return float(total - free)
