"""Decides which figures the report has and what each says in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Literal

from markupsafe import Markup

from rzero_core.intervals import Interval
from rzero_core.run import CoEvolutionRun, Stage
from rzero_stages import report_plots
from rzero_stages.report_data import Iteration, LabelAccuracy
from rzero_stages.report_plots import Bars, Line
from rzero_stages.report_words import PERCENT, STAGES, duration, outcome_counts, percent

OUTCOMES = {
    "kept": "kept",
    "easy": "too easy",
    "hard": "too hard",
    "tie": "tie",
    "silent": "no label",
    "duplicate": "duplicate",
    "malformed": "malformed",
}
_STAGE_COLOURS = {
    Stage.TRAIN_CHALLENGER: "challenger",
    Stage.GENERATE_QUESTIONS: "generate",
    Stage.LABEL_QUESTIONS: "label",
    Stage.BUILD_CURRICULUM: "curriculum",
    Stage.TRAIN_SOLVER: "solver",
    Stage.EVALUATE: "evaluate",
}
_MOST_HISTOGRAMS = 12


@dataclass(frozen=True)
class Figure:
    """A plot, or the reason why there is none."""

    title: str
    caption: str
    svg: Markup | None
    legend: list[tuple[str, str]] = field(default_factory=list)
    """(colour, words)."""
    size: Literal["half", "third", "wide"] = "half"
    """Share of a row on a wide screen."""


@dataclass(frozen=True)
class Section:
    """Figures that belong together, and what could not be read for them."""

    title: str
    figures: list[Figure]
    notes: list[str]


def sections(run: CoEvolutionRun, iterations: Sequence[Iteration]) -> list[Section]:
    """All figures of the report."""

    def notes(*stages: Stage) -> list[str]:
        return [
            note for entry in iterations for stage in stages for note in entry.notes.get(stage, ())
        ]

    return [
        Section(
            "Results",
            _in_pairs([*_scores(run, iterations), _label_accuracy(run, iterations)]),
            notes(Stage.EVALUATE, Stage.BUILD_CURRICULUM),
        ),
        Section(
            "Training",
            [_challenger(iterations), _solver(iterations)],
            notes(Stage.TRAIN_CHALLENGER, Stage.TRAIN_SOLVER),
        ),
        Section("Questions and time", [_outcomes(iterations), _time(iterations)], []),
        Section(
            "Agreement of the votes", _agreement(run, iterations), notes(Stage.LABEL_QUESTIONS)
        ),
    ]


def _in_pairs(figures: list[Figure]) -> list[Figure]:
    """Figures stand two beside each other; the last one of an odd number has a row of its own."""
    if len(figures) % 2:
        figures[-1] = replace(figures[-1], size="wide")
    return figures


def _challenger(iterations: Sequence[Iteration]) -> Figure:
    title = "Challenger reward and mean agreement"
    lines = [
        Line("challenger", _pieces(iterations, Stage.TRAIN_CHALLENGER, "reward")),
        Line("agreement", _pieces(iterations, Stage.TRAIN_CHALLENGER, "agreement")),
    ]
    if not lines[0].pieces:
        return Figure(title, "No step of Challenger training can be shown.", None)
    ends = _ends(iterations, Stage.TRAIN_CHALLENGER, "reward")
    return Figure(
        title,
        "Mean of each step. The reward is highest where half of the Solver's votes agree.",
        report_plots.by_step("challenger", f"{title} by training step. Reward {ends}.", lines),
        [("challenger", "reward"), ("agreement", "mean agreement")],
    )


def _solver(iterations: Sequence[Iteration]) -> Figure:
    title = "Solver reward"
    pieces = _pieces(iterations, Stage.TRAIN_SOLVER, "reward")
    if not pieces:
        return Figure(title, "No step of Solver training can be shown.", None)
    ends = _ends(iterations, Stage.TRAIN_SOLVER, "reward")
    return Figure(
        title,
        "Mean of each step. Answers that equal the label are rewarded; labels may be wrong.",
        report_plots.by_step(
            "solver", f"{title} by training step: {ends}.", [Line("solver", pieces)]
        ),
    )


def _scores(run: CoEvolutionRun, iterations: Sequence[Iteration]) -> list[Figure]:
    k = run.spec.evaluation.samples
    datasets = list(dict.fromkeys(name for entry in iterations for name in entry.scores))
    if not datasets:
        why = "Nothing has been evaluated yet."
        if not run.spec.evaluation.datasets:
            why = "The manifest names no evaluation datasets."
        return [Figure("Solver scores", why, None)]
    figures = []
    for dataset in datasets:
        points = {
            entry.number: entry.scores[dataset] for entry in iterations if dataset in entry.scores
        }
        series: dict[str, dict[int, Interval | float]] = {
            "solver": {i: score.mean for i, score in points.items()},
            "evaluate": {i: score.greedy for i, score in points.items()},
            "tie": {i: score.majority for i, score in points.items()},
        }
        size = len(next(iter(points.values())).per_question)
        said = ", ".join(f"{_name(i)} {percent(s.mean.estimate)}" for i, s in points.items())
        figures.append(
            Figure(
                f"Solver scores on {dataset}",
                (f"{size:,} held-out questions. " if size else "")
                + f"Bars: 95\u00a0% bootstrap intervals of mean@{k}.",
                report_plots.shares(
                    f"scores-{dataset}", f"Solver scores on {dataset}, mean@{k}: {said}.", series
                ),
                [("solver", f"mean@{k}"), ("tie", f"maj@{k}"), ("evaluate", "greedy")],
            )
        )
    return figures


def _outcomes(iterations: Sequence[Iteration]) -> Figure:
    title = "What became of the questions"
    counts = {entry.number: found for entry in iterations if (found := outcome_counts(entry))}
    if not counts:
        return Figure(title, "No curriculum has been built yet.", None)
    layers = [Bars(name, [found[name] for found in counts.values()]) for name in OUTCOMES]
    said = "; ".join(
        f"iteration {i}: " + ", ".join(f"{found[key]} {OUTCOMES[key]}" for key in OUTCOMES)
        for i, found in counts.items()
    )
    return Figure(
        title,
        "All questions drawn in an iteration. Only the kept ones train the Solver.",
        report_plots.stacked("outcomes", f"{title}. {said}.", list(counts), layers, "questions"),
        [
            (name, words)
            for name, words in OUTCOMES.items()
            if any(c[name] for c in counts.values())
        ],
    )


def _label_accuracy(run: CoEvolutionRun, iterations: Sequence[Iteration]) -> Figure:
    judged = {entry.number: entry.label_accuracy for entry in iterations if entry.label_accuracy}
    audited = any(found.method for found in judged.values())
    title = "Pseudo-label accuracy" if audited else "True pseudo-label accuracy"
    if not judged:
        return Figure(title, "No curriculum can be read.", None)
    points: dict[int, Interval | float] = {
        i: found.share for i, found in judged.items() if found.share
    }
    if not points:
        caption = (
            "None of the questions is plain arithmetic, so no right answer can be computed here."
        )
        return Figure(title, caption, None)
    said = ", ".join(
        f"iteration {i} {percent(p.estimate)}" for i, p in points.items() if isinstance(p, Interval)
    )
    series = {"kept": points}
    legend = []
    if audited:
        floor = run.spec.label_accuracy.floor
        series["hard"] = dict.fromkeys(points, floor)
        legend = [("kept", "right labels"), ("hard", f"floor, {percent(floor)}")]
    return Figure(
        title,
        "Share of right labels in the curriculum, with 95\u00a0% "
        + ("intervals. " if audited else "Wilson intervals. ")
        + _basis(judged),
        report_plots.shares("accuracy", f"{title}: {said}.", series),
        legend,
    )


def _basis(judged: Mapping[int, LabelAccuracy]) -> str:
    """How many labels the accuracy rests on, and who judged them."""
    labels = sum(found.labels for found in judged.values())
    methods = dict.fromkeys(found.method for found in judged.values() if found.method)
    by = f" by {'; '.join(methods)}" if methods else ""
    basis = "Judged" if methods else "Computed"
    if sum(found.judged for found in judged.values()) == labels:
        return f"{basis} for all {labels:,} labels{by}."
    counts = ", ".join(
        f"{found.judged:,} of {found.labels:,} labels in iteration {i}"
        for i, found in judged.items()
    )
    rest = "" if methods else " It says nothing about the other labels."
    return f"{basis} for {counts}{by}.{rest}"


def _agreement(run: CoEvolutionRun, iterations: Sequence[Iteration]) -> list[Figure]:
    labels = run.spec.labels
    voted = [entry for entry in iterations if entry.agreements()]
    if not voted:
        return [Figure("Agreement", "No votes can be shown.", None)]
    band = f"{100 * labels.min_agreement:g} to {100 * labels.max_agreement:g}{PERCENT}"
    figures = []
    shown = _spread(voted, _MOST_HISTOGRAMS)
    size: Literal["third", "half"] = "half" if len(shown) in (1, 2, 4) else "third"
    for entry in shown:
        agreements = entry.agreements()
        inside = sum(labels.min_agreement <= p <= labels.max_agreement for p in agreements)
        caption = (
            f"{inside:,} of {len(agreements):,} questions in the band of {band}. "
            f"Mean {percent(fmean(agreements))}."
        )
        title = f"Agreement, iteration {entry.number}"
        svg = report_plots.agreement_histogram(
            f"agreement-{entry.number}",
            f"{title}: {caption}",
            agreements,
            labels.votes,
            (labels.min_agreement, labels.max_agreement),
            narrow=size == "third",
        )
        legend = [("kept", "in the band"), ("faint", "too hard or too easy")]
        figures.append(Figure(title, caption, svg, legend, size))
    return figures


def _time(iterations: Sequence[Iteration]) -> Figure:
    timed = [entry for entry in iterations if entry.seconds]
    if not timed:
        return Figure("Time by stage", "No stage is done yet.", None)
    longest = max(sum(entry.seconds.values()) for entry in timed)
    unit, size = next(
        (unit, size)
        for unit, size in (("seconds", 1), ("minutes", 60), ("hours", 3600))
        if longest < 150 * size or unit == "hours"
    )
    layers = [
        Bars(colour, [entry.seconds.get(stage, 0.0) / size for entry in timed])
        for stage, colour in _STAGE_COLOURS.items()
    ]
    said = "; ".join(f"{_name(e.number)} {duration(sum(e.seconds.values()))}" for e in timed)
    return Figure(
        "Time by stage",
        "From the start of a stage's first attempt to its end, with start-up and waiting.",
        report_plots.stacked(
            "time", f"Time by stage: {said}.", [e.number for e in timed], layers, unit
        ),
        [
            (colour, STAGES[stage])
            for stage, colour in _STAGE_COLOURS.items()
            if any(stage in entry.seconds for entry in timed)
        ],
    )


def _pieces(
    iterations: Sequence[Iteration], stage: Stage, metric: str
) -> list[tuple[int, Sequence[float]]]:
    pieces: list[tuple[int, Sequence[float]]] = []
    for entry in iterations:
        rows = entry.steps.get(stage, ())
        values = [row.metrics[metric] for row in rows if metric in row.metrics]
        if values:
            pieces.append((entry.number, values))
    return pieces


def _ends(iterations: Sequence[Iteration], stage: Stage, metric: str) -> str:
    parts = []
    for entry in iterations:
        if ends := entry.ends(stage, metric):
            parts.append(f"from {ends[0]:.2f} to {ends[1]:.2f} in iteration {entry.number}")
    return ", ".join(parts)


def _spread(entries: Sequence[Iteration], most: int) -> list[Iteration]:
    """At most so many of the entries, evenly spread, the first and the last among them."""
    if len(entries) <= most:
        return list(entries)
    return [entries[round(i * (len(entries) - 1) / (most - 1))] for i in range(most)]


def _name(iteration: int) -> str:
    return f"iteration {iteration}" if iteration else "base"
