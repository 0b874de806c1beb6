"""Takes out of a status what the plan cannot have written, before the plan decides from it. Pure.

Who may edit a status may write whatever its schema lets through. What is taken out here is begun
again, and the stage answers from its manifest: nothing that was done is lost.
"""

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal, InvalidOperation

from rzero_core.run import RunSpec, Stage
from rzero_core.status import (
    EarlierLabelAccuracy,
    IterationStatus,
    LabelAccuracyStatus,
    RunStatus,
    StageState,
    StageStatus,
)
from rzero_core.task import RunRef, stage_prefix
from rzero_operator.jobs import SHARDED
from rzero_operator.tasks import OUTPUT, Step

MOST_SHARDS = 9999
"""As many as the prefixes of shards have digits for."""
MOST_ATTEMPTS = 999_999
"""More than any budgets allow."""


def repair(run: RunRef, spec: RunSpec, status: RunStatus) -> RunStatus:
    """The status without what nobody asked for, without false proofs, without false times."""
    groups = [
        _repair_iteration(run, spec, group)
        for group in status.iterations
        if group.iteration <= spec.iterations
    ]
    told = [item for item in status.conditions if _is_time(item.last_transition_time)]
    return status.model_copy(update={"iterations": groups, "conditions": told})


def is_output(run: RunRef, spec: RunSpec, step: Step, uri: str) -> bool:
    """Whether a stage of this run writes its main artifact there, or a shard of it."""
    prefix = stage_prefix(spec.storage.uri, run, *step)
    return uri == prefix or (step.stage in SHARDED and uri.startswith(f"{prefix}/shard-"))


def _repair_iteration(run: RunRef, spec: RunSpec, group: IterationStatus) -> IterationStatus:
    audit = group.label_accuracy
    audited = audit is None or is_sound(audit)
    stages = []
    for entry in group.stages:
        proven = is_proven(run, spec, group.iteration, entry)
        if not audited and entry.stage is Stage.BUILD_CURRICULUM:
            proven = False
        stages.append(_repair_stage(entry, proven=proven))
    changes: dict[str, object] = {"stages": stages}
    if not audited:
        changes |= {"label_accuracy": None, "guardrail": None}
    return group.model_copy(update=changes)


def _repair_stage(entry: StageStatus, *, proven: bool) -> StageStatus:
    changes: dict[str, object] = {
        name: None
        for name in ("started_at", "finished_at", "not_before")
        if not _is_time(getattr(entry, name))
    }
    begun = entry.state is StageState.RUNNING
    if entry.attempts >= MOST_ATTEMPTS or (begun and entry.attempts < 1):
        # Numbered as no attempt is. Those that there were are found by their Jobs.
        changes |= {"attempts": 0, "execution": None}
        changes |= {"state": StageState.WAITING} if begun else {}
    if entry.state is StageState.DONE and not proven:
        changes |= {"state": StageState.WAITING, "finished_at": None, "manifest_digest": None}
        changes |= {"outputs": {}, "metrics": {}}
    elif not _are_numbers(entry.metrics.values()):
        changes["metrics"] = {}
    return entry.model_copy(update=changes)


def is_proven(run: RunRef, spec: RunSpec, iteration: int, entry: StageStatus) -> bool:
    """Whether a stage that is said to be done names its artifact, where only the run writes."""
    uri = entry.outputs.get(OUTPUT[entry.stage], "")
    prefix = stage_prefix(spec.storage.uri, run, iteration, entry.stage, entry.round)
    if uri != prefix or not _are_numbers(entry.metrics.values()):
        return False
    if entry.stage not in SHARDED:
        return True
    shards = entry.metrics.get("shards", "")
    return shards.isdecimal() and 1 <= int(shards) <= MOST_SHARDS


def is_sound(audit: LabelAccuracyStatus) -> bool:
    """Whether a report on labels has shares where it says that it has."""
    found: list[LabelAccuracyStatus | EarlierLabelAccuracy] = [audit]
    found += [audit.earlier] if audit.earlier is not None else []
    said = [item.uncorrected for item in found if item.uncorrected is not None]
    ends = [end for item in (*found, *said) for end in (item.estimate, item.lower, item.upper)]
    skills = [item.skill for item in said]
    shares = [end for end in ends if end is not None] + skills
    return (
        _are_numbers(shares)
        and all(0 <= Decimal(share) <= 1 for share in shares)
        # The plan divides by it.
        and all(Decimal(skill) > 0 for skill in skills)
    )


def _are_numbers(texts: Iterable[str]) -> bool:
    try:
        return all(Decimal(text).is_finite() for text in texts)
    except InvalidOperation:
        return False


def _is_time(text: str | None) -> bool:
    """Whether a time can be compared with the clock; an absent one need not be."""
    try:
        return text is None or datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False
