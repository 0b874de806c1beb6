"""Log lines, for people and for machines, say which run and attempt they are about."""

import json
import subprocess
import sys

RUN = {"namespace": "lab", "run": "first", "iteration": 2, "stage": "trainSolver", "attempt": 3}
PROGRAM = f"""
import logging, sys
from rzero_operator import logs
logs.set_up(sys.argv[1], "INFO")
logging.getLogger("rzero_operator.reconciler").warning("the node is gone", extra={RUN})
logging.getLogger("kopf.objects").info("an event for each change")
logging.getLogger("rzero_operator.reconciler").debug("details")
"""


def lines(format: str) -> list[str]:
    """What a process logs in this format."""
    command = [sys.executable, "-c", PROGRAM, format]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()


def test_json_lines_hold_the_run_as_fields() -> None:
    (line,) = lines("json")
    record = json.loads(line)
    assert record.pop("time")
    assert record == {
        **RUN,
        "level": "WARNING",
        "logger": "rzero_operator.reconciler",
        "message": "the node is gone",
    }


def test_text_lines_end_with_the_run() -> None:
    (line,) = lines("text")
    assert line.endswith(
        "WARNING rzero_operator.reconciler the node is gone "
        "namespace=lab run=first iteration=2 stage=trainSolver attempt=3"
    )
