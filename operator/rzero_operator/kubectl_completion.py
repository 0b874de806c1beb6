"""Completes the words of `kubectl rzero`, for shells and for kubectl's own completion.

kubectl hands the words after `kubectl rzero` to an executable `kubectl_complete-rzero` on the PATH
and reads one completion a line, then a number that says what else the shell may offer.
"""

import os
import shlex
import sys
from contextlib import suppress

import typer

from rzero_operator.connection import ClusterError, Connection, Target, context_names

NO_FILES, FILES = 4, 0
"""Cobra's directives: offer nothing else, or files too."""
_FILE_OPTIONS = frozenset({"-o", "--output", "--kubeconfig"})


def run_names(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Runs of the namespace, with their phases."""
    try:
        runs = Connection(_target(context)).runs()
    except ClusterError:
        return []  # A shell shows no reasons.
    return [
        (run["metadata"]["name"], (run.get("status") or {}).get("phase", "Pending"))
        for run in runs
        if run["metadata"]["name"].startswith(incomplete)
    ]


def namespace_names(context: typer.Context, incomplete: str) -> list[str]:
    """Namespaces, where the user may list them."""
    try:
        names = Connection(_target(context)).namespaces()
    except ClusterError:
        return []
    return [name for name in names if name.startswith(incomplete)]


def contexts(context: typer.Context, incomplete: str) -> list[str]:
    """Contexts of the kubeconfig."""
    try:
        names = context_names(_target(context))
    except ClusterError:
        return []
    return [name for name in names if name.startswith(incomplete)]


def main() -> None:
    """Entry point of the script `kubectl_complete-rzero`."""
    # Imported here: its options name the functions of this module.
    from rzero_operator.kubectl import NAME, app

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


def _target(context: typer.Context) -> Target:
    """The cluster that the words so far mean."""
    options = context.params
    return Target(options.get("namespace"), options.get("context"), options.get("kubeconfig"))
