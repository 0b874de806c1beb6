"""A world for the plan: it carries out decisions and lets the tests decide how attempts end."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from rzero_core.run import RunSpec, Stage
from rzero_core.status import Phase, RunStatus, StageStatus
from rzero_core.task import LabelAudit, RunRef, StageResult, shard_prefix
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
from rzero_operator.plan import decide
from rzero_operator.tasks import OUTPUT, Step

RUN = RunIdentity(RunRef(name="test", uid="0123456789abcdef"))
ROOT = "s3://bucket/base/test-01234567"
"""Where RUN keeps what it writes."""
CHALLENGER = Step(1, Stage.TRAIN_CHALLENGER)
DATASETS = {"datasets": [{"name": "heldout", "uri": "heldout.jsonl"}]}


def make_spec(**fields: Any) -> RunSpec:
    small = {"questions": {"shards": 2}, "iterations": 1}
    return RunSpec.parse(
        {"model": "base", "storage": {"uri": "s3://bucket/base"}, **small, **fields}
    )


@dataclass
class World:
    """The status, and the attempts that exist."""

    spec: RunSpec
    status: RunStatus = field(default_factory=RunStatus)
    attempts: dict[tuple[Step, int], Attempt] = field(default_factory=dict)
    started: list[StartAttempt] = field(default_factory=list)
    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    retry: str = ""
    resume: str = ""
    events: list[Event] = field(default_factory=list)

    @property
    def observed(self) -> list[Attempt]:
        return list(self.attempts.values())

    def decide(self) -> Decision:
        run = replace(RUN, retry=self.retry, resume=self.resume)
        return decide(run, self.spec, self.status, self.observed, self.now)

    def write(self, decision: Decision) -> None:
        self.status = decision.status
        self.events += decision.events

    def act(self, decision: Decision) -> None:
        for action in decision.actions:
            match action:
                case StartAttempt():
                    key = (action.step, action.task.attempt)
                    self.attempts[key] = Attempt(*key, AttemptState.RUNNING, action.shards)
                    self.started.append(action)
                case StopAttempt():
                    key = (action.step, action.number)
                    self.attempts[key] = replace(self.attempts[key], state=AttemptState.STOPPING)

    def turn(self) -> Decision:
        """Observe, decide, write, act; after it the same world asks for nothing more.

        Save that what was started is noted as seen.
        """
        decision = self.decide()
        assert decision == self.decide()
        self.write(decision)
        self.act(decision)
        seen = self.decide()
        assert seen.actions == ()
        self.write(seen)
        again = self.decide()
        assert (again.actions, again.status) == ((), self.status)
        return decision

    @property
    def live(self) -> list[Attempt]:
        return [attempt for attempt in self.observed if attempt.state in LIVE]

    @property
    def entry(self) -> StageStatus:
        """The status of the step that was started last."""
        entry = self.status.find(*self.started[-1].step)
        assert entry is not None
        return entry

    def end(self, **changes: Any) -> None:
        """End the live attempt: with good results, or as `changes` say."""
        (attempt,) = self.live
        self.attempts[attempt.step, attempt.number] = replace(attempt, **changes)

    def succeed(self, audit: LabelAudit | None = None, **metrics: float) -> None:
        (attempt,) = self.live
        start = next(s for s in reversed(self.started) if s.step == attempt.step)
        results = results_of(start, audit, **metrics)
        self.end(state=AttemptState.SUCCEEDED, results=results)

    def fail(self, code: int = 1, **changes: Any) -> None:
        self.end(state=AttemptState.FAILED, exit_code=code, **{"message": "broke", **changes})

    def walk(self, until: Step | None = None) -> None:
        """Let every attempt succeed until the run ends or `until` has started."""
        for _ in range(1000):
            self.turn()
            if self.status.phase is Phase.SUCCEEDED:
                return
            if until is not None and self.started[-1].step == until:
                return
            self.succeed()
        raise AssertionError("the run does not end")


def results_of(
    start: StartAttempt, audit: LabelAudit | None = None, **metrics: float
) -> tuple[StageResult, ...]:
    task = start.task
    if start.shards is None:
        places: dict[int | None, str] = {None: task.prefix}
    else:
        places = {shard: shard_prefix(task.prefix, shard) for shard in range(start.shards)}
    return tuple(
        StageResult(
            run_uid=task.run.uid,
            iteration=task.iteration,
            stage=task.stage,
            round=task.round,
            shard=shard,
            outputs={OUTPUT[task.stage]: place},
            metrics={"rows": 4.0, **metrics},
            manifest_digest=f"{task.prefix}:{shard}",
            seconds=1.0 + (shard or 0),
            label_audit=audit,
        )
        for shard, place in places.items()
    )


def later(world: World, seconds: float) -> None:
    world.now += timedelta(seconds=seconds)


def phase(world: World) -> Phase:
    return world.status.phase


def condition(status: RunStatus, name: str) -> tuple[str, str]:
    return next((c.status, c.message) for c in status.conditions if c.type == name)
