"""The chart's files agree with each other and with the code."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from charts.readme import table, values, with_table

REPOSITORY = Path(__file__).parents[2]
CHART = REPOSITORY / "charts" / "rzero"


def read(name: str) -> str:
    return (CHART / name).read_text()


def test_the_readme_says_what_the_comments_of_the_values_say() -> None:
    readme = read("README.md")

    assert with_table(readme, table(values(read("values.yaml")))) == readme


def test_a_value_without_a_comment_is_named() -> None:
    with pytest.raises(ValueError, match=r"values.yaml line 3: write what b.c is"):
        values("# -- Words.\na: 1\nb: {c: 2}\n")


def test_a_comment_of_several_lines_becomes_one_cell_of_the_table() -> None:
    (value,) = values("# About the file.\n\n# -- One | two,\n# three.\na: {b: [1]}\n")

    assert table([value]).endswith('| `a` | `{"b": [1]}` | One \\| two, three. |')


def test_the_schema_names_the_same_values_as_the_file() -> None:
    schema = json.loads(read("values.schema.json"))
    named = dict(leaves(schema, schema["$defs"]))
    # Helm's own, for charts within charts.
    del named["global"]

    assert {value.path for value in values(read("values.yaml"))} == set(named)


def leaves(schema: Any, shared: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The values that a schema names; a probe and resources have further fields of Kubernetes'."""
    reference = schema.get("$ref", "").rpartition("/")[2]
    schema = shared[reference] if reference else schema
    if "properties" not in schema or reference in ("probe", "resources") or path in OPEN:
        yield path, schema
        return
    for name, child in schema["properties"].items():
        yield from leaves(child, shared, f"{path}.{name}".lstrip("."))


OPEN = {"stages.podTemplate"}


def test_chart_and_package_have_the_same_version() -> None:
    chart = yaml.safe_load(read("Chart.yaml"))
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]

    assert chart["version"] == chart["appVersion"] == project["version"]


def test_the_operator_reads_every_variable_that_the_chart_sets() -> None:
    sources = (REPOSITORY / "operator" / "rzero_operator").glob("*.py")
    code = "\n".join(path.read_text() for path in sources)
    variables = re.findall(r"- name: ((?:RZERO|POD)_\w+)", read("templates/deployment.yaml"))

    assert variables
    assert [name for name in variables if f'"{name}"' not in code] == []
