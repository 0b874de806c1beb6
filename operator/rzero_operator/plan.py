"""Decides the next step of a run from what is declared and what is observed. Touches nothing.

The caller observes, calls `decide`, writes the status, and only then carries out the actions: an
attempt is reserved in the status before it starts. So the caller may die between any two of these
and decide again. No clock, no randomness, no input or output.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from rzero_core.run import RunSpec, Stage
from rzero_core.status import IterationStatus, Phase, RunStatus, StageState, StageStatus
from rzero_core.task import NEVER_RETRIED, StageResult
from rzero_operator.conditions import conditions, rfc3339
from rzero_operator.decision import (
    LIVE,
    Attempt,
    AttemptState,
    Decision,
    Event,
    RunIdentity,
    StartAttempt,
    StopAttempt,
)
from rzero_operator.tasks import OUTPUT, Step, build_task, done, shards_of, steps

FIRST_BACK_OFF = 10.0
"""Seconds between the first failure and the next attempt; doubles with each failure."""
LONGEST_BACK_OFF = 360.0


@dataclass(frozen=True)
class _Draft:
    """A decision in the making."""

    status: RunStatus
    message: str = ""
    actions: tuple[StartAttempt | StopAttempt, ...] = ()
    events: tuple[Event, ...] = ()
    requeue_after: float | None = None

    def tell(
        self, reason: str, message: str, step: Step | None = None, *, warning: bool = False
    ) -> "_Draft":
        return replace(self, events=(*self.events, Event(reason, message, warning, step)))

    def act(self, *actions: StartAttempt | StopAttempt) -> "_Draft":
        return replace(self, actions=(*self.actions, *actions))

    def put(self, **changes: object) -> "_Draft":
        return replace(self, status=self.status.model_copy(update=changes))


def decide(
    run: RunIdentity,
    spec: RunSpec,
    status: RunStatus,
    observed: Sequence[Attempt],
    now: datetime,
) -> Decision:
    """The next status and what to do. Same input, same output; after its actions, no more."""
    return _Decider(run, spec, tuple(observed), now, status.phase).decide(status)


def reopen(status: RunStatus) -> RunStatus:
    """A failed run made ready to go on, with fresh budgets, after somebody mended the cause."""
    if status.phase is not Phase.FAILED:
        return status
    draft = _Draft(status.model_copy(update={"phase": Phase.PENDING}))
    for group in status.iterations:
        for entry in group.stages:
            if entry.state is StageState.FAILED and entry.stage is not Stage.EVALUATE:
                fresh = {"state": StageState.WAITING, "failures": 0, "preemptions": 0}
                cleared = {"finished_at": None, "not_before": None, "message": None}
                draft = _put_entry(draft, group.iteration, entry.model_copy(update=fresh | cleared))
    return draft.status


@dataclass(frozen=True)
class _Decider:
    run: RunIdentity
    spec: RunSpec
    observed: tuple[Attempt, ...]
    now: datetime
    phase: Phase
    """Before this decision."""
    time: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "time", rfc3339(self.now))

    def decide(self, status: RunStatus) -> Decision:
        draft = _Draft(status)
        draft = self._stop_all(draft, None) if self._is_over(status) else self._advance(draft)
        draft = draft.put(
            observed_generation=self.run.generation,
            conditions=conditions(draft.status, draft.message, self.run.generation, self.time),
        )
        return Decision(draft.status, draft.actions, draft.events, draft.requeue_after)

    def _is_over(self, status: RunStatus) -> bool:
        """Terminal is terminal, but a run that succeeded goes on when its iterations grow."""
        reached = max((group.iteration for group in status.iterations), default=0)
        return status.phase is Phase.FAILED or (
            status.phase is Phase.SUCCEEDED and self.spec.iterations <= reached
        )

    def _advance(self, draft: _Draft) -> _Draft:
        """Settle step after step until one is live, waits, or none is left."""
        while (step := self._frontier(draft.status)) is not None:
            draft, live = self._settle(draft, step)
            entry = draft.status.find(*step)
            if live is not None:
                return self._go_on(self._stop_all(draft, keep=live), step, live)
            if entry is None or entry.state is StageState.WAITING:
                return self._begin(self._stop_all(draft, keep=None), step)
            if entry.state is StageState.FAILED and step.stage is not Stage.EVALUATE:
                return self._fail(self._stop_all(draft, keep=None), step, entry)
        draft = self._stop_all(draft, keep=None)
        draft = draft.put(
            phase=Phase.SUCCEEDED, stage=None, attempt=0, iteration=self.spec.iterations
        )
        message = f"all {self.spec.iterations} iterations are done"
        return replace(draft.tell("Succeeded", message), message=message)

    def _frontier(self, status: RunStatus) -> Step | None:
        """The first step that is not done; a failed evaluation is passed over."""
        for step in steps(self.spec, status):
            entry = status.find(*step)
            if entry is None or entry.state in (StageState.RUNNING, StageState.WAITING):
                return step
            if entry.state is StageState.FAILED and step.stage is not Stage.EVALUATE:
                return step
        return None

    def _settle(self, draft: _Draft, step: Step) -> tuple[_Draft, Attempt | None]:
        """Take in what is observed of a step: its results, else its live attempt, else its end."""
        seen = sorted((a for a in self.observed if a.step == step), key=lambda a: a.number)
        entry = draft.status.find(*step)
        newest = seen[-1].number if seen else 0
        if newest > (entry.attempts if entry else 0):
            # Begun by somebody whose status was lost: adopted.
            entry = entry or StageStatus(
                stage=step.stage, round=step.round, state=StageState.RUNNING, started_at=self.time
            )
            entry = entry.model_copy(update={"attempts": newest, "state": StageState.RUNNING})
        if entry is None:
            return draft, None
        for attempt in seen:
            results = self._results(attempt)
            if results:
                finished = done(entry, results, self.time)
                draft = _put_entry(draft, step.iteration, finished)
                return draft.tell("StageDone", f"{step}: done", step), None
        live = [attempt for attempt in seen if attempt.state in LIVE]
        if live:
            entry = entry.model_copy(update={"state": StageState.RUNNING})
            return _put_entry(draft, step.iteration, entry), live[-1]
        if entry.state is StageState.RUNNING:
            last = seen[-1] if seen and newest == entry.attempts else None
            return self._close_attempt(draft, step, entry, last), None
        return _put_entry(draft, step.iteration, entry), None

    def _results(self, attempt: Attempt) -> tuple[StageResult, ...]:
        """The results in the order of shards, or none if they do not prove the step done."""
        if attempt.state is not AttemptState.SUCCEEDED:
            return ()
        step, name = attempt.step, OUTPUT[attempt.step.stage]
        results = sorted(attempt.results, key=lambda result: result.shard or 0)
        expected = [None] if attempt.shards is None else list(range(attempt.shards))
        proven = [result.shard for result in results] == expected and all(
            result.run_uid == self.run.ref.uid
            and Step(result.iteration, result.stage, result.round) == step
            and name in result.outputs
            for result in results
        )
        return tuple(results) if proven else ()

    def _close_attempt(
        self, draft: _Draft, step: Step, entry: StageStatus, last: Attempt | None
    ) -> _Draft:
        """Count an attempt that ended without results; None: it vanished."""
        settings = self.spec.stages.of(step.stage)
        code = last.exit_code if last else None
        message = (last.message or f"exit code {code}") if last else "the attempt vanished"
        if last is not None and last.state is AttemptState.SUCCEEDED:
            message = "the attempt ended without a result"
        lost = last is None or last.preempted or last.state is AttemptState.SUCCEEDED
        failures, preemptions, state = entry.failures, entry.preemptions, StageState.WAITING
        not_before = None
        if code in NEVER_RETRIED:
            failures, state = failures + 1, StageState.FAILED
        elif self.phase is Phase.SUSPENDING:
            pass  # It stopped because it was asked to.
        elif lost:
            preemptions += 1
            if preemptions > settings.max_preemptions:
                state = StageState.FAILED
                message += f"; lost {preemptions} attempts, more than maxPreemptions allows"
        else:
            failures += 1
            if failures > settings.max_retries:
                state = StageState.FAILED
                message += f"; failed {failures} times, more than maxRetries allows"
            else:
                not_before = rfc3339(self.now + timedelta(seconds=_back_off(failures)))
        closed = entry.model_copy(
            update={
                "state": state,
                "failures": failures,
                "preemptions": preemptions,
                "not_before": not_before,
                "finished_at": self.time if state is StageState.FAILED else None,
                "message": message,
            }
        )
        draft = _put_entry(draft, step.iteration, closed)
        if state is StageState.WAITING and failures + preemptions == (
            entry.failures + entry.preemptions
        ):
            return draft.tell("AttemptStopped", f"{step}: attempt {entry.attempts} stopped", step)
        reason = "AttemptLost" if lost else (last.reason if last else "") or "AttemptFailed"
        told = f"{step}: attempt {entry.attempts}: {message}"
        return draft.tell(reason, told, step, warning=True)

    def _go_on(self, draft: _Draft, step: Step, live: Attempt) -> _Draft:
        """One attempt is live: let it run, or stop it when the run is suspended."""
        stopping = live.state is AttemptState.STOPPING
        phase = Phase.SUSPENDING if self.spec.suspend or stopping else Phase.RUNNING
        if self.spec.suspend and not stopping:
            draft = draft.act(StopAttempt(step, live.number))
        draft = draft.put(
            phase=phase, iteration=step.iteration, stage=step.stage, attempt=live.number
        )
        return replace(draft, message=f"{step}: attempt {live.number}")

    def _begin(self, draft: _Draft, step: Step) -> _Draft:
        """No attempt is live: reserve and start the next one when it is due."""
        entry = draft.status.find(*step) or StageStatus(
            stage=step.stage, round=step.round, state=StageState.WAITING
        )
        draft = draft.put(iteration=step.iteration, stage=step.stage, attempt=entry.attempts)
        if self.spec.suspend:
            if self.phase is not Phase.SUSPENDED:
                draft = draft.tell("Suspended", f"{step}: suspended", step)
            return replace(draft.put(phase=Phase.SUSPENDED), message=f"suspended before {step}")
        draft = draft.put(phase=Phase.RUNNING)
        if entry.not_before is not None:
            wait = (datetime.fromisoformat(entry.not_before) - self.now).total_seconds()
            if wait > 0:
                return replace(draft, requeue_after=wait, message=f"{step}: waits to retry")
        number = entry.attempts + 1
        reserved = entry.model_copy(
            update={
                "state": StageState.RUNNING,
                "attempts": number,
                "started_at": entry.started_at or self.time,
                "not_before": None,
            }
        )
        task = build_task(self.spec, draft.status, self.run.ref, step, number)
        draft = _put_entry(draft.put(attempt=number), step.iteration, reserved)
        draft = draft.act(
            StartAttempt(step, task, shards_of(task), self.spec.stages.of(step.stage))
        )
        message = f"{step}: attempt {number}"
        return replace(draft.tell("AttemptStarted", message, step), message=message)

    def _fail(self, draft: _Draft, step: Step, entry: StageStatus) -> _Draft:
        draft = draft.put(
            phase=Phase.FAILED,
            iteration=step.iteration,
            stage=step.stage,
            attempt=entry.attempts,
        )
        message = f"{step}: {entry.message}"
        return replace(draft.tell("Failed", message, step, warning=True), message=message)

    def _stop_all(self, draft: _Draft, keep: Attempt | None) -> _Draft:
        """Stop what runs beside the one attempt that may."""
        return draft.act(
            *(
                StopAttempt(attempt.step, attempt.number)
                for attempt in self.observed
                if attempt.state is AttemptState.RUNNING and attempt != keep
            )
        )


def _put_entry(draft: _Draft, iteration: int, entry: StageStatus) -> _Draft:
    """The draft with one stage of one iteration replaced or added; iterations in their order."""
    groups = {group.iteration: group for group in draft.status.iterations}
    group = groups.get(iteration) or IterationStatus(iteration=iteration)
    stages = list(group.stages)
    places = [(item.stage, item.round) for item in stages]
    if (entry.stage, entry.round) in places:
        stages[places.index((entry.stage, entry.round))] = entry
    else:
        stages.append(entry)
    groups[iteration] = group.model_copy(update={"stages": stages})
    return draft.put(iterations=[groups[number] for number in sorted(groups)])


def _back_off(failures: int) -> float:
    return min(FIRST_BACK_OFF * 2.0 ** (failures - 1), LONGEST_BACK_OFF)
