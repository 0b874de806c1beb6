"""A decision of the plan in the making: the status so far, what to do, and what to tell. Pure."""

from dataclasses import dataclass, replace

from rzero_core.status import IterationStatus, RunStatus, StageStatus
from rzero_operator.decision import Event, StartAttempt, StopAttempt
from rzero_operator.tasks import Step


@dataclass(frozen=True)
class Draft:
    """A decision in the making."""

    status: RunStatus
    message: str = ""
    """For the conditions that are true; empty leaves what a terminal run said last."""
    blocked: str = ""
    """Why the live attempt cannot go on without somebody's help, as one word."""
    reason: str = ""
    """Why the run is where it is, as one word, where the phase does not say it."""
    actions: tuple[StartAttempt | StopAttempt, ...] = ()
    events: tuple[Event, ...] = ()
    requeue_after: float | None = None

    def tell(
        self, reason: str, message: str, step: Step | None = None, *, warning: bool = False
    ) -> "Draft":
        """With one event more."""
        return replace(self, events=(*self.events, Event(reason, message, warning, step)))

    def act(self, *actions: StartAttempt | StopAttempt) -> "Draft":
        """With more to do."""
        return replace(self, actions=(*self.actions, *actions))

    def put(self, **changes: object) -> "Draft":
        """With a changed status."""
        return replace(self, status=self.status.model_copy(update=changes))


def put_group(draft: Draft, iteration: int, **changes: object) -> Draft:
    """The draft with one iteration changed or added; iterations in their order."""
    groups = {group.iteration: group for group in draft.status.iterations}
    group = groups.get(iteration) or IterationStatus(iteration=iteration)
    groups[iteration] = group.model_copy(update=changes)
    return draft.put(iterations=[groups[number] for number in sorted(groups)])


def put_entry(draft: Draft, iteration: int, entry: StageStatus) -> Draft:
    """The draft with one stage of one iteration replaced or added."""
    found = [group.stages for group in draft.status.iterations if group.iteration == iteration]
    stages = list(found[0]) if found else []
    places = [(item.stage, item.round) for item in stages]
    if (entry.stage, entry.round) in places:
        stages[places.index((entry.stage, entry.round))] = entry
    else:
        stages.append(entry)
    return put_group(draft, iteration, stages=stages)
