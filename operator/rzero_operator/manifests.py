"""Reads a run manifest from YAML: every mistake becomes one line that names file and field."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from rzero_core.run import API_VERSION, KIND, AuditorType, CoEvolutionRun, RunSpec
from rzero_core.wire import explain


class ManifestError(Exception):
    """A manifest that cannot be used; `lines` holds one sentence for each mistake."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-6 is a number and a repeated key is a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(
                    problem="a list or a map stands where the name of a field should",
                    problem_mark=key.start_mark,
                )
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"{key.value} stands here for the second time; keep one of the two",
                    problem_mark=key.start_mark,
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# YAML 1.1 wants a dot and a sign in the exponent; people write 1e-6 and 1.0e6, as YAML 1.2 allows.
_FLOAT = r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if tag != "tag:yaml.org,2002:float"]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(_FLOAT), list("-+.0123456789"))


def load(path: Path) -> CoEvolutionRun:
    """The one run in a file. Raises `ManifestError` with a line for each mistake."""
    data = _document(path)
    if not isinstance(data, dict):
        raise ManifestError([f"{path}: expected apiVersion, kind, metadata and spec"])
    if data.get("kind") != KIND or data.get("apiVersion") != API_VERSION:
        raise ManifestError(
            [
                f"{path}: expected apiVersion {API_VERSION} and kind {KIND}, "
                f"got {data.get('apiVersion')} and {data.get('kind')}"
            ]
        )
    # Kubernetes fills it in; a manifest that was read back from a cluster is welcome.
    data.pop("status", None)
    try:
        return CoEvolutionRun.parse(data)
    except ValidationError as error:
        raise ManifestError([f"{path}: {line}" for line in explain(error)]) from error
    except ValueError as error:
        # A map that holds itself, or bytes that are no text.
        raise ManifestError(
            [f"{path}: not plain text, numbers, lists and maps ({_one_line(error)})"]
        ) from error


def without_effect_locally(spec: RunSpec) -> list[str]:
    """A line for each field that is set but does nothing on one machine."""
    lines = []
    if spec.queue_name is not None:
        lines.append("spec.queueName: has no effect on one machine")
    if spec.storage.secret_name is not None:
        lines.append(
            "spec.storage.secretName: has no effect on one machine; set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY"
        )
    auditor = spec.label_accuracy.auditor
    oracle = auditor.oracle
    if oracle is not None and oracle.secret_name is not None:
        lines.append(
            "spec.labelAccuracy.auditor.oracle.secretName: has no effect on one machine; set "
            "RZERO_ORACLE_API_KEY"
        )
    # Silence here would let a user trust a guardrail that is not there.
    if spec.label_accuracy.on_violation != "Warn" and auditor.type is AuditorType.NONE:
        lines.append(
            f"spec.labelAccuracy.onViolation: {spec.label_accuracy.on_violation} has no effect "
            "without an auditor; set spec.labelAccuracy.auditor.type"
        )
    for name, field in type(spec.stages).model_fields.items():
        settings = getattr(spec.stages, name)
        if settings.pod_template is not None:
            lines.append(f"spec.stages.{field.alias}.podTemplate: has no effect on one machine")
        if settings.nodes > 1:
            lines.append(f"spec.stages.{field.alias}.nodes: has no effect on one machine")
    return lines


def _document(path: Path) -> Any:
    try:
        documents = list(yaml.load_all(path.read_text(encoding="utf-8"), _Loader))
    except FileNotFoundError as error:
        raise ManifestError([f"{path}: no such file"]) from error
    except OSError as error:
        raise ManifestError([f"{path}: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ManifestError([f"{path}: not a text file in UTF-8"]) from error
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ManifestError([f"{path}: {line}{error.problem}"]) from error
    except yaml.YAMLError as error:
        raise ManifestError([f"{path}: {_one_line(error)}"]) from error
    except ValueError as error:
        # The 31st of February, a number with thousands of digits.
        raise ManifestError([f"{path}: a value cannot be read ({_one_line(error)})"]) from error
    except RecursionError as error:
        raise ManifestError([f"{path}: lists or maps are nested too deeply"]) from error
    documents = [document for document in documents if document is not None]
    if not documents:
        raise ManifestError([f"{path}: the file is empty"])
    if len(documents) > 1:
        raise ManifestError([f"{path}: {len(documents)} documents; put each run in its own file"])
    return documents[0]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
