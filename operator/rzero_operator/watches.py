"""Kopf as the source of events and nothing else: what it watches, and what it must not do.

No handler changes an object, so kopf needs no finalizer and nothing to compare objects with; its
own storages, which would copy every object several times for every event, are replaced.
"""

from collections.abc import Callable, Coroutine
from typing import Any

import kopf

from rzero_operator.cluster import GROUP, PAGE, PLURAL, VERSION
from rzero_operator.jobs import RUN_UID_LABEL


class _NoDiffBase(kopf.DiffBaseStorage):
    """Nothing is compared with what was there before."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        return {}

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        pass


class _NoProgress(kopf.ProgressStorage):
    """A handler that fails is not retried: the queue does that."""

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        pass

    def purge(self, **_: Any) -> None:
        pass

    def touch(self, **_: Any) -> None:
        pass

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        return essence


def registry(
    on_run: Callable[..., Coroutine[Any, Any, None]],
    on_child: Callable[..., Coroutine[Any, Any, None]],
) -> kopf.OperatorRegistry:
    """Kopf's handlers: runs, and the Jobs and pods of runs."""
    handlers = kopf.OperatorRegistry()
    kopf.on.event(GROUP, VERSION, PLURAL, registry=handlers)(on_run)
    kopf.on.event("batch", "v1", "jobs", registry=handlers)(on_child)
    kopf.on.event("", "v1", "pods", registry=handlers)(on_child)
    kopf.on.login(registry=handlers)(_login)
    return handlers


def kopf_settings() -> kopf.OperatorSettings:
    """Kopf as a mere source of events."""
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.watching.label_selectors["batch", "v1", "jobs"] = RUN_UID_LABEL
    settings.watching.label_selectors["", "v1", "pods"] = RUN_UID_LABEL
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.chunk_size = PAGE
    settings.networking.request_timeout = 30
    # A run is looked at once for events that come together; longer delays every stage.
    settings.queueing.batch_window = 0.02
    # A handler that waits for further events keeps the last: a run may hold 1 MB.
    settings.queueing.idle_timeout = 0.2
    settings.persistence.diffbase_storage = _NoDiffBase()
    settings.persistence.progress_storage = _NoProgress()
    return settings


def _login(**kwargs: Any) -> kopf.ConnectionInfo | None:
    return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)
