"""Writes the table of values in the chart's README.md from the comments in its values.yaml.

A comment block that starts with `# --` documents the value under it. `--check` changes nothing and
fails when the table is not what values.yaml says, as it also fails on a value without a comment.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

CHART = Path(__file__).parent / "rzero"
BEGIN = "<!-- values: written by charts/readme.py -->"
END = "<!-- end of values -->"


class Value(NamedTuple):
    """A documented value of the chart."""

    path: str
    default: str
    words: str


def values(text: str) -> list[Value]:
    """All values of a values.yaml, in its order. Raises ValueError for one without a comment."""
    root = yaml.compose(text)
    if not isinstance(root, yaml.MappingNode):
        raise ValueError("values.yaml: write a mapping")
    return list(_walk(root, text.splitlines(), ""))


def table(documented: list[Value]) -> str:
    """The Markdown table."""
    rows = [f"| `{value.path}` | `{value.default}` | {value.words} |" for value in documented]
    return "\n".join(["| value | default | what it is |", "|---|---|---|", *rows])


def with_table(readme: str, new: str) -> str:
    """A README with another table. Raises ValueError when it has no place for one."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"README.md: write the lines {BEGIN} and {END} where the table belongs")
    return f"{before}{BEGIN}\n{new}\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, fail on a difference")
    check = parser.parse_args().check
    readme = CHART / "README.md"
    old = readme.read_text()
    new = with_table(old, table(values((CHART / "values.yaml").read_text())))
    if check and new != old:
        sys.exit("charts/rzero/README.md is not what values.yaml says: run `make chart-readme`")
    if not check:
        readme.write_text(new)


def _walk(node: yaml.MappingNode, lines: list[str], prefix: str) -> Iterator[Value]:
    for key, child in node.value:
        path = f"{prefix}{key.value}"
        words = _comment_above(lines, key.start_mark.line)
        if words is not None:
            default = json.dumps(_plain(child), ensure_ascii=False).replace("|", "\\|")
            yield Value(path, default, words.replace("|", "\\|"))
        elif isinstance(child, yaml.MappingNode) and child.value:
            yield from _walk(child, lines, f"{path}.")
        else:
            line = key.start_mark.line + 1
            raise ValueError(
                f"values.yaml line {line}: write what {path} is above it, after `# --`"
            )


def _comment_above(lines: list[str], line: int) -> str | None:
    """The block of comments that ends above a line, None if it is not documentation."""
    block: list[str] = []
    for above in reversed(lines[:line]):
        words = above.strip()
        if not words.startswith("#"):
            return None
        block.insert(0, words.lstrip("#").strip())
        if block[0].startswith("-- "):
            return " ".join(block).removeprefix("-- ")
    return None


def _plain(node: yaml.Node) -> object:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_document(node)
    finally:
        loader.dispose()


if __name__ == "__main__":
    main()
