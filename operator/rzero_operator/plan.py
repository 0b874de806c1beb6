"""Decides the next step of a run from what is declared and what is observed. Touches nothing.

The caller observes, calls `decide`, writes the status, and only then carries out the actions: an
attempt is reserved in the status before it starts. So the caller may die between any two of these
and decide again. No clock, no randomness, no input or output.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from rzero_core.run import RunSpec, Stage
from rzero_core.status import GuardrailAction, Phase, RunStatus, StageState, StageStatus
from rzero_operator import guardrails
from rzero_operator.attempts import Attempts, back_off
from rzero_operator.conditions import condition_of, conditions, rfc3339
from rzero_operator.decision import (
    LIVE,
    QUEUED,
    Attempt,
    AttemptState,
    Decision,
    RunIdentity,
    StartAttempt,
    StopAttempt,
)
from rzero_operator.draft import Draft, put_entry
from rzero_operator.history import fitted
from rzero_operator.repair import repair
from rzero_operator.summary import summarized
from rzero_operator.tasks import Step, build_task, shards_of, steps


def decide(
    run: RunIdentity,
    spec: RunSpec,
    status: RunStatus,
    observed: Sequence[Attempt],
    now: datetime,
) -> Decision:
    """The next status and what to do. Same input, same output; after its actions, no more."""
    return _Decider(run, spec, tuple(observed), now, status.phase).decide(status)


def reopen(spec: RunSpec, status: RunStatus) -> RunStatus:
    """What failed, made ready to be tried again with fresh budgets: somebody mended the cause.

    Evaluations only of a run that succeeded: until then another stage is due.
    """
    ended, evaluated = status.phase is Phase.SUCCEEDED, bool(spec.evaluation.datasets)
    draft = Draft(status)
    for group in status.iterations:
        for entry in group.stages:
            again = (ended and evaluated) or entry.stage is not Stage.EVALUATE
            if entry.state is StageState.FAILED and again:
                fresh = {"state": StageState.WAITING, "failures": 0, "preemptions": 0}
                cleared = {"finished_at": None, "not_before": None, "message": None}
                draft = put_entry(draft, group.iteration, entry.model_copy(update=fresh | cleared))
    if status.phase is Phase.FAILED or (ended and draft.status != status):
        draft = draft.put(phase=Phase.PENDING)
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
        status = repair(self.run.ref, self.spec, status)
        again = bool(self.run.retry) and self.run.retry != status.last_retry
        if again:
            status = reopen(self.spec, status).model_copy(update={"last_retry": self.run.retry})
        draft = Draft(status)
        if self.run.resume and self.run.resume != status.last_resume:
            draft = guardrails.resume(draft).put(last_resume=self.run.resume)
        if self._is_over(draft.status):
            draft = self._stop_all(draft, None)
        else:
            # By the limits as they are now.
            draft = self._advance(guardrails.review(self.spec, draft), afresh=again)
        draft = self._conclude(draft)
        return Decision(draft.status, draft.actions, draft.events, draft.requeue_after)

    def _conclude(self, draft: Draft) -> Draft:
        """The draft with its conditions; an attempt that gets stuck is told once."""
        before = condition_of(draft.status, "Stalled")
        status, generation = draft.status, self.run.generation
        told = conditions(
            status, draft.message, generation, self.time, draft.blocked, draft.reason
        ) + guardrails.told(status, generation, self.time)
        draft = draft.put(observed_generation=generation, conditions=told)
        draft = replace(draft, status=fitted(summarized(self.spec, draft.status)))
        if draft.blocked and (before is None or before.reason != draft.blocked):
            draft = draft.tell(draft.blocked, draft.message, warning=True)
        return draft

    def _is_over(self, status: RunStatus) -> bool:
        """Terminal is terminal, but a run that succeeded goes on when its iterations grow.

        The phase alone does not decide: somebody may have written it by hand.
        """
        if status.phase is Phase.SUCCEEDED:
            if guardrails.is_stopped(status):
                return True
            numbers = range(1, self.spec.iterations + 1)
            trained = [status.find(number, Stage.TRAIN_SOLVER) for number in numbers]
            return all(entry and entry.state is StageState.DONE for entry in trained)
        return status.phase is Phase.FAILED and any(
            entry.state is StageState.FAILED and entry.stage is not Stage.EVALUATE
            for group in status.iterations
            for entry in group.stages
        )

    def _advance(self, draft: Draft, *, afresh: bool) -> Draft:
        """Settle step after step until one is live, waits, or none is left.

        `afresh`: somebody asked for another attempt in place of one that cannot go on.
        """
        attempts = Attempts(self.run, self.spec, self.observed, self.now, self.phase)
        while (step := self._frontier(draft.status)) is not None:
            draft, live = attempts.settle(draft, step)
            if step.stage is Stage.BUILD_CURRICULUM:
                draft = guardrails.review(self.spec, draft)
            entry = draft.status.find(*step)
            if live is not None:
                counted = entry is not None and entry.state is not StageState.RUNNING
                stuck = counted or (afresh and bool(live.reason))
                draft = self._stop_all(draft, keep=None if stuck else live)
                return self._go_on(draft, step, live)
            if entry is None or entry.state in (StageState.WAITING, StageState.RUNNING):
                return self._begin(self._stop_all(draft, keep=None), step)
            if entry.state is StageState.FAILED and step.stage is not Stage.EVALUATE:
                return self._fail(self._stop_all(draft, keep=None), step, entry)
        draft = self._stop_all(draft, keep=None).put(iteration=self.spec.iterations)
        return self._succeed(draft, f"all {self.spec.iterations} iterations are done")

    def _frontier(self, status: RunStatus) -> Step | None:
        """The first step that is not done; a failed evaluation is passed over."""
        for step in steps(self.spec, status):
            entry = status.find(*step)
            if entry is None or entry.state in (StageState.RUNNING, StageState.WAITING):
                return step
            if entry.state is StageState.FAILED and not self._passes_over(step):
                return step
        return None

    def _passes_over(self, step: Step) -> bool:
        """Whether the run goes on though this step failed; not while it still holds devices."""
        held = any(item.step == step and item.state in LIVE for item in self.observed)
        return step.stage is Stage.EVALUATE and not held

    def _go_on(self, draft: Draft, step: Step, live: Attempt) -> Draft:
        """One attempt is live: let it run, or stop it when the run is suspended.

        One whose end is counted already is being stopped, and waited for.
        """
        entry = draft.status.find(*step)
        counted = entry is not None and entry.state is not StageState.RUNNING
        stopping = live.state is AttemptState.STOPPING
        # An attempt that was asked to stop for a suspension ends for it, also after a resume.
        suspending = self.spec.suspend or (stopping and self.phase is Phase.SUSPENDING)
        phase = Phase.SUSPENDING if suspending else Phase.RUNNING
        if self.spec.suspend and not stopping and not counted:
            draft = draft.act(StopAttempt(step, live.number))
        draft = draft.put(
            phase=phase, iteration=step.iteration, stage=step.stage, attempt=live.number
        )
        message = f"{step}: attempt {live.number}"
        if entry is not None and counted:
            # Without a message where somebody already asked for another attempt.
            why = f": {entry.message}" if entry.message else ""
            return replace(draft, message=f"{message} is stopped{why}")
        if live.reason:
            message += f": {live.reason}: {live.message}"
        blocked = "" if live.reason == QUEUED else live.reason
        return replace(draft, message=message, blocked=blocked)

    def _begin(self, draft: Draft, step: Step) -> Draft:
        """No attempt is live: reserve and start the next one when it is due."""
        entry = draft.status.find(*step) or StageStatus(
            stage=step.stage, round=step.round, state=StageState.WAITING
        )
        draft = draft.put(iteration=step.iteration, stage=step.stage, attempt=entry.attempts)
        if self.spec.suspend:
            if self.phase is not Phase.SUSPENDED:
                draft = draft.tell("Suspended", f"{step}: suspended", step)
            return replace(draft.put(phase=Phase.SUSPENDED), message=f"suspended before {step}")
        if step.stage is Stage.TRAIN_SOLVER:
            draft, action = guardrails.guard(self.spec, draft, step)
            if action in (GuardrailAction.PAUSED, GuardrailAction.STOPPED):
                return self._hold(draft, step, action)
        draft = draft.put(phase=Phase.RUNNING)
        if entry.not_before is not None:
            longest = timedelta(seconds=back_off(max(1, entry.failures)))
            if datetime.fromisoformat(entry.not_before) > self.now + longest:
                # Written by a clock that is ahead of this one: the wait begins anew.
                entry = entry.model_copy(update={"not_before": rfc3339(self.now + longest)})
                draft = put_entry(draft, step.iteration, entry)
            wait = (datetime.fromisoformat(entry.not_before or "") - self.now).total_seconds()
            if wait > 0:
                return replace(draft, requeue_after=wait, message=f"{step}: waits to retry")
        reserved_before = entry.state is StageState.RUNNING
        number = entry.attempts if reserved_before else entry.attempts + 1
        reserved = entry.model_copy(
            update={
                "state": StageState.RUNNING,
                "attempts": number,
                "execution": None,
                "started_at": entry.started_at or self.time,
                "not_before": None,
            }
        )
        task = build_task(self.spec, draft.status, self.run.ref, step, number)
        draft = put_entry(draft.put(attempt=number), step.iteration, reserved)
        draft = draft.act(
            StartAttempt(step, task, shards_of(task), self.spec.stages.of(step.stage))
        )
        message = f"{step}: attempt {number}"
        if not reserved_before:
            draft = draft.tell("AttemptStarted", message, step)
        return replace(draft, message=message)

    def _hold(self, draft: Draft, step: Step, action: GuardrailAction) -> Draft:
        """The guardrail does not let this Solver be trained."""
        group = next(item for item in draft.status.iterations if item.iteration == step.iteration)
        assert group.guardrail is not None
        message = guardrails.held_up(step, action, group.guardrail)
        draft = replace(draft, reason=guardrails.reason_of(group.guardrail.outcome))
        if action is GuardrailAction.PAUSED:
            return replace(draft.put(phase=Phase.SUSPENDED), message=message)
        return self._succeed(draft, message)

    def _succeed(self, draft: Draft, message: str) -> Draft:
        draft = draft.put(phase=Phase.SUCCEEDED, stage=None, attempt=0)
        return replace(draft.tell("Succeeded", message), message=message)

    def _fail(self, draft: Draft, step: Step, entry: StageStatus) -> Draft:
        draft = draft.put(
            phase=Phase.FAILED,
            iteration=step.iteration,
            stage=step.stage,
            attempt=entry.attempts,
        )
        message = f"{step}: {entry.message}"
        return replace(draft.tell("Failed", message, step, warning=True), message=message)

    def _stop_all(self, draft: Draft, keep: Attempt | None) -> Draft:
        """Stop what runs beside the one attempt that may.

        Not the one that did its step: its results came before its end was told.
        """

        def is_done(attempt: Attempt) -> bool:
            entry = draft.status.find(*attempt.step)
            return (
                entry is not None
                and entry.state is StageState.DONE
                and (entry.attempts, entry.execution) == (attempt.number, attempt.execution)
            )

        return draft.act(
            *(
                StopAttempt(attempt.step, attempt.number)
                for attempt in self.observed
                if attempt.state in (AttemptState.RUNNING, AttemptState.FAILING)
                and attempt != keep
                and not is_done(attempt)
            )
        )
