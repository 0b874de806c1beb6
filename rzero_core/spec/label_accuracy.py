"""How far labels may be trusted: auditors, and the guardrail that acts on what they find."""

from enum import StrEnum
from typing import ClassVar, Literal

from pydantic import Field

from rzero_core.spec.rules import Rule, Ruled, file_uri, http_url, object_name, written_as
from rzero_core.wire import Wire


class AuditorType(StrEnum):
    """What checks labels."""

    NONE = "None"
    """Nothing: only upper bounds are reported, and no guardrail acts."""
    PROGRAMMATIC = "Programmatic"
    """Computes the answers of questions that can be computed; says nothing about the others."""
    ORACLE = "Oracle"
    """A stronger model solves a sample of the questions, without seeing their labels."""


class Oracle(Ruled):
    """An OpenAI-compatible endpoint that solves questions blind."""

    endpoint: str = Field(max_length=1024)
    """Base URL of the API, for example https://host/v1."""
    model: str = Field(min_length=1, max_length=256)
    """Name of the model there."""
    secret_name: str | None = Field(None, max_length=253)
    """Secret with RZERO_ORACLE_API_KEY, referenced by the pod of BuildCurriculum only."""
    samples: int = Field(3, ge=1, le=64)
    """Answers drawn for each question; the verdict needs a strict majority of them."""
    requests_per_minute: int = Field(600, ge=1, le=1_000_000)
    """Upper bound of calls in a minute."""
    max_calls: int = Field(3000, ge=1, le=10_000_000)
    """Upper bound of calls in an iteration; what is not reached counts as abstained."""
    max_total_tokens: int = Field(10_000_000, ge=1, le=1_000_000_000_000)
    """Upper bound of prompt and completion tokens in an iteration, as the server counts them; what
    is not reached counts as abstained. The calls on their way when it is reached may exceed it."""
    max_tokens: int = Field(2048, ge=1, le=131072)
    """Longest answer, in tokens."""
    timeout_seconds: int = Field(120, ge=1, le=3600)
    """Longest time of one call."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        http_url("endpoint"),
        written_as(
            "endpoint",
            "[^?#]*",
            "write the base URL only, without '?' and '#': the API's path is put at its end, and "
            "a key belongs into the Secret of secretName",
        ),
        object_name("secretName", "Secret"),
    )


class Probes(Ruled):
    """Questions with known answers, voted on among the others and never trained on."""

    uri: str = Field(min_length=1, max_length=1024)
    """JSONL file, one JSON object {question, answer} a line: a path, `file://` or `s3://`."""
    count: int = Field(300, ge=1, le=100_000)
    """Probes in each iteration: the first ones of the file, always the same."""

    RULES: ClassVar[tuple[Rule, ...]] = (file_uri("uri"),)


class Auditor(Ruled):
    """What estimates the share of right labels."""

    type: AuditorType = AuditorType.NONE
    """What checks labels."""
    oracle: Oracle | None = None
    """Needed by type Oracle."""
    probes: Probes | None = None
    """Watches the path of the votes, and measures the oracle's own errors; with any type."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="oracle",
            message="type Oracle and the field oracle need each other; write oracle: {endpoint, "
            "model} or another type",
            cel="(self.type == 'Oracle') == has(self.oracle)",
            holds=lambda auditor: (
                (auditor.type is AuditorType.ORACLE) == (auditor.oracle is not None)
            ),
        ),
    )


class LabelAccuracy(Wire):
    """How far labels may be trusted, and what happens when they may not."""

    auditor: Auditor = Auditor()
    """What estimates the share of right labels."""
    sample_size: int = Field(300, ge=1)
    """Labels that an oracle judges in an iteration: twice or three times as many where these leave
    the interval too wide. Programmatic judges all that it can."""
    floor: float = Field(0.60, ge=0.0, le=1.0)
    """Pseudo-label accuracy below which the guardrail acts, once it is certain."""
    max_drop: float = Field(0.10, ge=0.0, le=1.0)
    """Loss of pseudo-label accuracy since the previous or the best iteration above which the
    guardrail acts, unless held-out scores certainly rise."""
    on_violation: Literal["Warn", "Pause", "Stop"] = "Warn"
    """What the guardrail does before a Solver is trained on labels that break a limit: tell, wait
    for `resume` or other limits, or end the run with its best checkpoint."""
