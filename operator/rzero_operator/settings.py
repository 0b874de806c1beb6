"""The operator's configuration, all of it from environment variables that the chart sets."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

from rzero_operator.pods import StageDefaults


@dataclass(frozen=True)
class Settings:
    """What one operator process does, and where."""

    stage_defaults: StageDefaults
    namespaces: tuple[str, ...] = ()
    """Namespaces whose runs are served; none: all of the cluster."""
    leader_election: bool = False
    """Share the work's Lease with other replicas: one acts, the others wait."""
    lease_name: str = "rzero-operator"
    lease_namespace: str = "default"
    identity: str = "rzero-operator"
    """This replica's name in the Lease."""
    log_format: Literal["text", "json"] = "text"
    log_level: str = "INFO"
    workers: int = 16
    """Runs looked at side by side."""
    resync_seconds: float = 60.0
    http_port: int = 8080

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Raises `ValueError` that names the variable and the remedy."""

        def choice(name: str, options: Mapping[str, object]) -> object:
            value = environ.get(name) or next(iter(options))
            if value not in options:
                raise ValueError(f"{name}: write {' or '.join(options)}, not {value}")
            return options[value]

        def number(name: str, default: int, least: int) -> int:
            text = environ.get(name) or str(default)
            if not text.isdecimal() or int(text) < least:
                raise ValueError(f"{name}: write a whole number of at least {least}, not {text}")
            return int(text)

        names = [name.strip() for name in environ.get("RZERO_NAMESPACES", "").split(",")]
        return cls(
            stage_defaults=StageDefaults.from_environment(environ),
            namespaces=tuple(name for name in names if name),
            leader_election=bool(choice("RZERO_LEADER_ELECTION", {"false": False, "true": True})),
            lease_name=environ.get("RZERO_LEASE_NAME") or "rzero-operator",
            lease_namespace=environ.get("RZERO_LEASE_NAMESPACE")
            or environ.get("POD_NAMESPACE")
            or "default",
            identity=environ.get("POD_NAME") or socket.gethostname(),
            log_format="json" if choice("RZERO_LOG_FORMAT", {"text": "", "json": "j"}) else "text",
            log_level=str(
                choice(
                    "RZERO_LOG_LEVEL",
                    {name: name for name in ("INFO", "DEBUG", "WARNING", "ERROR")},
                )
            ),
            workers=number("RZERO_WORKERS", 16, 1),
            resync_seconds=float(number("RZERO_RESYNC_SECONDS", 60, 1)),
            http_port=number("RZERO_HTTP_PORT", 8080, 0),
        )
