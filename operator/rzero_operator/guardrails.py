"""The guardrail of the plan: may a Solver be trained on this curriculum? Pure.

The verdict on the labels is `rzero_core.guardrail`'s (rules R1 to R4); what held-out scores say for
the run is added here (R6), and what other figures do to alarm (R5, `canaries`). What is done about
it is decided each time before an attempt at TrainSolver would begin: so a limit that was raised, or
a user who says `resume`, is heard at any time.
"""

from dataclasses import replace

from rzero_core import guardrail
from rzero_core.guardrail import Audit, Outcome, Verdict
from rzero_core.intervals import Interval, Uncorrected
from rzero_core.run import AuditorType, RunSpec, Stage
from rzero_core.status import (
    Condition,
    GuardrailAction,
    GuardrailStatus,
    IterationStatus,
    LabelAccuracyStatus,
    Phase,
    RunStatus,
    StageState,
    UncorrectedLabelAccuracy,
)
from rzero_operator import canaries
from rzero_operator.conditions import Truth, condition, condition_of
from rzero_operator.draft import Draft, put_group
from rzero_operator.scores import gain
from rzero_operator.tasks import Step

CONDITION = "LabelAccuracyHealthy"
CANARY = "Canary"
"""The reason of the event about a figure that left its band."""
LEAST_RISE = 0.01
"""A smaller rise of mean agreement is not worth a word."""
_REMEDY = {
    GuardrailAction.PAUSED: "resume the run, or change labelAccuracy.floor, maxDrop or onViolation",
    GuardrailAction.STOPPED: "labelAccuracy.onViolation is Stop; a resume goes on all the same",
}


def reason_of(outcome: Outcome) -> str:
    """The reason of the condition and of its event."""
    return f"LabelAccuracy{outcome}"


def review(spec: RunSpec, draft: Draft) -> Draft:
    """The draft with the verdict on the newest curriculum that was audited, and its canaries; what
    is new is told.

    By the limits as they are now, until the Solver is trained: then the verdict stands.
    """
    status = draft.status
    group = _newest(status)
    if group is None:
        return draft
    trained = status.find(group.iteration, Stage.TRAIN_SOLVER)
    if group.guardrail is not None and trained and trained.state is StageState.DONE:
        return draft
    verdict = judge(spec, status)
    message = f"iteration {group.iteration}: {verdict.message}"
    before = group.guardrail
    found = GuardrailStatus(
        outcome=verdict.outcome,
        message=message,
        acts=verdict.acts,
        action=before.action if before else None,
        # Once, by the history as it was then.
        canaries=before.canaries if before else canaries.found(status, group.iteration),
    )
    step = Step(group.iteration, Stage.BUILD_CURRICULUM)
    told = condition_of(status, CONDITION)
    bad = found.outcome in (Outcome.DROPPED, Outcome.BELOW_FLOOR)
    # Each bad curriculum is told of, and a limit that turns out broken after it was changed.
    worse = bad and (before is None or (found.acts and not before.acts))
    if worse or told is None or told.reason != reason_of(found.outcome):
        draft = draft.tell(reason_of(found.outcome), message, step, warning=bad)
    for canary in found.canaries if before is None else ():
        draft = draft.tell(CANARY, f"iteration {group.iteration}: {canary}", step, warning=True)
    return put_group(draft, group.iteration, guardrail=found)


def judge(spec: RunSpec, status: RunStatus) -> Verdict:
    """The verdict on the newest curriculum that was audited."""
    group = _newest(status)
    if group is None or group.label_accuracy is None:
        return Verdict(Outcome.UNKNOWN, "no curriculum was audited")
    audits = _series(status)
    if not audits or audits[-1].iteration != group.iteration:
        return Verdict(Outcome.UNKNOWN, _unknown(group.label_accuracy))
    limits = spec.label_accuracy
    verdict = guardrail.judge(audits, limits.floor, limits.max_drop)
    if verdict.outcome is Outcome.UNKNOWN:
        return replace(verdict, message=verdict.message + _because(group.label_accuracy))
    if verdict.outcome is not Outcome.DROPPED:
        return verdict
    message = verdict.message + _confidently_wrong(status, verdict.since, group)
    verdict = replace(verdict, message=message)
    return _unless_learning(status, group.iteration, verdict) if verdict.acts else verdict


def _confidently_wrong(status: RunStatus, since: int | None, newest: IterationStatus) -> str:
    """R6: the signature of a Solver that makes itself sure of what is wrong."""
    since_then = [group for group in status.iterations if group.iteration == since]
    before = canaries.mean_agreement(since_then[0]) if since_then else None
    after = canaries.mean_agreement(newest)
    if before is None or after is None or after.value - before.value < LEAST_RISE:
        return ""
    rose = f"mean agreement rose from {before.value:.3f} to {after.value:.3f}"
    return f"; meanwhile {rose}: the Solver grows sure of wrong answers"


def _unless_learning(status: RunStatus, iteration: int, drop: Verdict) -> Verdict:
    """R6: a drop above the floor is borne while held-out scores certainly rise."""
    rise = gain(status, iteration - 1)
    if rise is None or not rise.lower > 0:
        return drop
    interval = f"{rise.estimate:.3f} [{rise.lower:.3f}, {rise.upper:.3f}]"
    rose = f"the held-out score of the last Solver still rose by {interval}"
    learning = f"{rose} on the same questions"
    return replace(drop, acts=False, message=f"{drop.message}; {learning}")


def guard(spec: RunSpec, draft: Draft, step: Step) -> tuple[Draft, GuardrailAction | None]:
    """What is done about the verdict before the Solver of `step` is trained; what is new is told.

    The Solver is trained unless that is PAUSED or STOPPED.
    """
    group = next(item for item in draft.status.iterations if item.iteration == step.iteration)
    found = group.guardrail
    if found is None:
        return draft, None
    action = _action(spec.label_accuracy.on_violation, found)
    if action is found.action:
        return draft, action
    done = found.model_copy(update={"action": action})
    draft = put_group(draft, step.iteration, guardrail=done)
    match action:
        case GuardrailAction.PAUSED | GuardrailAction.STOPPED:
            message = f"{held_up(step, action, found)}; {_REMEDY[action]}"
            return draft.tell(action, message, step, warning=True), action
        case GuardrailAction.RESUMED:
            return draft.tell(action, f"{step}: goes on", step), action
        case _:
            return draft, action


def held_up(step: Step, action: GuardrailAction, found: GuardrailStatus) -> str:
    """What holds the run up, as its condition says it."""
    return f"{action.lower()} before {step.stage}: {found.message}"


def _action(on_violation: str, found: GuardrailStatus) -> GuardrailAction | None:
    if found.action is GuardrailAction.RESUMED:
        return found.action
    if found.acts and on_violation == "Stop":
        return GuardrailAction.STOPPED
    if found.acts and on_violation == "Pause":
        return GuardrailAction.PAUSED
    if found.action is GuardrailAction.PAUSED:
        return GuardrailAction.RESUMED
    return GuardrailAction.WARNED if found.acts else None


def resume(draft: Draft) -> Draft:
    """A user asked to go on: the Solver that was held up is trained, whatever the verdict on its
    curriculum; the next one is held up again.
    """
    group = _newest(draft.status)
    if group is None or group.guardrail is None:
        return draft
    action = group.guardrail.action
    if action not in (GuardrailAction.PAUSED, GuardrailAction.STOPPED):
        return draft
    found = group.guardrail.model_copy(update={"action": GuardrailAction.RESUMED})
    draft = put_group(draft, group.iteration, guardrail=found)
    if draft.status.phase is Phase.SUCCEEDED:
        draft = draft.put(phase=Phase.PENDING)
    step = Step(group.iteration, Stage.TRAIN_SOLVER)
    return draft.tell(GuardrailAction.RESUMED, f"{step}: a user asked to go on", step)


def is_held(status: RunStatus) -> bool:
    """Whether the guardrail paused or ended the run, so that a user may let it go on."""
    group = _newest(status)
    found = group.guardrail if group is not None else None
    held = (GuardrailAction.PAUSED, GuardrailAction.STOPPED)
    return found is not None and found.action in held


def is_stopped(status: RunStatus) -> bool:
    """Whether the guardrail ended the run."""
    group = _newest(status)
    found = group.guardrail if group is not None else None
    return found is not None and found.action is GuardrailAction.STOPPED


def told(status: RunStatus, generation: int, time: str) -> list[Condition]:
    """The condition `LabelAccuracyHealthy`; none before the first curriculum was audited."""
    group = _newest(status)
    found = group.guardrail if group is not None else None
    if found is None:
        return []
    truth: dict[Outcome, Truth] = {
        Outcome.HEALTHY: "True",
        Outcome.DROPPED: "False",
        Outcome.BELOW_FLOOR: "False",
        Outcome.INCONCLUSIVE: "Unknown",
        Outcome.UNKNOWN: "Unknown",
    }
    reason = reason_of(found.outcome)
    old = condition_of(status, CONDITION)
    return [
        condition(CONDITION, truth[found.outcome], reason, found.message, old, generation, time)
    ]


def _newest(status: RunStatus) -> IterationStatus | None:
    """The last iteration whose curriculum was audited."""
    audited = [group for group in status.iterations if group.label_accuracy is not None]
    return audited[-1] if audited else None


def _series(status: RunStatus) -> list[Audit]:
    """The audits of all iterations in their order, with those that an auditor made again."""
    series: list[Audit] = []
    for group in status.iterations:
        audit = _audit(status, group)
        if audit is None:
            continue
        again = _again(group)
        known = [(item.iteration, item.auditor) for item in series]
        if again is not None and (again.iteration, again.auditor) not in known:
            series.append(again)
        series.append(audit)
    return series


def _again(group: IterationStatus) -> Audit | None:
    """R4: what the auditor of an iteration found of the one before, where that had another."""
    report = group.label_accuracy
    if report is None or report.earlier is None:
        return None
    earlier = report.earlier
    ends = Interval(float(earlier.estimate), float(earlier.lower), float(earlier.upper))
    return Audit(
        group.iteration - 1,
        ends,
        auditor=report.method,
        again=True,
        judged=earlier.sample_size,
        certain=is_certain(report),
        uncorrected=_as_said(earlier.uncorrected),
    )


def _audit(status: RunStatus, group: IterationStatus) -> Audit | None:
    """What the rules read of an iteration; None where its accuracy is unknown."""
    report = group.label_accuracy
    if report is None:
        return None
    ends = [float(end) for end in (report.estimate, report.lower, report.upper) if end is not None]
    if len(ends) < 3:
        return None
    looks = [
        # At most as many as there can be: 1e9999999 would keep an exact integer busy for minutes.
        int(max(1, min(guardrail.LOOKS, float(entry.metrics.get("auditLooks", "1")))))
        for entry in group.stages
        if entry.stage is Stage.BUILD_CURRICULUM and entry.state is StageState.DONE
    ]
    return Audit(
        group.iteration,
        Interval(*ends),
        auditor=report.method,
        looks=max(looks, default=1),
        upper_bound=report.is_upper_bound,
        judged=report.sample_size,
        certain=is_certain(report),
        uncorrected=_as_said(report.uncorrected),
    )


def _as_said(report: UncorrectedLabelAccuracy | None) -> Uncorrected | None:
    if report is None:
        return None
    ends = Interval(float(report.estimate), float(report.lower), float(report.upper))
    return Uncorrected(ends, float(report.skill))


def is_certain(report: LabelAccuracyStatus) -> bool:
    """Whether the interval is no matter of chance: what cannot be computed may be right or not."""
    return report.method == AuditorType.PROGRAMMATIC


def _unknown(report: LabelAccuracyStatus) -> str:
    if not report.sample_size + report.abstained:
        return f"accuracy is unknown: nothing checks labels (auditor {report.method})"
    asked = report.sample_size + report.abstained
    judged = f"{report.method} judged {report.sample_size} of {asked} labels"
    return f"accuracy is unknown: {judged}{_because(report)}"


def _because(report: LabelAccuracyStatus) -> str:
    return f": {report.why}" if report.why else ""
