"""Renders the schema of CoEvolutionRun from run.py and status.py, for the CRD.

A field's docstring becomes its description, its type and range the schema, its rules CEL. A field
that a preset may fill in has no default in the schema: a cluster would fill it in before the preset
is looked at. Rules over such fields stand at `spec`, where the preset can be seen.
"""

import ast
import inspect
import re
import types
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from rzero_core.run import API_VERSION, KIND, PRESETS, CoEvolutionRun, Metadata, Preset, RunSpec
from rzero_core.spec.rules import Rule, Ruled
from rzero_core.status import RunStatus

LIST_KEYS = {
    "spec.evaluation.datasets": ["name"],
    "status.iterations": ["iteration"],
    "status.iterations.stages": ["stage", "round"],
    "status.conditions": ["type"],
}
"""What makes an item of a list of objects unique; any other list is replaced as a whole."""

Schema = dict[str, Any]


def root_schema() -> Schema:
    """The schema of a whole run."""
    renderer = _Renderer()
    spec = renderer.object(RunSpec, "spec")
    spec["x-kubernetes-validations"] += renderer.hoisted
    (name,) = Metadata.RULES
    return {
        "description": f"{_one_line(RunSpec.__doc__)} Only its spec is yours to write.",
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": f"{API_VERSION}."},
            "kind": {"type": "string", "description": f"{KIND}."},
            # Named only so that the rule below can point at it.
            "metadata": {"type": "object", "properties": {"name": {"type": "string"}}},
            "spec": {"description": CoEvolutionRun.model_fields["spec"].description, **spec},
            "status": {
                "description": _one_line(RunStatus.__doc__),
                **renderer.object(RunStatus, "status"),
            },
        },
        "x-kubernetes-validations": [
            _rendered(name.cel.replace("self.", "self.metadata."), name.message, "metadata.name")
        ],
    }


def preset_values() -> dict[str, dict[Preset, Any]]:
    """What each preset gives the fields that any preset fills in, by path below `spec`.

    None: the field is then absent.
    """
    paths = {path for overlay in PRESETS.values() for path in _leaves(overlay)}
    smallest = {"model": "m", "storage": {"uri": "u"}}
    specs = {preset: RunSpec.parse(smallest | {"preset": preset}).to_dict() for preset in Preset}
    return {path: {preset: _at(specs[preset], path) for preset in Preset} for path in sorted(paths)}


def _default_words(values: Mapping[Preset, Any]) -> str:
    """The defaults of a field that depend on the preset, in words."""
    words = [f"{'none' if value is None else value} ({preset})" for preset, value in values.items()]
    return f"Default by preset: {', '.join(words)}."


class _Renderer:
    """Walks a model from its root; `hoisted` gathers the rules that belong to `spec`."""

    def __init__(self) -> None:
        self.presets = preset_values()
        self.hoisted: list[Schema] = []

    def object(self, model: type[BaseModel], path: str) -> Schema:
        """The schema of a model that stands at `path`."""
        properties, required = {}, []
        for field in model.model_fields.values():
            name = str(field.alias)
            properties[name] = self._field(field, f"{path}.{name}")
            if field.is_required():
                required.append(name)
        schema: Schema = {"type": "object", "properties": properties}
        if required:
            schema["required"] = required
        rules = self._rules(model, path) if issubclass(model, Ruled) else []
        if rules:
            schema["x-kubernetes-validations"] = rules
        return schema

    def _field(self, field: FieldInfo, path: str) -> Schema:
        kind = _without_none(field.annotation)
        description = _one_line(field.description or "")
        if _is_model(kind):
            schema = self.object(kind, path)
            if path.startswith("spec.") and not field.is_required() and field.default is not None:
                inner = schema["properties"].items()
                default = {name: item["default"] for name, item in inner if "default" in item}
                if default:
                    schema["default"] = default
        else:
            schema = self._leaf(field, kind, path)
            if _is_enum(kind):
                description = f"{description} {_members(kind)}"
            values = self.presets.get(path.removeprefix("spec."))
            if values is not None:
                description = f"{description} {_default_words(values)}"
            elif _has_default(field, path):
                schema["default"] = TypeAdapter(Any).dump_python(field.default, mode="json")
        return {"description": description, **schema}

    def _leaf(self, field: FieldInfo, kind: Any, path: str) -> Schema:
        if get_origin(kind) is dict:
            values = get_args(kind)[1]
            if values is Any:
                return {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
            return {"type": "object", "additionalProperties": {"type": "string"}}
        schema = _plain(TypeAdapter(Annotated[kind, None, *field.metadata]).json_schema())
        if get_origin(kind) is list:
            (item,) = get_args(kind)
            if not _is_model(item):
                items = _plain(TypeAdapter(item).json_schema())
                return schema | {"items": items, "x-kubernetes-list-type": "atomic"}
            schema["items"] = self.object(item, path)
            if path not in LIST_KEYS:
                return schema | {"x-kubernetes-list-type": "atomic"}
            schema |= {"x-kubernetes-list-type": "map"}
            schema |= {"x-kubernetes-list-map-keys": LIST_KEYS[path]}
        return schema

    def _rules(self, model: type[Ruled], path: str) -> list[Schema]:
        here = []
        inside = path.removeprefix("spec").removeprefix(".")
        for rule in model.RULES:
            if any(_at_spec(rule, inside, known) for known in self.presets):
                self.hoisted.append(self._hoist(rule, inside))
            else:
                here.append(_rendered(rule.cel, rule.message, rule.field))
        for change in model.TRANSITIONS:
            here.append(_rendered(change.cel, change.message, change.field))
        return here

    def _hoist(self, rule: Rule, inside: str) -> Schema:
        """A rule moved to `spec`, with the preset's values where fields are absent."""
        prefix = f"{inside}." if inside else ""
        cel = rule.cel.replace("self.", f"self.{prefix}")
        for path, values in self.presets.items():
            parent, _, leaf = path.rpartition(".")
            given = [preset for preset, value in values.items() if value is not None]
            presets = "[" + ", ".join(f"'{preset}'" for preset in given) + "]"
            value = f"self.{parent}.?{leaf}.orValue({_choice(values)})"
            # `has` first: what it is asked about must not become a value.
            cel = re.sub(
                rf"has\(self\.{re.escape(path)}\)",
                f"(has(SELF.{path}) || self.preset in {presets})",
                cel,
            )
            cel = re.sub(rf"\bself\.{re.escape(path)}\b", value, cel).replace("SELF.", "self.")
        return _rendered(cel, rule.message, f"{prefix}{rule.field}")


def _rendered(cel: str, message: str, field: str) -> Schema:
    return {"rule": cel, "message": message, "fieldPath": f".{field}"}


def _at_spec(rule: Rule, inside: str, known: str) -> bool:
    """Whether a rule of the object at `inside` speaks of a field that presets fill in."""
    prefix = f"{inside}." if inside else ""
    names = re.findall(r"\bself\.((?:\w+\.)*\w+)\b", rule.cel)
    return known in {f"{prefix}{name}" for name in names}


def _choice(values: Mapping[Preset, Any]) -> str:
    """CEL for the value of the run's preset."""
    known = {preset: value for preset, value in values.items() if value is not None}
    *others, last = known.items()
    words = [f"self.preset == '{preset}' ? {_literal(value)} : " for preset, value in others]
    return "".join(words) + _literal(last[1])


def _literal(value: Any) -> str:
    return f"'{value}'" if isinstance(value, str) else repr(value)


def _leaves(overlay: Mapping[str, Any], prefix: str = "") -> list[str]:
    paths = []
    for key, value in overlay.items():
        if isinstance(value, Mapping):
            paths += _leaves(value, f"{prefix}{key}.")
        else:
            paths.append(f"{prefix}{key}")
    return paths


def _at(data: Any, path: str) -> Any:
    for key in path.split("."):
        data = data.get(key) if data is not None else None
    return data


def _has_default(field: FieldInfo, path: str) -> bool:
    if field.is_required() or field.default is None:
        return False
    # Of the status only what makes an item of a list unique: all else is written by the operator.
    return path.startswith("spec.") or path == "status.iterations.stages.round"


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, types.UnionType):
        (kind,) = [kind for kind in get_args(annotation) if kind is not type(None)]
        return kind
    return annotation


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, StrEnum)


def _plain(schema: Schema) -> Schema:
    """A JSON schema in the dialect of CRDs: OpenAPI 3.0 without references."""
    schema = dict(schema)
    definitions = schema.pop("$defs", {})
    reference = schema.pop("$ref", None)
    if reference is not None:
        schema |= definitions[reference.rpartition("/")[2]]
    for key in ("title", "description", "items"):
        schema.pop(key, None)
    for bound in ("Minimum", "Maximum"):
        if f"exclusive{bound}" in schema:
            schema[bound.lower()] = schema[f"exclusive{bound}"]
            schema[f"exclusive{bound}"] = True
    return schema


def _members(kind: type[StrEnum]) -> str:
    """What each member of an enumeration means, from the docstrings below the members."""
    body = ast.parse(inspect.getsource(kind)).body[0]
    assert isinstance(body, ast.ClassDef)
    words: dict[str, str] = {}
    value = ""
    for node in body.body:
        match node:
            case ast.Assign(value=ast.Constant(value=str() as value)):
                words[value] = ""
            case ast.Expr(value=ast.Constant(value=str() as text)) if value:
                words[value] = _one_line(text).rstrip(".")
    return " ".join(f"{name}: {text}." for name, text in words.items() if text)


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())
