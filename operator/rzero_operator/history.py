"""Keeps the history of a long run small enough for the one object that holds it. Pure.

etcd refuses an object of more than 1.5 MiB. What is left out here is still in the manifests of the
artifacts; a report of old iterations shows less.
"""

from rzero_core.status import IterationStatus, RunStatus, StageState
from rzero_operator import canaries

LARGEST = 1_000_000
"""Bytes of a status as JSON; the API server stores more, for it notes who wrote each field."""
_READ_LATER = frozenset({"bytes", "settings", "shards", "short"}) | canaries.READ
"""Metrics of old iterations that the plan, a repair, or a sum over the run reads; and `*.mean`."""
_LONGEST_MESSAGE = 200


def fitted(status: RunStatus, largest: int = LARGEST) -> RunStatus:
    """The status with less of its first iterations, as far as its size demands it.

    The newest two iterations stay whole: scores are compared with those of the one before. A status
    of which nothing more can be left out may still be larger.
    """
    excess = _size(status) - largest
    groups = list(status.iterations)
    for place, group in enumerate(groups[:-2]):
        if excess <= 0:
            break
        groups[place] = _thin(group)
        excess -= _size(group) - _size(groups[place])
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
            entry = entry.model_copy(update={"metrics": kept})
        stages.append(entry)
    changes: dict[str, object] = {"stages": stages}
    if group.label_accuracy is not None:
        changes["label_accuracy"] = group.label_accuracy.model_copy(update={"samples": []})
    if (found := group.guardrail) is not None:
        told = {"canaries": [], "message": found.message[:_LONGEST_MESSAGE]}
        changes["guardrail"] = found.model_copy(update=told)
    return group.model_copy(update=changes)


def _size(part: RunStatus | IterationStatus) -> int:
    return len(part.to_json().encode())
