"""Reads of a pod which sidecar keeps its stage from its work; `observe` makes a reason of it. Pure.

Kubernetes starts a sidecar again for ever, whatever it ends with, and no rule of a Job sees that.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rzero_core.task import NEVER_RETRIED
from rzero_operator.pods import MAIN, SOLVER

SIDECAR_FAILED = "SidecarFailed"
"""The reason while a sidecar is started again and again, whatever it does at the moment."""
MOST_RESTARTS = 3
"""A Solver that was started so often again, and has ended again, does not come up."""


@dataclass(frozen=True)
class Trouble:
    """A sidecar that has ended, and is not up again."""

    message: str
    exit_code: int | None
    """Of the Solver's own, where no retry can mend it."""
    is_final: bool
    """Whether to wait longer is in vain."""


def trouble(pod: Mapping[str, Any]) -> Trouble | None:
    """What ails a sidecar of a pod whose stage is not over, None where none has ended."""
    status = pod.get("status", {})
    main = _state(status.get("containerStatuses") or (), MAIN)
    if "terminated" in main or pod["metadata"].get("deletionTimestamp") or _is_disrupted(pod):
        return None
    sidecars = {
        container["name"]
        for container in (pod.get("spec") or {}).get("initContainers") or ()
        if container.get("restartPolicy") == "Always"
    }
    for container in status.get("initContainerStatuses") or ():
        name = container.get("name")
        if name not in sidecars or container.get("started"):
            continue
        ends = [(container.get(at) or {}).get("terminated") for at in ("state", "lastState")]
        end: Mapping[str, Any] = next((end for end in ends if end), {})
        restarts, code = container.get("restartCount", 0), end.get("exitCode")
        # Only our own ends by the contract on exit codes. Others, as of a service mesh, may come up
        # when their server is back: they stall the run, and cost it nothing.
        hopeless = name == SOLVER and code in NEVER_RETRIED
        spent = name == SOLVER and restarts >= MOST_RESTARTS and "running" not in main
        if hopeless or restarts > 0:
            said = end.get("message") or f"{end.get('reason', 'ended')}, exit code {code}"
            return Trouble(
                f"container {name} does not come up: {said}",
                code if hopeless else None,
                # The last start, too, gets its time.
                hopeless or (spent and "running" not in _states(container)),
            )
    return None


def _is_disrupted(pod: Mapping[str, Any]) -> bool:
    """Whether the node ends the pod, which is no fault of the sidecar."""
    return any(
        condition.get("type") == "DisruptionTarget" and condition.get("status") == "True"
        for condition in pod.get("status", {}).get("conditions") or ()
    )


def _state(containers: Any, name: str) -> Mapping[str, Any]:
    """The state of one container; empty while none is told."""
    for container in containers:
        if container.get("name") == name:
            return _states(container)
    return {}


def _states(container: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a container is doing; a key may be there without a value."""
    return {key: at for key, at in (container.get("state") or {}).items() if at}
