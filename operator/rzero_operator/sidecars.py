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
"""A sidecar that was started so often again, and still is not up, does not come up."""


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
    if "terminated" in main or pod["metadata"].get("deletionTimestamp"):
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
        # Only our own containers end by the contract on exit codes.
        hopeless = name == SOLVER and code in NEVER_RETRIED
        if hopeless or restarts > 0:
            said = end.get("message") or f"{end.get('reason', 'ended')}, exit code {code}"
            return Trouble(
                f"container {name} does not come up: {said}",
                code if hopeless else None,
                hopeless or (restarts >= MOST_RESTARTS and "running" not in main),
            )
    return None


def _state(containers: Any, name: str) -> Mapping[str, Any]:
    """The state of one container; empty while none is told. A key may be there without a value."""
    for container in containers:
        if container.get("name") == name:
            return {key: at for key, at in (container.get("state") or {}).items() if at}
    return {}
