"""Brings one run a step further: reads it, decides, reserves in its status, acts.

Nothing that matters is kept between two calls, so a call may end between any two requests and the
next one, by this operator or another, goes on from what the API server holds.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from rzero_core.run import CoEvolutionRun
from rzero_core.status import Condition, RunStatus, StageState
from rzero_core.task import BadConfiguration, RunRef
from rzero_core.wire import explain
from rzero_operator.cluster import ApiError, Cluster, Object
from rzero_operator.conditions import TERMINAL, rfc3339
from rzero_operator.decision import (
    Attempt,
    Decision,
    Event,
    RunIdentity,
    StartAttempt,
    StopAttempt,
)
from rzero_operator.events import event
from rzero_operator.jobs import RESUME_ANNOTATION, RETRY_ANNOTATION, render, selector
from rzero_operator.metrics import Metrics
from rzero_operator.observe import finished_at, observe, one_line
from rzero_operator.plan import decide
from rzero_operator.pods import StageDefaults
from rzero_operator.queue import RunKey
from rzero_operator.refusals import failed, refused, waiting
from rzero_operator.repair import repair
from rzero_operator.tasks import Step

LOOK_AGAIN = 10.0
"""Seconds until the next look at an attempt that cannot go on, or has no pods yet."""
log = logging.getLogger(__name__)


class Conflict(Exception):
    """The run changed while it was decided about; it must be read again."""


@dataclass(frozen=True)
class _Seen:
    """A run and what belongs to it, as the API server showed it."""

    raw: Object
    identity: RunIdentity
    status: RunStatus
    jobs: list[Object]
    pods: list[Object]
    attempts: list[Attempt]


@dataclass
class Reconciler:
    """Looks at one run at a time, and does what the plan says."""

    cluster: Cluster
    defaults: StageDefaults
    metrics: Metrics
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    _podless: dict[RunKey, set[str]] = field(default_factory=dict)
    """UIDs of Jobs that had no pods at the last look. Only says when to ask why."""
    _unable: Counter[RunKey] = field(default_factory=Counter)
    """Errors of the server in a row at the creation of an attempt's objects."""
    written: dict[RunKey, str] = field(default_factory=dict)
    """All runs that were looked at, with the resource version of the last status written: the watch
    will tell of that one, needlessly."""

    async def reconcile(self, key: RunKey, *, stirred: bool) -> float | None:
        """Seconds until the next look, None when only a change should cause one.

        `stirred`: something is known to have happened; else the pods of a Job whose own status
        says that all of them run are not listed. Raises `ApiError` and `Conflict`.
        """
        raw = await self.cluster.run(key)
        if raw is None or raw["metadata"].get("deletionTimestamp"):
            self.forget(key)
            return None
        self.written.setdefault(key, "")
        try:
            manifest = CoEvolutionRun.parse({k: v for k, v in raw.items() if k != "status"})
        except ValidationError as error:
            await self._tell_invalid(raw, explain(error))
            return None
        seen = await self._see(raw, manifest, stirred)
        decision = decide(seen.identity, manifest.spec, seen.status, seen.attempts, self.clock())
        status, stuck = await self._carry_out(seen, manifest, decision)
        self.metrics.seen(*key, manifest.spec, status)
        waits = [decision.requeue_after] if decision.requeue_after is not None else []
        if stuck or key in self._podless:
            waits.append(LOOK_AGAIN)
        return min(waits, default=None)

    def forget(self, key: RunKey) -> None:
        """The run is gone, or another replica's: nothing is kept of it, and its gauges vanish."""
        self.metrics.gone(*key)
        self.written.pop(key, None)
        self._podless.pop(key, None)
        self._unable.pop(key, None)

    def forget_all(self) -> None:
        """All runs are another replica's."""
        self.metrics.clear()
        self.written.clear()
        self._podless.clear()
        self._unable.clear()

    async def _see(self, raw: Object, manifest: CoEvolutionRun, stirred: bool) -> _Seen:
        metadata = raw["metadata"]
        identity = RunIdentity(
            RunRef(name=metadata["name"], namespace=metadata["namespace"], uid=metadata["uid"]),
            metadata.get("generation", 0),
            retry=_annotation(raw, RETRY_ANNOTATION),
            resume=_annotation(raw, RESUME_ANNOTATION),
        )
        status = _status_of(raw)
        proven = repair(identity.ref, manifest.spec, status)
        jobs = await self.cluster.jobs(identity.ref.namespace, selector(identity))
        open_jobs = [
            job
            for job, attempt in _pairs(identity, jobs)
            if not _is_done(proven, attempt.step) and (stirred or not _all_run(job))
        ]
        pods, events = await self._pods_and_warnings(identity, open_jobs)
        return _Seen(raw, identity, status, jobs, pods, observe(identity, jobs, pods, events))

    async def _pods_and_warnings(
        self, identity: RunIdentity, jobs: Sequence[Object]
    ) -> tuple[list[Object], list[Object]]:
        """The pods of some Jobs, and why a Job that had none at two looks has none."""
        namespace = identity.ref.namespace
        key = RunKey(namespace, identity.ref.name)
        if not jobs:
            self._podless.pop(key, None)
            return [], []
        names = ",".join(job["metadata"]["name"] for job in jobs)
        chosen = f"{selector(identity)},batch.kubernetes.io/job-name in ({names})"
        pods = await self.cluster.pods(namespace, chosen)
        owners = {
            reference["uid"]
            for pod in pods
            for reference in pod["metadata"].get("ownerReferences") or ()
        }
        podless = {
            job["metadata"]["uid"]
            for job in jobs
            # One that a queue holds back has none, as it should: the watch tells when it lets go.
            if not (_has_ended(job) or job["spec"].get("suspend"))
        } - owners
        events: list[Object] = []
        for uid in sorted(podless & self._podless.pop(key, set())):
            events += await self.cluster.warnings(namespace, uid)
        if podless:
            self._podless[key] = podless
        return pods, events

    async def _carry_out(
        self, seen: _Seen, manifest: CoEvolutionRun, decision: Decision
    ) -> tuple[RunStatus, bool]:
        """Reserve, then act, then tell.

        Returns the status that was written, and whether the server refused to start an attempt.
        """
        reserved = any(_is_reserved(seen.status, action) for action in decision.actions)
        if not reserved:
            await self._write(seen.raw, seen.status, decision.status)
        refusals = await self._act(seen, manifest, decision)
        attempts = [*seen.attempts, *refusals]
        events = decision.events
        if reserved:
            # An earlier call reserved it, and the server may have refused that one the same way:
            # then nothing is new, and nothing is written or told again.
            if refusals:
                decision = decide(seen.identity, manifest.spec, seen.status, attempts, self.clock())
            await self._write(seen.raw, seen.status, decision.status)
            events = decision.events
        elif refusals:
            decision = await self._take_in(seen, manifest, decision.status, attempts)
            events += decision.events
        self._log(seen.identity, decision.status, events)
        for item in events:
            await self._post(seen, item)
        return decision.status, bool(refusals)

    async def _act(
        self, seen: _Seen, manifest: CoEvolutionRun, decision: Decision
    ) -> list[Attempt]:
        """Start and stop attempts; those that the server refused to start."""
        refusals = []
        for action in decision.actions:
            match action:
                case StartAttempt():
                    refusal = await self._start(seen, manifest, action)
                    refusals += [refusal] if refusal is not None else []
                case StopAttempt():
                    await self._stop(seen, action.step, action.number)
        return refusals

    async def _take_in(
        self,
        seen: _Seen,
        manifest: CoEvolutionRun,
        status: RunStatus,
        attempts: Sequence[Attempt],
    ) -> Decision:
        """Write what the plan says to a start that the server refused."""
        fresh = await self.cluster.run(RunKey(seen.identity.ref.namespace, seen.identity.ref.name))
        if fresh is None or _status_of(fresh) != status:
            raise Conflict
        after = decide(seen.identity, manifest.spec, status, attempts, self.clock())
        await self._write(fresh, status, after.status)
        return after

    async def _write(self, raw: Object, before: RunStatus, after: RunStatus) -> None:
        if after == before and "status" in raw:
            return
        metadata = raw["metadata"]
        try:
            version = await self.cluster.write_status(raw, after.to_dict())
        except ApiError as error:
            if error.status in (404, 409):
                raise Conflict from error
            raise
        self.written[RunKey(metadata["namespace"], metadata["name"])] = version

    async def _start(
        self, seen: _Seen, manifest: CoEvolutionRun, start: StartAttempt
    ) -> Attempt | None:
        """Create the objects of an attempt; what the plan must know when the server refuses."""
        key = RunKey(seen.identity.ref.namespace, seen.identity.ref.name)
        try:
            items = render(seen.identity, manifest.spec, start, self.defaults)
        except BadConfiguration as error:
            return failed(start, str(error))
        for item in items:
            try:
                await self.cluster.create(item)
            except ApiError as error:
                if error.status == 409 and await self._is_ours(seen, item):
                    continue
                if error.status == 409:
                    message = f"a {item['kind']} {item['metadata']['name']} of another owner exists"
                    return waiting(start, "NameConflict", message)
                if error.status == 500:
                    self._unable[key] += 1
                refusal = refused(start, error, self._unable[key])
                if refusal is None:
                    raise
                return refusal
        self._unable.pop(key, None)
        end = finished_at(seen.pods)
        if end is not None:
            self.metrics.gap(max(0.0, (self.clock() - end).total_seconds()))
        return None

    async def _is_ours(self, seen: _Seen, item: Object) -> bool:
        """Whether the object of that name is the one that an earlier call created."""
        if item["kind"] != "Job":
            return True  # A Service of this run's UID in its name.
        found = await self.cluster.job(seen.identity.ref.namespace, item["metadata"]["name"])
        if found is None:
            raise Conflict
        owners = found["metadata"].get("ownerReferences") or ()
        return any(owner.get("uid") == seen.identity.ref.uid for owner in owners)

    async def _stop(self, seen: _Seen, step: Step, number: int) -> None:
        for job, attempt in _pairs(seen.identity, seen.jobs):
            if (attempt.step, attempt.number) == (step, number):
                metadata = job["metadata"]
                await self.cluster.delete_job(
                    metadata["namespace"], metadata["name"], metadata["uid"]
                )

    async def _post(self, seen: _Seen, told: Event) -> None:
        """An event that cannot be posted is not worth a retry of anything."""
        try:
            await self.cluster.create(event(seen.identity, told, self.clock()))
        except ApiError as error:
            log.warning("event %s was not posted: %s", told.reason, error)

    async def _tell_invalid(self, raw: Object, mistakes: Sequence[str]) -> None:
        """The server let a spec through that the operator cannot use: say so, and wait."""
        metadata, before = raw["metadata"], _status_of(raw)
        generation = metadata.get("generation", 0)
        stalled = Condition(
            type="Stalled",
            status="True",
            reason="InvalidSpec",
            message=one_line("; ".join(mistakes)),
            last_transition_time=rfc3339(self.clock()),
            observed_generation=generation,
        )
        others = [item for item in before.conditions if item.type != "Stalled"]
        old = [item for item in before.conditions if item.type == "Stalled"]
        if old and old[0].reason == "InvalidSpec" and old[0].message == stalled.message:
            return
        await self._write(raw, before, before.model_copy(update={"conditions": [*others, stalled]}))

    def _log(self, run: RunIdentity, status: RunStatus, events: Sequence[Event]) -> None:
        """`status`: as it was written, where the attempt is counted that an event tells of."""
        for told in events:
            fields: dict[str, Any] = {"namespace": run.ref.namespace, "run": run.ref.name}
            if told.step is not None:
                entry = status.find(*told.step)
                fields |= {
                    "iteration": told.step.iteration,
                    "stage": str(told.step.stage),
                    "attempt": entry.attempts if entry is not None else 0,
                }
            log.log(logging.WARNING if told.warning else logging.INFO, told.message, extra=fields)


def needs_a_look(raw: Object) -> bool:
    """Whether a run may have something to do: not one that ended and was not touched since."""
    status = raw.get("status") or {}
    metadata = raw["metadata"]
    return (
        status.get("phase") not in TERMINAL
        or status.get("observedGeneration") != metadata.get("generation")
        or _annotation(raw, RETRY_ANNOTATION) not in ("", status.get("lastRetry"))
        or _annotation(raw, RESUME_ANNOTATION) not in ("", status.get("lastResume"))
    )


def _annotation(raw: Object, name: str) -> str:
    value: str = (raw["metadata"].get("annotations") or {}).get(name, "")
    return value


def _status_of(raw: Object) -> RunStatus:
    """The status as it was written; an empty one where somebody wrote nonsense.

    Then every stage is begun again, and answers from its manifest.
    """
    try:
        return RunStatus.parse(raw.get("status") or {})
    except ValidationError as error:
        metadata = raw["metadata"]
        log.warning(
            "the status cannot be read and is made anew: %s",
            "; ".join(explain(error)),
            extra={"namespace": metadata["namespace"], "run": metadata["name"]},
        )
        return RunStatus()


def _pairs(identity: RunIdentity, jobs: Sequence[Object]) -> list[tuple[Object, Attempt]]:
    return [(job, attempt) for job in jobs for attempt in observe(identity, [job], [])]


def _is_done(status: RunStatus, step: Step) -> bool:
    entry = status.find(*step)
    return entry is not None and entry.state is StageState.DONE


def _all_run(job: Object) -> bool:
    """Whether a Job's own status says that its pods run and none has ended."""
    status = job.get("status") or {}
    active = status.get("active", 0)
    ended = status.get("succeeded", 0) + status.get("failed", 0) + status.get("terminating", 0)
    return active > 0 and status.get("ready", 0) == active and not ended


def _is_reserved(status: RunStatus, action: StartAttempt | StopAttempt) -> bool:
    """Whether an earlier call wrote down that it begins this attempt."""
    entry = status.find(*action.step)
    return (
        isinstance(action, StartAttempt)
        and entry is not None
        and entry.state is StageState.RUNNING
        and entry.attempts == action.task.attempt
    )


def _has_ended(job: Object) -> bool:
    conditions = (job.get("status") or {}).get("conditions") or ()
    return any(
        item["type"] in ("Complete", "Failed") and item["status"] == "True" for item in conditions
    )
