"""`plan.decide` under any order of events: attempts end as they like, callers die anywhere."""

from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from plan_world import DATASETS, RUN, World, later, make_spec

from rzero_core.intervals import wilson
from rzero_core.run import Stage
from rzero_core.status import GuardrailAction, Phase, RunStatus, StageState
from rzero_core.task import LabelAudit
from rzero_operator.decision import AttemptState, Decision, StartAttempt
from rzero_operator.guardrails import is_stopped
from rzero_operator.plan import decide
from rzero_operator.tasks import steps

BUDGETS = {"maxRetries": 2, "maxPreemptions": 3}
TERMINAL = (Phase.SUCCEEDED, Phase.FAILED)


ROTTEN = "0.3"
"""Far below the floor, whatever the sample."""


def audit(share: float) -> LabelAudit:
    found = wilson(400 * share, 400)
    return LabelAudit(
        estimate=found.estimate,
        lower=found.lower,
        upper=found.upper,
        sample_size=400,
        method="Oracle",
    )


class PlanMachine(RuleBasedStateMachine):
    """A cluster in which anything may happen to the attempts and to whoever decides."""

    @initialize(
        datasets=st.booleans(),
        top_ups=st.integers(0, 1),
        on_violation=st.sampled_from(["Warn", "Pause", "Stop"]),
    )
    def declare(self, datasets: bool, top_ups: int, on_violation: str) -> None:
        self.fields: dict[str, Any] = {
            "iterations": 2,
            "questions": {"shards": 2, "topUps": top_ups},
            "stages": {stage.value: BUDGETS for stage in Stage},
            "labelAccuracy": {"onViolation": on_violation},
            **({"evaluation": DATASETS} if datasets else {}),
        }
        self.let_on: set[int] = set()
        """Iterations that somebody let go on, by a word or by a change of the spec."""
        self.world = World(make_spec(**self.fields))
        self.done: dict[tuple[int, Stage, int], str | None] = {}
        self.ended: Phase | None = None
        self.reopened = False
        """It ended, and somebody gave it a reason to go on that was not heard yet."""

    @rule(die_after_write=st.booleans(), die_before_write=st.booleans())
    def reconcile(self, die_after_write: bool, die_before_write: bool) -> None:
        decision = self.world.decide()
        assert decision == self.world.decide()
        self.no_solver_learns_from_rotten_labels(decision)
        if die_before_write:
            return
        self.world.write(decision)
        # What a later caller reads is what came through the API server, or a file.
        self.world.status = RunStatus.model_validate_json(self.world.status.to_json())
        if die_after_write:
            return
        self.world.act(decision)
        # What was started is noted as seen; then nothing is left to say.
        seen = self.world.decide()
        assert (seen.actions, seen.events) == ((), ())
        self.world.write(seen)
        again = self.world.decide()
        assert (again.actions, again.status, again.events) == ((), self.world.status, ())

    def no_solver_learns_from_rotten_labels(self, decision: Decision) -> None:
        """Under Pause and Stop only where somebody wants it."""
        if self.fields["labelAccuracy"]["onViolation"] == "Warn":
            self.let_on.add(decision.status.iteration)
        for action in decision.actions:
            if not isinstance(action, StartAttempt) or action.step.stage is not Stage.TRAIN_SOLVER:
                continue
            groups = {group.iteration: group for group in decision.status.iterations}
            found = groups[action.step.iteration].label_accuracy
            if found is not None and found.estimate == ROTTEN:
                on_violation = self.fields["labelAccuracy"]["onViolation"]
                assert on_violation == "Warn" or action.step.iteration in self.let_on

    @rule(short=st.integers(0, 1), share=st.sampled_from([None, 0.9, 0.7, 0.3]))
    @precondition(lambda self: len(self.world.live) == 1)
    def succeed(self, short: int, share: float | None) -> None:
        built = self.world.live[0].step.stage is Stage.BUILD_CURRICULUM
        found = audit(share) if built and share is not None and not short else None
        self.world.succeed(found, short=short)

    @rule(stages=st.integers(1, 6), share=st.sampled_from([0.3, 0.9, None]))
    def go_well_for_a_while(self, stages: int, share: float | None) -> None:
        """By single steps alone a run seldom gets as far as its first curriculum."""
        for _ in range(stages):
            self.reconcile(die_after_write=False, die_before_write=False)
            if len(self.world.live) == 1:
                self.succeed(0, share)

    @rule(on_violation=st.sampled_from(["Warn", "Pause", "Stop"]))
    def change_the_guardrail(self, on_violation: str) -> None:
        self.fields["labelAccuracy"] = {"onViolation": on_violation}
        self.world.spec = make_spec(**self.fields)

    @rule()
    def resume(self) -> None:
        self.world.resume += "+"
        held = (GuardrailAction.PAUSED, GuardrailAction.STOPPED)
        for group in self.world.status.iterations:
            if group.guardrail is not None and group.guardrail.action in held:
                self.let_on.add(group.iteration)
        if is_stopped(self.world.status):
            self.ended, self.reopened = None, True

    @rule(code=st.sampled_from([1, 75, 137, 139]), preempted=st.booleans())
    @precondition(lambda self: len(self.world.live) == 1)
    def fail(self, code: int, preempted: bool) -> None:
        self.world.fail(code, preempted=preempted)

    @rule(code=st.sampled_from([64, 65, 78]))
    @precondition(lambda self: len(self.world.live) == 1 and self.world.status.iteration == 2)
    def fail_for_good(self, code: int) -> None:
        self.world.fail(code)

    @rule(code=st.sampled_from([None, None, 78]))
    @precondition(lambda self: [item.state for item in self.world.live] == [AttemptState.RUNNING])
    def have_a_sidecar_that_does_not_come_up(self, code: int | None) -> None:
        words = {"reason": "SidecarFailed", "message": "container solver does not come up"}
        self.world.end(state=AttemptState.FAILING, exit_code=code, **words)

    @rule()
    def retry(self) -> None:
        self.world.retry += "+"
        # A run that succeeded may have evaluations to try again.
        self.ended, self.reopened = None, self.reopened or self.ended is not None

    @rule()
    @precondition(lambda self: len(self.world.live) == 1)
    def lose_the_results(self) -> None:
        self.world.end(state=AttemptState.SUCCEEDED)

    @rule(data=st.data())
    @precondition(lambda self: self.world.attempts)
    def delete_attempts(self, data: st.DataObject) -> None:
        keys = sorted(self.world.attempts)
        for key in data.draw(st.lists(st.sampled_from(keys), unique=True, max_size=3)):
            del self.world.attempts[key]

    @rule(seconds=st.floats(0, 400))
    def wait(self, seconds: float) -> None:
        later(self.world, seconds)

    @rule(suspend=st.booleans())
    def suspend(self, suspend: bool) -> None:
        self.fields["suspend"] = suspend
        self.world.spec = make_spec(**self.fields)

    @rule()
    @precondition(lambda self: self.ended is Phase.SUCCEEDED and self.fields["iterations"] < 4)
    def grow(self) -> None:
        self.fields["iterations"] += 1
        self.world.spec = make_spec(**self.fields)
        if not is_stopped(self.world.status):
            self.ended, self.reopened = None, True

    @invariant()
    def never_two_live_attempts(self) -> None:
        assert len(self.world.live) <= 1

    @invariant()
    def done_stays_done_and_nothing_is_started_after_it(self) -> None:
        for group in self.world.status.iterations:
            for entry in group.stages:
                key = (group.iteration, entry.stage, entry.round)
                if key in self.done:
                    assert entry.state is StageState.DONE
                    assert entry.manifest_digest == self.done[key]
                    continue
                if entry.state is StageState.DONE:
                    self.done[key] = entry.manifest_digest
        for attempt in self.world.live:
            begun = self.world.status.find(*attempt.step)
            assert begun is not None and begun.state is not StageState.DONE

    @invariant()
    def no_attempt_is_started_twice(self) -> None:
        begun = [(start.step, start.task.attempt) for start in self.world.started]
        assert len(begun) == len(set(begun))

    @invariant()
    def budgets_hold(self) -> None:
        for group in self.world.status.iterations:
            for entry in group.stages:
                assert entry.failures <= BUDGETS["maxRetries"] + 1
                assert entry.preemptions <= BUDGETS["maxPreemptions"] + 1
                assert entry.failures + entry.preemptions <= entry.attempts

    @invariant()
    def terminal_is_terminal(self) -> None:
        if self.ended is not None:
            assert self.world.status.phase is self.ended
            assert not self.world.live
        elif self.world.status.phase not in TERMINAL:
            self.reopened = False
        elif not self.reopened:
            self.ended = self.world.status.phase

    @invariant()
    def a_pause_holds(self) -> None:
        for group in self.world.status.iterations:
            paused = group.guardrail and group.guardrail.action is GuardrailAction.PAUSED
            if paused and group.iteration not in self.let_on:
                live = [attempt.step for attempt in self.world.live]
                assert all(step.stage is not Stage.TRAIN_SOLVER for step in live)
                assert self.world.status.iteration == group.iteration

    @invariant()
    def at_most_the_steps_of_the_plan_exist(self) -> None:
        plan = set(steps(self.world.spec, self.world.status))
        for group in self.world.status.iterations:
            for entry in group.stages:
                assert (group.iteration, entry.stage, entry.round) in plan

    def teardown(self) -> None:
        """From wherever it is: when nothing goes wrong any more, the run ends."""
        if not hasattr(self, "world"):
            return
        self.fields["suspend"] = False
        self.world.spec = make_spec(**self.fields)
        for _ in range(200):
            self.world.resume += "+"
            self.world.turn()
            if self.world.status.phase in TERMINAL:
                break
            if self.world.live:
                self.world.succeed()
            later(self.world, 400)
        assert self.world.status.phase in TERMINAL
        decision = decide(RUN, self.world.spec, self.world.status, [], self.world.now)
        assert decision.actions == () and decision.status == self.world.status


TestPlan = PlanMachine.TestCase
TestPlan.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
