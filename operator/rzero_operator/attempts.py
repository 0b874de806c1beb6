"""Takes in for the plan what is observed of a step: results, a live attempt, or its end. Pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from rzero_core.run import RunSpec
from rzero_core.status import Phase, StageState, StageStatus
from rzero_core.task import NEVER_RETRIED, StageResult
from rzero_operator.conditions import rfc3339
from rzero_operator.decision import LIVE, Attempt, AttemptState, RunIdentity
from rzero_operator.draft import Draft, put_entry, put_group
from rzero_operator.repair import is_output, is_proven, is_sound
from rzero_operator.tasks import OUTPUT, Step, done, label_accuracy_of

FIRST_BACK_OFF = 10.0
"""Seconds between the first failure and the next attempt; doubles with each failure."""
LONGEST_BACK_OFF = 360.0
_FOREIGN = (
    "the stage reported no result of this attempt: check that the image of the stages is of the "
    "operator's version"
)


@dataclass(frozen=True)
class Attempts:
    """What is observed of the attempts of a run."""

    run: RunIdentity
    spec: RunSpec
    observed: tuple[Attempt, ...]
    now: datetime
    phase: Phase
    """Before this decision."""

    @property
    def time(self) -> str:
        """`now` as the status holds it."""
        return rfc3339(self.now)

    def settle(self, draft: Draft, step: Step) -> tuple[Draft, Attempt | None]:
        """Take in what is observed of a step: its results, else its live attempt, else its end."""
        seen = sorted((a for a in self.observed if a.step == step), key=lambda a: a.number)
        entry = draft.status.find(*step)
        newest = seen[-1].number if seen else 0
        if newest > (entry.attempts if entry else 0):
            # Begun by somebody whose status was lost: adopted.
            entry = entry or StageStatus(
                stage=step.stage, round=step.round, state=StageState.RUNNING, started_at=self.time
            )
            entry = entry.model_copy(
                update={"attempts": newest, "state": StageState.RUNNING, "execution": None}
            )
        if entry is None:
            return draft, None
        for attempt in seen:
            taken = self._take_in(draft, entry, attempt)
            if taken is not None:
                return taken.tell("StageDone", f"{step}: done", step), None
        live = [attempt for attempt in seen if attempt.state in LIVE]
        if live and _is_counted(entry, live[-1]):
            return put_entry(draft, step.iteration, entry), live[-1]
        if live and live[-1].state is AttemptState.FAILING:
            # Counted before it is stopped: when it is gone nobody could say why it failed.
            entry = entry.model_copy(update={"execution": live[-1].execution or None})
            return self._close_attempt(draft, step, entry, live[-1]), live[-1]
        if live:
            entry = entry.model_copy(
                update={"state": StageState.RUNNING, "execution": live[-1].execution or None}
            )
            return put_entry(draft, step.iteration, entry), live[-1]
        if entry.state is StageState.RUNNING:
            last = seen[-1] if seen and newest == entry.attempts else None
            if last is not None or entry.execution is not None:
                draft = self._close_attempt(draft, step, entry, last)
                return draft, None
        # Reserved, but never seen: whoever reserved it did not come to begin it.
        return put_entry(draft, step.iteration, entry), None

    def _take_in(self, draft: Draft, entry: StageStatus, attempt: Attempt) -> Draft | None:
        """The draft with the results of an attempt, None where they do not prove the step done."""
        iteration, results = attempt.step.iteration, self._results(attempt)
        if not results:
            return None
        finished = done(entry, results, self.time)
        finished = finished.model_copy(update={"execution": attempt.execution})
        audited = label_accuracy_of(results[0])
        # What `repair` would take out again would be begun again for ever.
        if not is_proven(self.run.ref, self.spec, iteration, finished):
            return None
        if audited is None:
            return put_entry(draft, iteration, finished)
        if not is_sound(audited):
            return None
        draft = put_entry(draft, iteration, finished)
        return put_group(draft, iteration, label_accuracy=audited)

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
            and is_output(self.run.ref, self.spec, step, result.outputs.get(name, ""))
            for result in results
        )
        return tuple(results) if proven else ()

    def _close_attempt(
        self, draft: Draft, step: Step, entry: StageStatus, last: Attempt | None
    ) -> Draft:
        """Count an attempt that ended without results; None: it vanished."""
        settings = self.spec.stages.of(step.stage)
        code = last.exit_code if last else None
        message = (last.message or f"exit code {code}") if last else "the attempt vanished"
        lost = last is None or last.preempted
        if last is not None and last.state is AttemptState.SUCCEEDED:
            # Results that went with their pods, or those of something else.
            lost = len(last.results) < (last.shards or 1)
            message = "the attempt ended without a result" if lost else _FOREIGN
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
                not_before = rfc3339(self.now + timedelta(seconds=back_off(failures)))
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
        draft = put_entry(draft, step.iteration, closed)
        if state is StageState.WAITING and failures + preemptions == (
            entry.failures + entry.preemptions
        ):
            return draft.tell("AttemptStopped", f"{step}: attempt {entry.attempts} stopped", step)
        reason = "AttemptLost" if lost else (last.reason if last else "") or "AttemptFailed"
        told = f"{step}: attempt {entry.attempts}: {message}"
        return draft.tell(reason, told, step, warning=True)


def _is_counted(entry: StageStatus, attempt: Attempt) -> bool:
    """Whether the end of an attempt that is still live was counted already."""
    return (
        entry.state is not StageState.RUNNING
        and entry.attempts == attempt.number
        and entry.execution == attempt.execution
    )


def back_off(failures: int) -> float:
    """Seconds to wait after so many failures."""
    # Who edits a status may write more failures than a float could double.
    return min(FIRST_BACK_OFF * 2.0 ** min(failures - 1, 16), LONGEST_BACK_OFF)
