"""Completes the words of `kubectl rzero` for kubectl's own completion.

kubectl hands the words after `kubectl rzero` to an executable `kubectl_complete-rzero` on the PATH
and reads one completion a line, then a number that says what else the shell may offer.
"""

import os
import shlex
import sys
from contextlib import suppress

from rzero_operator.kubectl import NAME, app

NO_FILES, FILES = 4, 0
"""Cobra's directives: offer nothing else, or files too."""
_FILE_OPTIONS = frozenset({"-o", "--output", "--kubeconfig"})


def main() -> None:
    """Entry point of the script `kubectl_complete-rzero`."""
    words = sys.argv[1:] or [""]
    before = words[-2] if len(words) > 1 else ""
    # The protocol of the completion scripts that typer writes for fish.
    variable = f"_{NAME.replace('-', '_').upper()}_COMPLETE"
    line = shlex.join(words[:-1]) + " " + (shlex.quote(words[-1]) if words[-1] else "")
    os.environ[variable] = "complete_fish"
    os.environ["_TYPER_COMPLETE_FISH_ACTION"] = "get-args"
    os.environ["_TYPER_COMPLETE_ARGS"] = f"{NAME} {line.lstrip()}"
    with suppress(SystemExit):
        app(prog_name=NAME)
    print(f":{FILES if before in _FILE_OPTIONS else NO_FILES}")
