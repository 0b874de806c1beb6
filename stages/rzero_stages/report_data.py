"""Reads what the report shows: the status of a run and, as far as they are there, its artifacts."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from rzero_core import answers, arithmetic
from rzero_core.intervals import Interval
from rzero_core.records import (
    LabeledQuestion,
    ScoredQuestion,
    StepRow,
    Verdict,
    VotedQuestion,
    read_jsonl,
)
from rzero_core.run import CoEvolutionRun, Stage
from rzero_core.status import IterationStatus, RunStatus, StageState, StageStatus
from rzero_core.store import ArtifactStore
from rzero_core.task import BadData, RunRef, shard_prefix, stage_prefix
from rzero_core.wire import Wire
from rzero_stages.checkpoints import step_prefix
from rzero_stages.evaluate import bootstrap

Row = TypeVar("Row", bound=Wire)


@dataclass(frozen=True)
class LabelAccuracy:
    """How many labels of a curriculum are right: as the run's auditor says, else of those whose
    answer can be computed here.
    """

    judged: int
    labels: int
    share: Interval | None
    """None when no label can be judged."""
    method: str | None = None
    """The auditor's; None when computed here, with Wilson's interval."""

    @property
    def basis(self) -> str:
        """How a label was judged, in one word."""
        return "judged" if self.method else "computed"


@dataclass(frozen=True)
class Score:
    """What one checkpoint reaches on one dataset; intervals are bootstrap percentiles."""

    mean: Interval
    greedy: float
    majority: float
    per_question: NDArray[np.float64]
    """(questions,) share of right samples, for paired differences; empty when storage lost them."""


@dataclass
class Iteration:
    """All that is known of one iteration; what storage no longer holds is empty and has a note."""

    number: int
    metrics: dict[Stage, dict[str, float]] = field(default_factory=dict)
    """Numbers of each finished stage, summed over top-up rounds."""
    seconds: dict[Stage, float] = field(default_factory=dict)
    """Wall-clock time of each stage, with all its rounds and attempts."""
    steps: dict[Stage, list[StepRow]] = field(default_factory=dict)
    votes: list[VotedQuestion] = field(default_factory=list)
    curriculum: list[LabeledQuestion] = field(default_factory=list)
    label_accuracy: LabelAccuracy | None = None
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    """The auditor's, by the question's id."""
    truths: dict[str, str] = field(default_factory=dict)
    """The computed answer of each question of the votes that has one, by the question's id."""
    scores: dict[str, Score] = field(default_factory=dict)
    """By dataset."""
    notes: dict[Stage, list[str]] = field(default_factory=dict)
    """What could not be read, in sentences."""

    @cached_property
    def kept(self) -> frozenset[str]:
        """Ids of the questions of the curriculum."""
        return frozenset(row.id for row in self.curriculum)

    def agreements(self) -> list[float]:
        """Agreement of each question, to a tenth when only the metrics are left."""
        if self.votes:
            return [question.agreement for question in self.votes]
        built = self.metrics.get(Stage.BUILD_CURRICULUM, {})
        counts = [int(built.get(f"agreement{tenth:02d}", 0)) for tenth in range(11)]
        return [tenth / 10 for tenth, count in enumerate(counts) for _ in range(count)]

    def ends(self, stage: Stage, metric: str) -> tuple[float, float] | None:
        """Means of a step metric over the first and the last quarter of a training's steps."""
        reported = self.metrics.get(stage, {})
        if f"{metric}First" in reported and f"{metric}Last" in reported:
            return reported[f"{metric}First"], reported[f"{metric}Last"]
        rows = self.steps.get(stage, [])
        values = [row.metrics[metric] for row in rows if metric in row.metrics]
        if not values:
            return None
        quarter = max(1, len(values) // 4)
        return sum(values[:quarter]) / quarter, sum(values[-quarter:]) / quarter


@dataclass(frozen=True)
class _Place:
    """Where the artifacts of a run lie."""

    store: ArtifactStore
    root: str
    """Of all runs."""
    run: RunRef


def read_iterations(
    run: CoEvolutionRun, status: RunStatus, *, status_only: bool = False
) -> list[Iteration]:
    """Every iteration that has begun, in order, with what storage holds of it.

    `status_only` leaves storage alone. Raises `TryAgain` and `BadConfiguration` when storage cannot
    be reached; an artifact that is missing or damaged becomes a note.
    """
    place = None if status_only else _place(run, status)
    return [
        _Reader(run, place, entry).read()
        for entry in sorted(status.iterations, key=lambda entry: entry.iteration)
    ]


def paired_difference(base: Score, late: Score) -> Interval | None:
    """Mean difference of two checkpoints with its 95 % interval, paired by question.

    None when the answers to the same questions are not there for both.
    """
    if not len(base.per_question) or len(base.per_question) != len(late.per_question):
        return None
    return _bootstrap(late.per_question - base.per_question)


class _Reader:
    """Reads one iteration."""

    def __init__(
        self,
        run: CoEvolutionRun,
        place: _Place | None,
        entry: IterationStatus,
    ) -> None:
        self.run = run
        self.place = place
        self.entry = entry
        self.result = Iteration(entry.iteration)

    def read(self) -> Iteration:
        for stage in self.entry.stages:
            self._add_figures(stage)
            self._add_artifacts(stage)
        self._judge_labels()
        return self.result

    def _add_figures(self, stage: StageStatus) -> None:
        metrics = self.result.metrics.setdefault(stage.stage, {})
        # BuildCurriculum counts the questions of all rounds each time; other stages only their own.
        fresh = stage.stage is Stage.BUILD_CURRICULUM
        for name, text in stage.metrics.items():
            metrics[name] = float(text) + (0.0 if fresh else metrics.get(name, 0.0))
        if stage.started_at and stage.finished_at:
            seconds = (moment(stage.finished_at) - moment(stage.started_at)).total_seconds()
            self.result.seconds[stage.stage] = self.result.seconds.get(stage.stage, 0.0) + seconds

    def _add_artifacts(self, stage: StageStatus) -> None:
        match stage.stage:
            case Stage.TRAIN_CHALLENGER | Stage.TRAIN_SOLVER:
                rows = self._rows(stage, self._training_prefix(stage), "steps.jsonl", StepRow)
                self.result.steps[stage.stage] = rows
            case Stage.LABEL_QUESTIONS:
                for at in self._shards(stage):
                    self.result.votes += self._rows(stage, at, "votes.jsonl", VotedQuestion)
            case Stage.BUILD_CURRICULUM:
                # A curriculum that is too short is followed by a round that replaces it.
                if float(stage.metrics.get("short", 0)) < 1:
                    prefix = self._prefix(stage)
                    kept = self._rows(stage, prefix, "curriculum.jsonl", LabeledQuestion)
                    self.result.curriculum = kept
                    if self.entry.label_accuracy is not None:
                        found = self._rows(stage, prefix, "audit.jsonl", Verdict)
                        self.result.verdicts = {row.id: row for row in found}
            case Stage.EVALUATE:
                scored = self._rows(stage, self._prefix(stage), "scores.jsonl", ScoredQuestion)
                metrics = self.result.metrics[stage.stage]
                for dataset in self.run.spec.evaluation.datasets:
                    rows_ = [row for row in scored if row.dataset == dataset.name]
                    if score := _score(dataset.name, metrics, rows_):
                        self.result.scores[dataset.name] = score
            case Stage.GENERATE_QUESTIONS:
                pass

    def _prefix(self, stage: StageStatus) -> str | None:
        if self.place is None:
            return None
        at = self.place
        return stage_prefix(at.root, at.run, self.entry.iteration, stage.stage, stage.round)

    def _shards(self, stage: StageStatus) -> list[str]:
        prefix = self._prefix(stage)
        # The spec may have changed since; a finished stage says how many there were.
        count = int(float(stage.metrics.get("shards", self.run.spec.questions.shards)))
        return [shard_prefix(prefix, shard) for shard in range(count)] if prefix else []

    def _training_prefix(self, stage: StageStatus) -> str | None:
        """The finished training, or the newest step checkpoint of one that is under way."""
        prefix = self._prefix(stage)
        if prefix is None or self.place is None or stage.state is StageState.DONE:
            return prefix
        steps = self.place.store.steps(prefix)
        return step_prefix(prefix, steps[-1]) if steps else None

    def _rows(self, stage: StageStatus, prefix: str | None, name: str, row: type[Row]) -> list[Row]:
        """The rows of a file of an artifact; none, and a note if the stage is done, without it."""
        done = stage.state is StageState.DONE
        if prefix is None or self.place is None:
            return []
        store = self.place.store
        try:
            if not done and store.manifest(prefix) is None:
                return []
            return list(read_jsonl(store.local(prefix, [name]) / name, row))
        except (BadData, FileNotFoundError) as error:
            note = f"Iteration {self.entry.iteration}: {name} cannot be read: {error}"
            self.result.notes.setdefault(stage.stage, []).append(note)
            return []

    def _judge_labels(self) -> None:
        """Compares the labels of the curriculum with the answers that can be computed."""
        truths = {}
        asked: list[VotedQuestion | LabeledQuestion] = [*self.result.votes, *self.result.curriculum]
        for question in asked:
            value = arithmetic.solve(question.text)
            if value is not None:
                truths[question.id] = str(value)
        self.result.truths = truths
        curriculum = self.result.curriculum
        if audited := self._audited():
            self.result.label_accuracy = audited
        elif curriculum:
            pairs = [(row.label, truths[row.id]) for row in curriculum if row.id in truths]
            right = sum(answers.grade_all(pairs))
            share = None
            if pairs:
                interval = binomtest(right, len(pairs)).proportion_ci(method="wilson")
                share = Interval(right / len(pairs), float(interval.low), float(interval.high))
            self.result.label_accuracy = LabelAccuracy(len(pairs), len(curriculum), share)

    def _audited(self) -> LabelAccuracy | None:
        """What the auditor reported, unless it is unknown or only an upper bound."""
        audit = self.entry.label_accuracy
        if audit is None or audit.is_upper_bound:
            return None
        ends = (audit.estimate, audit.lower, audit.upper)
        shares = [float(end) for end in ends if end is not None]
        if len(shares) < len(ends):
            return None
        built = self.result.metrics.get(Stage.BUILD_CURRICULUM, {})
        # A status that somebody edited keeps the audit, and may have lost the metrics beside it.
        kept = int(built.get("kept", audit.sample_size + audit.abstained))
        return LabelAccuracy(audit.sample_size, kept, Interval(*shares), audit.method)


def _score(
    dataset: str, metrics: Mapping[str, float], rows: Sequence[ScoredQuestion]
) -> Score | None:
    """The numbers that the stage reported, else those of its rows; None without both.

    A result has no room for the bounds of many datasets.
    """
    per_question = np.array([np.mean(row.right) for row in rows], dtype=np.float64)
    names = [
        f"{dataset}.{name}" for name in ("mean", "meanLower", "meanUpper", "greedy", "majority")
    ]
    if all(name in metrics for name in names):
        mean, lower, upper, greedy, majority = (metrics[name] for name in names)
        return Score(Interval(mean, lower, upper), greedy, majority, per_question)
    if not rows:
        return None
    return Score(
        _bootstrap(per_question),
        float(np.mean([row.greedy_right for row in rows])),
        float(np.mean([row.majority_right for row in rows])),
        per_question,
    )


def _bootstrap(values: NDArray[np.float64]) -> Interval:
    """Mean of (questions,) values; the same input, the same interval."""
    return bootstrap(values[:, np.newaxis], seed=0)[0]


def _place(run: CoEvolutionRun, status: RunStatus) -> _Place | None:
    """Where the artifacts lie, as any output says; None before the first."""
    name = run.metadata.name
    for uri in _outputs(status):
        match = re.search(rf"^(.*)/{re.escape(name)}-([^/]+)/i\d{{4}}/", uri)
        if match:
            reference = RunRef(name=name, namespace=run.metadata.namespace, uid=match[2])
            return _Place(ArtifactStore(run.spec.storage), match[1], reference)
    return None


def _outputs(status: RunStatus) -> Iterator[str]:
    for entry in status.iterations:
        for stage in entry.stages:
            yield from stage.outputs.values()


def moment(text: str) -> datetime:
    """A point in time from RFC 3339."""
    return datetime.fromisoformat(text)
