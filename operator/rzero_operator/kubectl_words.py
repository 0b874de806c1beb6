"""What may stand for a word of `kubectl rzero`: names of runs, namespaces, and contexts."""

import typer

from rzero_operator.connection import ClusterError, Connection, Target, context_names


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


def _target(context: typer.Context) -> Target:
    """The cluster that the words so far mean."""
    options = context.params
    return Target(options.get("namespace"), options.get("context"), options.get("kubeconfig"))
