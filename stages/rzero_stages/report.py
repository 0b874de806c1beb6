"""Writes what a run did as one HTML file that needs nothing else: `rzero report` runs this module.

Reads the status, the manifest and whatever artifacts storage still holds; draws; fills in
`report.html.j2`. Works for unfinished runs, and says in place what is missing.
"""

import argparse
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import ValidationError

from rzero_core.guardrail import Outcome
from rzero_core.run import CoEvolutionRun, Stage
from rzero_core.status import GuardrailAction, Phase, RunStatus, StageState
from rzero_core.task import BadConfiguration, StageError
from rzero_core.wire import explain
from rzero_stages import report_figures, report_samples, report_words
from rzero_stages.report_data import Iteration, moment, paired_difference, read_iterations
from rzero_stages.report_words import PERCENT, duration, interval, percent, plain, signed


@dataclass(frozen=True)
class Tile:
    """One number that matters most, with its caption."""

    value: str
    caption: str


def write(
    status_file: Path, manifest_file: Path, output: Path, *, status_only: bool = False
) -> None:
    """Write the report of a run, with `status_only` without a look into storage.

    Raises `StageError` naming the file that cannot be used.
    """
    try:
        run = CoEvolutionRun.parse(yaml.safe_load(manifest_file.read_text("utf-8")))
        status = RunStatus.model_validate_json(status_file.read_bytes())
    except ValidationError as error:
        file = manifest_file if error.title == CoEvolutionRun.__name__ else status_file
        raise BadConfiguration(f"{file}: {explain(error)[0]}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadConfiguration(f"cannot read the run: {' '.join(str(error).split())}") from error
    iterations = read_iterations(run, status, status_only=status_only)
    page = render(run, status, iterations, status_only=status_only)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(page, "utf-8")
    except OSError as error:
        raise BadConfiguration(f"{output}: cannot write the report: {error.strerror}") from error


def render(
    run: CoEvolutionRun,
    status: RunStatus,
    iterations: list[Iteration],
    *,
    status_only: bool = False,
) -> str:
    """The HTML of the report; `status_only`: say that what needs artifacts is left out."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, interval=interval, plain=plain)
    started, finished = _times(status)
    return environment.get_template("report.html.j2").render(
        run=run,
        spec=run.spec,
        status=status,
        status_only=status_only,
        progress=_progress(run, status),
        started=started,
        finished=finished,
        sentences=_summary(run, status, iterations),
        tiles=_tiles(run, iterations),
        failures=_failures(status),
        decisions=_decisions(status),
        rows=[report_words.row(entry) for entry in iterations],
        datasets=list(dict.fromkeys(name for entry in iterations for name in entry.scores)),
        sections=report_figures.sections(run, iterations),
        outcomes=report_figures.OUTCOMES | {"band": "in the band"},
        samples=report_samples.choose(run.spec.labels, iterations),
        verdicts=[
            (entry.iteration, sample)
            for entry in status.iterations
            if entry.label_accuracy is not None
            for sample in entry.label_accuracy.samples
        ],
    )


def _progress(run: CoEvolutionRun, status: RunStatus) -> str:
    total = run.spec.iterations
    trained = sum(
        stage.stage is Stage.TRAIN_SOLVER and stage.state is StageState.DONE
        for entry in status.iterations
        for stage in entry.stages
    )
    return f"{trained} of {total} done"


def _times(status: RunStatus) -> tuple[datetime | None, datetime | None]:
    """When the first stage began and the last one that is done ended."""
    stages = [stage for entry in status.iterations for stage in entry.stages]
    started = [moment(stage.started_at) for stage in stages if stage.started_at]
    finished = [moment(stage.finished_at) for stage in stages if stage.finished_at]
    return min(started, default=None), max(finished, default=None)


def _summary(run: CoEvolutionRun, status: RunStatus, iterations: list[Iteration]) -> list[str]:
    """What came of it, in sentences."""
    sentences = []
    if status.phase not in (Phase.SUCCEEDED, Phase.FAILED):
        now = f"{status.phase}: iteration {status.iteration} of {run.spec.iterations}"
        at = f", {report_words.STAGES[status.stage]}" if status.stage else ""
        sentences.append(f"{now}{at}.")
    scored = [entry for entry in iterations if entry.scores]
    for dataset in scored[0].scores if scored else ():
        late = scored[-1]
        if len(scored) > 1 and dataset in late.scores:
            sentences.append(_change(run, dataset, scored[0], late))
    judged = [entry for entry in iterations if entry.label_accuracy and entry.label_accuracy.share]
    right = []
    for entry in judged[:1] + judged[1:][-1:]:
        found = entry.label_accuracy
        assert found is not None and found.share is not None
        judgement = f"{percent(found.share.estimate)} in iteration\u00a0{entry.number}"
        if found.judged < found.labels:
            judgement += f" ({found.basis} for {found.judged:,} of {found.labels:,} labels)"
        right.append(judgement)
    if right:
        sentences.append(f"Share of right labels: {', '.join(right)}.")
    return sentences


def _change(run: CoEvolutionRun, dataset: str, base: Iteration, late: Iteration) -> str:
    first, last = base.scores[dataset], late.scores[dataset]
    name = f"The Solver's mean@{run.spec.evaluation.samples} on {dataset}"
    values = f"from {percent(first.mean.estimate)} to {percent(last.mean.estimate)}"
    difference = paired_difference(first, last)
    if difference is None:
        return f"{name} went {values}."
    points = signed(100 * difference.estimate)
    ends = f"{signed(100 * difference.lower)} to {signed(100 * difference.upper)}"
    interval = f"{points} points, 95{PERCENT} interval {ends}"
    if difference.lower > 0:
        return f"{name} rose {values} ({interval})."
    if difference.upper < 0:
        return f"{name} fell {values} ({interval})."
    return f"{name} went {values}, which may be chance ({interval})."


def _tiles(run: CoEvolutionRun, iterations: list[Iteration]) -> list[Tile]:
    tiles = []
    scored = [entry for entry in iterations if entry.scores]
    if scored:
        dataset, last = next(iter(scored[-1].scores.items()))
        caption = f"mean@{run.spec.evaluation.samples} on {dataset}"
        base = scored[0].scores.get(dataset)
        if base is not None and len(scored) > 1:
            caption += f", from {percent(base.mean.estimate)}"
        tiles.append(Tile(percent(last.mean.estimate), caption))
    for entry in reversed(iterations):
        found = entry.label_accuracy
        if found and found.share:
            caption = f"pseudo-label accuracy, iteration\u00a0{entry.number}"
            tiles.append(Tile(percent(found.share.estimate), caption))
            break
    if kept := sum(_kept(entry) for entry in iterations):
        tiles.append(Tile(f"{kept:,}", "questions kept for Solver training"))
    if seconds := sum(sum(entry.seconds.values()) for entry in iterations):
        tiles.append(Tile(duration(seconds), "time in stages"))
    return tiles


def _kept(entry: Iteration) -> int:
    """Questions of the curriculum, as its stage counted them where its rows cannot be read."""
    counted = entry.metrics.get(Stage.BUILD_CURRICULUM, {}).get("kept", 0)
    return len(entry.curriculum) or int(counted)


def _failures(status: RunStatus) -> list[str]:
    """What went wrong and was not mended by a later attempt."""
    return [
        f"{report_words.STAGES[stage.stage]}, iteration {entry.iteration}: "
        f"{plain(stage.message or 'failed', 600)}"
        for entry in status.iterations
        for stage in entry.stages
        if stage.state is StageState.FAILED or (stage.message and stage.state != StageState.DONE)
    ]


def _decisions(status: RunStatus) -> list[str]:
    """What the guardrail did about labels, or held of them where it was not content; canaries."""
    did = {
        None: "The guardrail noted",
        GuardrailAction.WARNED: "The guardrail warned, and the Solver was trained",
        GuardrailAction.PAUSED: "The guardrail paused the run before the Solver is trained",
        GuardrailAction.RESUMED: "The guardrail held the run up, and it was told to go on",
        GuardrailAction.STOPPED: "The guardrail stopped the run before the Solver was trained",
    }
    told = []
    for entry in status.iterations:
        verdict = entry.guardrail
        if verdict is None:
            continue
        if verdict.action is not None or verdict.outcome is not Outcome.HEALTHY:
            told.append(f"{did[verdict.action]}: {plain(verdict.message, 600)}.")
        told += [
            f"Canary: iteration {entry.iteration}: {plain(canary)}." for canary in verdict.canaries
        ]
    if told and status.best_checkpoint is not None:
        name = f"that of iteration\u00a0{status.best_iteration}"
        solver = name if status.best_iteration else "the base model"
        told.append(f"The best checkpoint is {solver}: {plain(status.best_checkpoint, 600)}")
    return told


def main() -> int:
    """Entry point; the exit code is that of the error."""
    parser = argparse.ArgumentParser(prog="python -m rzero_stages.report", description=__doc__)
    parser.add_argument("status", type=Path, help="the run's status, JSON")
    parser.add_argument("manifest", type=Path, help="the run's manifest, YAML")
    parser.add_argument("output", type=Path, help="the HTML file to write")
    parser.add_argument("--status-only", action="store_true", help="leave storage alone")
    arguments = parser.parse_args()
    try:
        write(
            arguments.status,
            arguments.manifest,
            arguments.output,
            status_only=arguments.status_only,
        )
    except StageError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
