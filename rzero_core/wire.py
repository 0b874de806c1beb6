"""The base of everything that crosses a process boundary: frozen, closed, camelCase outside."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import to_json


class Wire(BaseModel):
    """Base of everything that crosses a process boundary.

    Strict: a number written as text is an error here as it is for the Kubernetes API server.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )

    @classmethod
    def parse(cls, data: Any) -> Self:
        """Validate plain data (from YAML or JSON). Raises `pydantic.ValidationError`.

        Fields go by their camelCase names alone, as in the schema that a cluster checks.
        """
        # Strict JSON mode: enums come as strings and times as ISO 8601, all else keeps its type.
        return cls.model_validate_json(to_json(data), by_alias=True, by_name=False)

    def to_json(self, *, indent: int | None = None) -> str:
        """JSON with camelCase names, without absent values."""
        return self.model_dump_json(exclude_none=True, indent=indent)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data with camelCase names, without absent values."""
        data: dict[str, Any] = TypeAdapter(dict[str, Any]).validate_json(self.to_json())
        return data


def explain(error: ValidationError, root: str = "") -> list[str]:
    """One line for each mistake: the field as the user wrote it, then what to write instead."""
    lines = []
    for item in error.errors():
        path = [str(part) for part in item["loc"]]
        if item["type"] == "rule":
            path.append(item["ctx"]["field"])
        field = ".".join([root, *path] if root else path)
        if item["type"] == "extra_forbidden":
            message = "unknown field; check its spelling and indentation"
        elif item["type"] == "missing":
            message = "required, but missing"
        else:
            message = item["msg"].removeprefix("Value error, ")
            if not isinstance(item["input"], dict | list):
                message += f" (got {item['input']!r})"
        lines.append(f"{field}: {message}" if field else message)
    return lines
