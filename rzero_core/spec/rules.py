"""What a type cannot say of a field: one sentence that Python and a cluster (in CEL) check alike.

`tests/controlplane/test_crd.py` shows for each rule that both give the same verdict.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import model_validator
from pydantic.alias_generators import to_snake
from pydantic_core import PydanticCustomError

from rzero_core.wire import Wire

S3_BUCKET = "s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"


@dataclass(frozen=True)
class Rule:
    """A condition on an object of the spec."""

    field: str
    """Where a mistake is reported: a camelCase path below the object."""
    message: str
    """What to write instead, in one sentence."""
    cel: str
    """The condition over `self`; what a preset may fill in is written as if it were there."""
    holds: Callable[[Any], bool]
    """The same condition over the parsed object."""


@dataclass(frozen=True)
class Transition:
    """A condition on a change, which only a cluster sees: it alone knows the old object."""

    field: str
    """Where a mistake is reported: a camelCase path below the object."""
    message: str
    """What to do instead, in one sentence."""
    cel: str
    """The condition over `self` and `oldSelf`."""


class Ruled(Wire):
    """An object with rules."""

    RULES: ClassVar[tuple[Rule, ...]] = ()
    TRANSITIONS: ClassVar[tuple[Transition, ...]] = ()

    @model_validator(mode="after")
    def _rules_hold(self) -> Self:
        for rule in self.RULES:
            if not rule.holds(self):
                raise PydanticCustomError(
                    "rule", "{message}", {"message": rule.message, "field": rule.field}
                )
        return self


def written_as(field: str, pattern: str, message: str) -> Rule:
    """The whole text of a field, where it is there, matches a pattern (Python's and RE2)."""

    def holds(item: Any) -> bool:
        value = getattr(item, to_snake(field))
        return value is None or re.fullmatch(pattern, value) is not None

    return Rule(
        field=field,
        message=message,
        cel=f"!has(self.{field}) || self.{field}.matches(r'^(?:{pattern})$')",
        holds=holds,
    )


def object_name(field: str, kind: str) -> Rule:
    """A field names an object of the cluster, such as a Secret."""
    return written_as(
        field,
        r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
        f"write the name of a {kind}: lower-case letters, digits, '-' and '.', with a letter or "
        "digit at both ends",
    )


def http_url(field: str) -> Rule:
    """A field holds the address of an HTTP server."""
    return written_as(field, "https?://[^/ ].*", "write http://host or https://host")


def path_or_uri(field: str, pattern: str, message: str) -> Rule:
    """A field holds a plain path, or a URI that matches a pattern."""
    written = written_as(field, pattern, message)

    def holds(item: Any) -> bool:
        return "://" not in getattr(item, to_snake(field)) or written.holds(item)

    return Rule(field, message, f"!self.{field}.contains('://') || {written.cel}", holds)


def file_uri(field: str) -> Rule:
    """A field names a file that a stage reads."""
    return path_or_uri(
        field,
        f"{S3_BUCKET}/.+|file://.+",
        "write s3://bucket/path (a bucket name has 3 to 63 characters), file:///path or a plain "
        "path",
    )


def immutable(field: str) -> Transition:
    """A field keeps the value that the run began with, absence included."""
    new, old = f"self.{field}", f"oldSelf.{field}"
    return Transition(
        field=field,
        message=f"{field} is immutable; start a new run under another name",
        # An absent field cannot be compared, and an optional value costs CEL more than its budget.
        cel=f"has({new}) == has({old}) && (!has({new}) || {new} == {old})",
    )
