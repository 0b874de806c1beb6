"""Reads the logs of a run's stage pods, all shards together: `kubectl rzero logs`."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from queue import Empty, Queue
from threading import Thread

from rzero_core.run import Stage
from rzero_core.status import Phase, RunStatus
from rzero_operator.conditions import TERMINAL, message_of
from rzero_operator.connection import ClusterError, Connection, Object, status_of
from rzero_operator.jobs import ATTEMPT_LABEL, ITERATION_LABEL, RUN_UID_LABEL, STAGE_LABEL

LOOK_AGAIN = 1.0
"""Seconds between two looks for pods that were not there before."""
PATIENCE = 5
"""Looks without a pod until that is told: between two stages there is none."""
_JOB = "batch.kubernetes.io/job-name"
_INDEX = "batch.kubernetes.io/job-completion-index"
_NOT_STARTED = 400


@dataclass
class StageLogs:
    """The logs of one run."""

    connection: Connection
    run: str
    stage: Stage | None
    """None: the current one."""
    container: str
    _lines: Queue[str | ClusterError] = field(default_factory=Queue)
    _readers: dict[str, Thread] = field(default_factory=dict)
    """By the pod's UID."""
    _live: frozenset[str] = frozenset()
    """UIDs of pods that had not ended at the last look."""

    def read(self) -> Iterator[str]:
        """All lines that there are. Raises `ClusterError` when the pods are gone."""
        status, pods = self._look()
        if not pods:
            raise ClusterError(gone(self.run, status, self.stage))
        for pod in pods:
            before = prefix(pod)
            try:
                for line in self.connection.log(_name(pod), self.container, follow=False):
                    yield f"{before} {line}"
            except ClusterError as error:
                if error.status != _NOT_STARTED:
                    raise
                yield f"{before} {error}"

    def follow(self) -> Iterator[str]:
        """Lines as they come, of one stage after the other, until the run ends or is suspended."""
        looks = 0
        while True:
            status, pods = self._look()
            looks = 0 if pods else looks + 1
            self._live = frozenset(_uid(pod) for pod in pods if _is_live(pod))
            for pod in pods:
                if (uid := _uid(pod)) not in self._readers:
                    self._readers[uid] = Thread(target=self._follow_pod, args=(pod,), daemon=True)
                    self._readers[uid].start()
            reading = any(reader.is_alive() for reader in self._readers.values())
            yield from self._wait()
            if reading:
                continue
            if status.phase in TERMINAL or status.phase is Phase.SUSPENDED:
                if not self._readers:
                    raise ClusterError(gone(self.run, status, self.stage))
                return
            if looks == PATIENCE:
                yield gone(self.run, status, self.stage)

    def _look(self) -> tuple[RunStatus, list[Object]]:
        raw = self.connection.run(self.run)
        status = status_of(raw)
        pods = self.connection.pods(f"{RUN_UID_LABEL}={raw['metadata']['uid']}")
        return status, newest(pods, status, self.stage)

    def _wait(self) -> Iterator[str]:
        """What comes until the next look."""
        until = time.monotonic() + LOOK_AGAIN
        while (left := until - time.monotonic()) > 0:
            try:
                line = self._lines.get(timeout=left)
            except Empty:
                return
            if isinstance(line, ClusterError):
                raise line
            yield line

    def _follow_pod(self, pod: Object) -> None:
        """Read one log to its end; wait for a container that has not started, while it may."""
        before, told = prefix(pod), ""
        while True:
            try:
                for line in self.connection.log(_name(pod), self.container, follow=True):
                    self._lines.put(f"{before} {line}")
                return
            except ClusterError as error:
                if error.status in (401, 403):
                    self._lines.put(error)
                    return
                if told != (told := str(error)):
                    self._lines.put(f"{before} {told}")
                if _uid(pod) not in self._live:
                    return
            time.sleep(LOOK_AGAIN)


def newest(pods: list[Object], status: RunStatus, stage: Stage | None) -> list[Object]:
    """The pods of the newest attempt at a stage, by default the current one, in order of shards."""
    if stage is None and status.stage is not None:
        pods = [pod for pod in pods if _label(pod, ITERATION_LABEL) == str(status.iteration)]
        stage = status.stage
    if stage is not None:
        pods = [pod for pod in pods if _label(pod, STAGE_LABEL) == stage]
    if not pods:
        return []
    last = max(pods, key=lambda pod: (pod["metadata"]["creationTimestamp"], _label(pod, _JOB)))
    same = [pod for pod in pods if _label(pod, _JOB) == _label(last, _JOB)]
    return sorted(same, key=lambda pod: int(_index(pod) or 0))


def prefix(pod: Object) -> str:
    """`[i2 labelQuestions 7]`, with the attempt where it is not the first."""
    words = [f"i{_label(pod, ITERATION_LABEL)}", _label(pod, STAGE_LABEL)]
    words += [_index(pod)] if _index(pod) else []
    attempt = _label(pod, ATTEMPT_LABEL)
    words += [f"a{attempt}"] if attempt not in ("", "1") else []
    return f"[{' '.join(words)}]"


def gone(run: str, status: RunStatus, stage: Stage | None) -> str:
    """Why there may be no pod, with what the status still knows."""
    stage = stage or status.stage
    if stage is None and status.phase is Phase.PENDING:
        return f"run {run} has not begun; `kubectl rzero status {run}` tells when it has"
    of = f"{stage} of run {run}" if stage else f"run {run}, which is {status.phase}"
    words = f"no pod of {of} is there: it has not started, or is gone with its Job "
    words += "(spec.stages.*.ttlSecondsAfterFinished)"
    said = [
        entry.message
        for group in status.iterations
        for entry in group.stages
        if entry.stage is stage and entry.message
    ] or [message for kind in ("Stalled", "Failed") if (message := message_of(status, kind))]
    return f"{words}; it said: {said[-1]}" if said else words


def _label(pod: Object, name: str) -> str:
    return str((pod["metadata"].get("labels") or {}).get(name, ""))


def _index(pod: Object) -> str:
    return str((pod["metadata"].get("annotations") or {}).get(_INDEX, ""))


def _is_live(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Pending", "Running")


def _uid(pod: Object) -> str:
    return str(pod["metadata"]["uid"])


def _name(pod: Object) -> str:
    return str(pod["metadata"]["name"])
