"""Renders a transition of a run as an event that `kubectl describe` shows. Pure."""

import hashlib
from datetime import datetime
from typing import Any

from rzero_core.run import API_VERSION, KIND
from rzero_operator.conditions import rfc3339
from rzero_operator.decision import Event, RunIdentity

LONGEST_MESSAGE = 1024
"""Characters that the API server takes."""


def event(run: RunIdentity, told: Event, now: datetime) -> dict[str, Any]:
    """The core/v1 Event; told twice in the same second it has the same name."""
    time = rfc3339(now)
    digest = hashlib.sha256(
        "\n".join((run.ref.uid, told.reason, told.message, time)).encode()
    ).hexdigest()[:16]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{run.ref.name}.{digest}", "namespace": run.ref.namespace},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": run.ref.name,
            "namespace": run.ref.namespace,
            "uid": run.ref.uid,
        },
        "reason": told.reason,
        "message": told.message[:LONGEST_MESSAGE],
        "type": "Warning" if told.warning else "Normal",
        "firstTimestamp": time,
        "lastTimestamp": time,
        "count": 1,
        "source": {"component": "rzero-operator"},
        "reportingComponent": "rzero-operator",
        "reportingInstance": "",
    }
