"""Has a report written by another process, so that no command imports the stages' libraries."""

import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from rzero_core.run import CoEvolutionRun
from rzero_core.task import BadConfiguration


def write_report(run: CoEvolutionRun, status: Path, output: Path, *options: str) -> int:
    """Write the page; the exit code of the process, which told the user what went wrong.

    Raises `BadConfiguration` where the libraries that the report needs are not installed.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as plain:
        # As the caller understood it: all defaults spelled out, numbers that all parsers read.
        yaml.safe_dump(run.to_dict(), plain)
        plain.flush()
        command = [sys.executable, "-P", "-m", "rzero_stages.report", *options]
        arguments = [str(status), plain.name, str(output)]
        done = subprocess.run(command + arguments, check=False, stderr=subprocess.PIPE, text=True)
    if "ModuleNotFoundError" in done.stderr:
        missing = done.stderr.strip().splitlines()[-1].rpartition(": ")[2]
        raise BadConfiguration(f"a report needs more libraries ({missing}); install rzero[stages]")
    sys.stderr.write(done.stderr)
    return done.returncode
