"""The command `kubectl rzero`: shows and steers the runs of a cluster, by its user's own rights."""

import json as json_text
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec

import typer
from pydantic import ValidationError
from rich.console import Console

from rzero_core.run import CoEvolutionRun, Stage
from rzero_core.status import Phase, StageState
from rzero_core.task import BadConfiguration
from rzero_operator import kubectl_words as complete
from rzero_operator.conditions import TERMINAL, condition_of
from rzero_operator.connection import ClusterError, Connection, Target, skewed, status_of
from rzero_operator.guardrails import is_held, is_stopped
from rzero_operator.jobs import RESUME_ANNOTATION, RETRY_ANNOTATION
from rzero_operator.kubectl_logs import StageLogs
from rzero_operator.pods import MAIN
from rzero_operator.printable import printable
from rzero_operator.report_process import write_report
from rzero_operator.views import closing_lines, overview, table

_P = ParamSpec("_P")
NAME = "kubectl-rzero"
FAILED = 1

app = typer.Typer(
    name=NAME,
    help="Show and steer the runs of a cluster.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
Run = Annotated[
    str, typer.Argument(metavar="NAME", help="A run.", autocompletion=complete.run_names)
]
Namespace = Annotated[
    str | None,
    typer.Option(
        "--namespace",
        "-n",
        help="Namespace of the run; else that of the context.",
        autocompletion=complete.namespace_names,
    ),
]
Context = Annotated[
    str | None,
    typer.Option(
        help="Context of the kubeconfig; else the current one.",
        autocompletion=complete.contexts,
    ),
]
Kubeconfig = Annotated[Path | None, typer.Option(help="Else $KUBECONFIG or ~/.kube/config.")]


def main() -> None:
    """Entry point of the console script; kubectl finds it by its name."""
    app(prog_name=NAME)


def _one_line_errors(command: Callable[_P, None]) -> Callable[_P, None]:
    """What the cluster refuses is a line on standard error, never a traceback."""

    @wraps(command)
    def guarded(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (ClusterError, BadConfiguration) as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(FAILED) from error

    return guarded


@app.command()
@_one_line_errors
def status(
    name: Annotated[
        str | None,
        typer.Argument(help="A run; none: a table of them.", autocompletion=complete.run_names),
    ] = None,
    all_namespaces: Annotated[
        bool, typer.Option("--all-namespaces", "-A", help="Runs of all namespaces.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="The whole status, as JSON.")] = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show the runs, or one run's iterations, stages, attempts and label accuracy."""
    connection = Connection(Target(namespace, context, kubeconfig))
    if name is None:
        _list(connection, everywhere=all_namespaces, json=json)
        return
    raw = connection.run(name)
    if json:
        typer.echo(json_text.dumps(raw.get("status") or {}, indent=2))
        return
    reported = status_of(raw)
    console = _console()
    try:
        spec = raw["spec"]
        shown = overview(name, spec["iterations"], spec["labelAccuracy"]["floor"], reported)
    except ValueError as error:
        raise ClusterError(
            f"the status of run {name} holds what the operator did not write ({error}); it is "
            "mended when the operator runs"
        ) from error
    console.print(shown)
    for line in closing_lines(reported):
        console.print(line, markup=False, highlight=False)


@app.command()
@_one_line_errors
def logs(
    name: Run,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on, stage after stage, until the run ends.")
    ] = False,
    stage: Annotated[
        Stage | None, typer.Option(help="Newest attempt at this stage; else the current one.")
    ] = None,
    container: Annotated[
        str, typer.Option("--container", "-c", help="`solver` is the frozen Solver's.")
    ] = MAIN,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Print the logs of the current stage, of all its shards."""
    connection = Connection(Target(namespace, context, kubeconfig))
    reader = StageLogs(connection, name, stage, container)
    harmless = sys.stdout.isatty()
    for line in reader.follow() if follow else reader.read():
        typer.echo(_keep_tabs(line) if harmless else line)


@app.command()
@_one_line_errors
def suspend(
    name: Run, namespace: Namespace = None, context: Context = None, kubeconfig: Kubeconfig = None
) -> None:
    """Stop a run after a checkpoint; its pods go, its artifacts stay."""
    connection = Connection(Target(namespace, context, kubeconfig))
    raw = connection.run(name)
    if _has_ended(raw):
        typer.echo(f"run {name} has {status_of(raw).phase.lower()}; nothing is left to suspend")
        return
    connection.change_run(name, {"spec": {"suspend": True}})
    typer.echo(f"run {name} stops after a checkpoint; `kubectl rzero resume {name}` continues it")


@app.command()
@_one_line_errors
def resume(
    name: Run, namespace: Namespace = None, context: Context = None, kubeconfig: Kubeconfig = None
) -> None:
    """Continue a suspended run, also one that the guardrail paused or stopped."""
    connection = Connection(Target(namespace, context, kubeconfig))
    raw = connection.run(name)
    change: dict[str, Any] = {}
    if raw["spec"].get("suspend"):
        change["spec"] = {"suspend": False}
    if is_held(status_of(raw)):
        change["metadata"] = {"annotations": {RESUME_ANNOTATION: datetime.now(UTC).isoformat()}}
    if not change:
        typer.echo(f"run {name} was not suspended")
        return
    connection.change_run(name, change)
    typer.echo(f"run {name} continues")


@app.command()
@_one_line_errors
def retry(
    name: Run, namespace: Namespace = None, context: Context = None, kubeconfig: Kubeconfig = None
) -> None:
    """Try what failed again, with fresh budgets, or replace an attempt that cannot go on.

    A run that succeeded though evaluations failed is evaluated again.
    """
    connection = Connection(Target(namespace, context, kubeconfig))
    raw = connection.run(name)
    reported = status_of(raw)
    stalled = condition_of(reported, "Stalled")
    if stalled is None or stalled.status != "True":
        if not _evaluation_failed(raw):
            nothing = "nothing failed, so nothing to retry"
            raise ClusterError(f"run {name} is {reported.phase}: {nothing}")
        if reported.phase not in TERMINAL:
            later = "only an evaluation failed; retry it when the run has ended"
            raise ClusterError(f"run {name} is {reported.phase}: {later}")
    value = datetime.now(UTC).isoformat()
    connection.change_run(name, {"metadata": {"annotations": {RETRY_ANNOTATION: value}}})
    typer.echo(f"run {name} is tried again; stages that are done are not done again")


@app.command()
@_one_line_errors
def report(
    name: Run,
    output: Annotated[Path, typer.Option("--output", "-o", help="The page to write.")] = Path(
        "report.html"
    ),
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Write one self-contained HTML page from what the status of a run says."""
    raw = Connection(Target(namespace, context, kubeconfig)).run(name)
    reported = status_of(raw)
    try:
        declared = CoEvolutionRun.parse({k: v for k, v in raw.items() if k != "status"})
    except ValidationError as error:
        raise skewed(raw, error) from error
    with tempfile.NamedTemporaryFile("w", suffix=".json") as status_file:
        status_file.write(reported.to_json())
        status_file.flush()
        code = write_report(declared, Path(status_file.name), output, "--status-only")
    if code:
        raise typer.Exit(code)
    typer.echo(f"wrote {output}")


def _list(connection: Connection, *, everywhere: bool, json: bool) -> None:
    runs = connection.runs(everywhere=everywhere)
    if json:
        found = [
            {
                "namespace": run["metadata"]["namespace"],
                "name": run["metadata"]["name"],
                "status": run.get("status") or {},
            }
            for run in runs
        ]
        typer.echo(json_text.dumps(found, indent=2))
    elif not runs:
        where = "any namespace" if everywhere else f"namespace {connection.namespace}"
        typer.echo(f"no runs in {where}", err=True)
    else:
        _console().print(table(runs, datetime.now(UTC), namespaces=everywhere))


def _console() -> Console:
    console = Console()
    if not console.is_terminal:
        # Lines stay whole for grep.
        console.width = 1000
    return console


def _keep_tabs(line: str) -> str:
    """The line without what a terminal would obey; models and their libraries write to logs."""
    return "\t".join(printable(part) for part in line.split("\t"))


def _evaluation_failed(raw: dict[str, Any]) -> bool:
    """Whether an evaluation failed that the spec still asks for."""
    return bool(raw["spec"]["evaluation"]["datasets"]) and any(
        entry.stage is Stage.EVALUATE and entry.state is StageState.FAILED
        for group in status_of(raw).iterations
        for entry in group.stages
    )


def _has_ended(raw: dict[str, Any]) -> bool:
    """Whether nothing is left to do; a run that succeeded goes on when its iterations grow."""
    reported = status_of(raw)
    if reported.phase is Phase.SUCCEEDED:
        return bool(reported.iteration >= raw["spec"]["iterations"]) or is_stopped(reported)
    return reported.phase in TERMINAL


if __name__ == "__main__":
    main()
