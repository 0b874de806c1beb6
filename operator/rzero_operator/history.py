"""Keeps the history of a long run small enough for the one object that holds it. Pure.

etcd refuses an object of more than 1.5 MiB. What is left out here is still in the manifests of the
artifacts; a report of old iterations shows less.
"""

from rzero_core.status import IterationStatus, RunStatus, StageState

LARGEST = 1_100_000
"""Bytes of a status as JSON; the API server stores more, for it notes who wrote each field."""
_READ_LATER = frozenset({"bytes", "seconds", "shards", "short"})
"""Metrics of old iterations that the plan, a repair, or a sum over the run reads."""


def fitted(status: RunStatus, largest: int = LARGEST) -> RunStatus:
    """The status with fewer metrics, from the first iteration on, as far as its size demands it.

    The newest two iterations keep all of theirs: scores are compared with those of the one before.
    """
    excess = len(status.to_json()) - largest
    groups = list(status.iterations)
    for place, group in enumerate(groups[:-2]):
        if excess <= 0:
            break
        groups[place] = _thin(group)
        excess -= len(group.to_json()) - len(groups[place].to_json())
    return status.model_copy(update={"iterations": groups})


def _thin(group: IterationStatus) -> IterationStatus:
    """The iteration with what later decisions read of it."""
    stages = []
    for entry in group.stages:
        if entry.state is StageState.DONE:
            kept = {
                name: value
                for name, value in entry.metrics.items()
                if name in _READ_LATER or name.endswith(".mean")
            }
            entry = entry.model_copy(update={"metrics": kept, "message": None})
        stages.append(entry)
    return group.model_copy(update={"stages": stages})
