"""A kubelet for the stage pods on fake nodes: runs nothing, reports results as stages would.

with fake_stages(cluster, decide=lambda start: Outcome(exit_code=75)) as stages:
    ...
    assert [start.task.stage for start in stages.starts] == [...]
"""

import heapq
import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from tests.cluster.api import Api, ApiError
from tests.cluster.control_plane import ControlPlane
from tests.cluster.stage_results import MAIN, Outcome, Start, message_of, outcome_of, start_of

STRATEGIC = "application/strategic-merge-patch+json"
WORKERS = 4
RETRY_SECONDS = 0.3
SIGTERM_EXIT_CODE = 143

Decide = Callable[[Start], Outcome | None]


@dataclass
class _Pod:
    """What this node knows about a pod."""

    object: dict[str, Any]
    start: Start | None = None
    outcome: Outcome = field(default_factory=Outcome)
    began: str = ""
    stopping: bool = False
    ended: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def path(self) -> str:
        metadata = self.object["metadata"]
        return f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"


class FakeStages:
    """Moves stage pods through their life. `fake_stages()` makes one and ends it."""

    def __init__(
        self, api: Api, decide: Decide | None = None, seconds: float = 0.05, stop_seconds: float = 0
    ) -> None:
        """`decide` says how a pod ends; where it says None, the pod's annotations do.

        `seconds`: how long a stage takes unless told. `stop_seconds`: how long a deleted pod takes.
        """
        self.starts: list[Start] = []
        """All that began to run, in their order."""
        self.done: list[Start] = []
        """Those of them that ended well, in their order; the server knows it a moment earlier."""
        self.refused: list[str] = []
        """Pods that could not run a stage, and why."""
        self.decide = decide
        self._api = api
        self._seconds = seconds
        self._stop_seconds = stop_seconds
        self._pods: dict[str, _Pod] = {}
        self._counts: Counter[tuple[object, ...]] = Counter()
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._over = False
        self._threads = [threading.Thread(target=self._watch, daemon=True)]
        self._threads += [threading.Thread(target=self._work, daemon=True) for _ in range(WORKERS)]

    def start(self) -> None:
        """Begin to watch."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Leave all pods as they are."""
        with self._changed:
            self._over = True
            self._changed.notify_all()
        # The watch ends with its next event; it holds nothing, so nobody waits for it.
        for thread in self._threads[1:]:
            thread.join()

    def release(self, outcome: Outcome | None = None) -> None:
        """End all pods that hang, well or with `outcome`."""
        for pod in list(self._pods.values()):
            if pod.outcome.hang and not pod.ended:
                pod.outcome = outcome or Outcome()
                self._later(0, partial(self._end, pod))

    def _watch(self) -> None:
        while not self._over:
            try:
                # Without a resourceVersion the watch begins with all pods that exist.
                for event in self._api.watch("/api/v1/pods", labelSelector="rzero.dev/run-uid"):
                    if self._over:
                        return
                    self._see(event["type"], event["object"])
            except (ApiError, OSError, ValueError):
                time.sleep(RETRY_SECONDS)

    def _see(self, kind: str, seen: dict[str, Any]) -> None:
        if kind not in ("ADDED", "MODIFIED", "DELETED"):
            return
        uid = seen["metadata"]["uid"]
        if kind == "DELETED":
            self._pods.pop(uid, None)
            return
        if not seen["spec"].get("nodeName", "").startswith("fake-"):
            return
        pod = self._pods.get(uid)
        if pod is None:
            pod = self._pods[uid] = _Pod(seen)
            pod.ended = seen["status"].get("phase") in ("Succeeded", "Failed")
            if not pod.ended and "deletionTimestamp" not in seen["metadata"]:
                self._later(0, partial(self._begin, pod))
        pod.object = seen
        if "deletionTimestamp" in seen["metadata"] and not pod.stopping:
            pod.stopping = True
            self._later(self._stop_seconds, partial(self._delete, pod))

    def _begin(self, pod: _Pod) -> None:
        if pod.stopping or pod.ended:
            return
        if pod.start is None:
            try:
                start = start_of(pod.object)
            except (ValueError, StopIteration) as error:
                self.refused.append(f"{pod.path}: {error}")
                pod.outcome = Outcome(exit_code=64, message=f"the fake node cannot run it: {error}")
                self._end(pod)
                return
            with self._changed:
                self._counts[start.work] += 1
                number = self._counts[start.work]
                pod.start = start_of(pod.object, number)
            asked = self.decide(pod.start) if self.decide else None
            pod.outcome = asked or outcome_of(pod.start, self._seconds)
            pod.began = _now()
            # Last, for a test that sees a start may release the pod at once.
            self.starts.append(pod.start)
        if pod.outcome.seconds > 0 or pod.outcome.hang:
            self._patch(pod, _running(pod))
        if not pod.outcome.hang:
            self._later(pod.outcome.seconds, partial(self._end, pod))

    def _end(self, pod: _Pod) -> None:
        with pod.lock:
            if pod.ended:
                return
            message = message_of(pod.start, pod.outcome) if pod.start else pod.outcome.message
            self._patch(pod, _ended(pod, message or ""))
            pod.ended = True
            if pod.start is not None and not (pod.outcome.exit_code or pod.outcome.evicted):
                self.done.append(pod.start)

    def _delete(self, pod: _Pod) -> None:
        """End a deleted pod first, as a kubelet does: a Job waits for it to be over."""
        if not pod.ended:
            pod.outcome = Outcome(exit_code=SIGTERM_EXIT_CODE, message="")
            self._end(pod)
        self._api.request("DELETE", f"{pod.path}?gracePeriodSeconds=0")

    def _patch(self, pod: _Pod, status: dict[str, Any]) -> None:
        self._api.request("PATCH", f"{pod.path}/status", {"status": status}, STRATEGIC)

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        with self._changed:
            heapq.heappush(self._queue, (time.monotonic() + seconds, next(self._order), action))
            self._changed.notify()

    def _work(self) -> None:
        while (action := self._next()) is not None:
            try:
                action()
            except ApiError as error:
                # Gone in the meantime: nothing is left to do. All else may pass.
                if error.status != 404:
                    self._later(RETRY_SECONDS * random.uniform(1, 2), action)
            except OSError:
                self._later(RETRY_SECONDS * random.uniform(1, 2), action)

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            while not self._over:
                wait = self._queue[0][0] - time.monotonic() if self._queue else None
                if wait is not None and wait <= 0:
                    return heapq.heappop(self._queue)[2]
                self._changed.wait(wait)
        return None


@contextmanager
def fake_stages(
    cluster: ControlPlane,
    decide: Decide | None = None,
    seconds: float = 0.05,
    stop_seconds: float = 0,
) -> Iterator[FakeStages]:
    """Run the stage pods of all runs on fake nodes for a while; see `FakeStages`."""
    stages = FakeStages(cluster.api(agent="fake-stages"), decide, seconds, stop_seconds)
    stages.start()
    try:
        yield stages
    finally:
        stages.stop()


def _running(pod: _Pod) -> dict[str, Any]:
    state = {"running": {"startedAt": pod.began}}
    return {
        "phase": "Running",
        "startTime": pod.began,
        "podIP": "10.244.255.2",
        "podIPs": [{"ip": "10.244.255.2"}],
        "conditions": _conditions("True", "Initialized", "ContainersReady", "Ready"),
        **_containers(pod, lambda name: state, ready=True),
    }


def _ended(pod: _Pod, message: str) -> dict[str, Any]:
    outcome, now = pod.outcome, _now()
    failed = outcome.exit_code != 0 or outcome.evicted
    began = pod.began or now

    def state(name: str) -> dict[str, Any]:
        ended: dict[str, Any] = {"startedAt": began, "finishedAt": now, "exitCode": 0}
        ended["reason"] = "Completed"
        if name == MAIN:
            code = outcome.exit_code or (SIGTERM_EXIT_CODE if outcome.evicted else 0)
            reason = outcome.reason or ("Error" if failed else "Completed")
            ended |= {"exitCode": code, "reason": reason, "message": message}
        return {"running": None, "waiting": None, "terminated": ended}

    conditions = _conditions("False", "ContainersReady", "Ready", reason="PodCompleted")
    if outcome.evicted:
        conditions += _conditions("True", "DisruptionTarget", reason="TerminationByKubelet")
    return {
        "phase": "Failed" if failed else "Succeeded",
        "startTime": began,
        "conditions": conditions,
        **_containers(pod, state, ready=False),
    }


def _conditions(status: str, *types: str, reason: str = "") -> list[dict[str, str]]:
    at = _now()
    return [
        {"type": type, "status": status, "reason": reason, "lastTransitionTime": at}
        for type in types
    ]


def _containers(
    pod: _Pod, state: Callable[[str], dict[str, Any]], *, ready: bool
) -> dict[str, list[dict[str, Any]]]:
    """Statuses of all containers, sidecars among them."""
    return {
        f"{kind}Statuses": [
            {
                "name": container["name"],
                "image": container["image"],
                "imageID": "",
                "restartCount": 0,
                "ready": ready,
                "started": ready,
                "state": state(container["name"]),
            }
            for container in pod.object["spec"].get(f"{plural}", [])
        ]
        for kind, plural in (("container", "containers"), ("initContainer", "initContainers"))
    }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
