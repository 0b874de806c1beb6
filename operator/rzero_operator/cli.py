"""The command `rzero`: runs, checks, shows and reports a run from its manifest."""

import signal
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, ParamSpec
from uuid import uuid4

import typer
from rich.console import Console

from rzero_core.manifest import disk_errors
from rzero_core.run import RunSpec
from rzero_core.status import Phase
from rzero_core.task import BadConfiguration, StageError, TryAgain
from rzero_operator.conditions import message_of
from rzero_operator.folder import RunFolder
from rzero_operator.guardrails import is_stopped
from rzero_operator.local import LocalRunner, check_inputs
from rzero_operator.manifests import ManifestError, load, without_effect_locally
from rzero_operator.report_process import write_report
from rzero_operator.terminal import LiveDisplay, PlainDisplay
from rzero_operator.views import closing_lines, overview

_P = ParamSpec("_P")
BAD_MANIFEST = 64
BAD_CONFIGURATION = BadConfiguration.exit_code
PAUSED = TryAgain.exit_code

app = typer.Typer(
    help="Self-improving language models without human data, from one manifest.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Manifest = Annotated[Path, typer.Argument(metavar="MANIFEST", help="A run manifest (YAML).")]


def main() -> None:
    """Entry point of the console script."""
    app()


def _one_line_errors(command: Callable[_P, None]) -> Callable[_P, None]:
    """A user's mistake is a line on standard error and an exit code, never a traceback."""

    @wraps(command)
    def guarded(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except ManifestError as error:
            for line in error.lines:
                typer.echo(line, err=True)
            raise typer.Exit(BAD_MANIFEST) from error
        except StageError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(error.exit_code) from error
        except BrokenPipeError:
            raise  # `| head` has seen enough: the library ends the command without a word.
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            typer.echo(f"{place}{error.strerror or error}", err=True)
            raise typer.Exit(BAD_CONFIGURATION) from error

    return guarded


@app.command()
@_one_line_errors
def run(
    manifest: Manifest,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Warnings only.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the guardrail held the run up.")
    ] = False,
) -> None:
    """Carry out a run on this machine, or continue it where it stopped."""
    declared = load(manifest)
    folder = RunFolder(declared)
    for line in without_effect_locally(declared.spec):
        typer.echo(f"warning: {manifest}: {line}", err=True)
    check_inputs(declared.spec)
    if declared.spec.suspend:
        typer.echo(f"run {declared.metadata.name} is suspended; set spec.suspend to false")
        return
    try:
        folder.open()
        with disk_errors(folder.path), _display(declared.spec, quiet=quiet) as display:
            asked = uuid4().hex if resume else ""
            runner = LocalRunner(declared, folder, display, resume=asked)
            before = runner.status
            after = runner.run()
    finally:
        folder.close()
    _conclude(manifest, runner, already=before.iterations == after.iterations)


@app.command()
@_one_line_errors
def validate(
    manifests: Annotated[list[Path], typer.Argument(metavar="MANIFEST...", help="Run manifests.")],
) -> None:
    """Check manifests without running them; every mistake is a line."""
    mistakes: list[str] = []
    for path in manifests:
        try:
            declared = load(path)
        except ManifestError as error:
            mistakes += error.lines
            continue
        for line in without_effect_locally(declared.spec):
            typer.echo(f"warning: {path}: {line}", err=True)
        typer.echo(f"{path}: valid")
    if mistakes:
        raise ManifestError(mistakes)


@app.command()
@_one_line_errors
def status(
    manifest: Manifest,
    json: Annotated[bool, typer.Option("--json", help="The whole status, as JSON.")] = False,
) -> None:
    """Show iterations, stages, attempts and label accuracy, also while the run goes on."""
    declared = load(manifest)
    folder = RunFolder(declared)
    if not folder.status_path.exists():
        typer.echo(
            f"run {declared.metadata.name} has not begun (no {folder.status_path})", err=json
        )
        return
    if json:
        typer.echo(folder.read_status().to_json(indent=2))
        return
    console = Console()
    if not console.is_terminal:
        # Lines stay whole for grep.
        console.width = 1000
    spec, reported = declared.spec, folder.read_status()
    floor = spec.label_accuracy.floor
    console.print(overview(declared.metadata.name, spec.iterations, floor, reported))
    for line in closing_lines(reported):
        console.print(line, markup=False, highlight=False)


@app.command()
@_one_line_errors
def report(
    manifest: Manifest,
    output: Annotated[Path, typer.Option("--output", "-o", help="The page to write.")] = Path(
        "report.html"
    ),
) -> None:
    """Write one self-contained HTML page about a run."""
    declared = load(manifest)
    folder = RunFolder(declared)
    if not folder.status_path.exists():
        raise BadConfiguration(
            f"run {declared.metadata.name} has not begun (no {folder.status_path}); start it with "
            f"`rzero run {manifest}`"
        )
    code = write_report(declared, folder.status_path, output)
    if code:
        raise typer.Exit(code)
    typer.echo(f"wrote {output}")


def _display(spec: RunSpec, *, quiet: bool) -> LiveDisplay | PlainDisplay:
    console = Console(stderr=True)
    if console.is_terminal and not quiet:
        return LiveDisplay(console, spec)
    return PlainDisplay(console, quiet=quiet)


def _conclude(manifest: Path, runner: LocalRunner, already: bool) -> None:
    """The last line, and the exit code."""
    status, name = runner.status, runner.identity.ref.name
    if status.phase is Phase.SUCCEEDED:
        word = "had already succeeded" if already else "succeeded"
        if is_stopped(status):
            word = f"was {message_of(status, 'Succeeded')}; best checkpoint: "
            word += f"{status.best_checkpoint}; `rzero run --resume {manifest}` goes on anyway"
        typer.echo(f"run {name} {word}; `rzero report {manifest}` shows it")
    elif status.phase is Phase.FAILED:
        typer.echo(f"run {name} failed: {message_of(status, 'Failed')}", err=True)
        raise typer.Exit(runner.failure_code())
    elif status.phase is Phase.SUSPENDED and not runner.interrupts:
        typer.echo(
            f"run {name} was {message_of(status, 'Suspended')}; `rzero run --resume {manifest}` "
            "trains it all the same, and a change of spec.labelAccuracy is judged anew",
            err=True,
        )
        raise typer.Exit(PAUSED)
    else:
        typer.echo(f"stopped; `rzero run {manifest}` continues", err=True)
        raise typer.Exit(128 + (runner.interrupts or [signal.SIGINT])[0])


if __name__ == "__main__":
    main()
