"""Scores a checkpoint on held-out questions: greedy, mean@k and maj@k, each with its interval."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rzero_core import answers, prompts
from rzero_core.manifest import sha256_of
from rzero_core.records import HeldOutQuestion, ScoredQuestion, read_jsonl
from rzero_core.run import Dataset
from rzero_core.store import ArtifactStore, InputRef
from rzero_core.task import BadData, EvaluateTask, StageResult, derive_seed
from rzero_stages import progress
from rzero_stages.published import Rows, once
from rzero_stages.sampling import Completion, Sampler, open_sampler

RESAMPLES = 2000
MEASURES = ("greedy", "mean", "majority")
_METRIC_BYTES = 2800


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % bootstrap percentile interval over questions."""

    estimate: float
    lower: float
    upper: float


def run(task: EvaluateTask, store: ArtifactStore, sampler: Sampler | None = None) -> StageResult:
    """Answer every question of every dataset greedily and `evaluation.samples` times, and grade.

    Graded by the same equivalence as the vote. Metrics per dataset: `{name}.greedy`, `{name}.mean`
    and `{name}.majority`, each also with `Lower` and `Upper`. `BadData` names the file and line of
    what is no question with an answer.
    """
    return once(task, store, None, lambda: _evaluate(task, store, sampler))


def bootstrap(values: NDArray[np.float64], seed: int) -> list[Interval]:
    """Intervals of the column means of (questions, measures), questions drawn with replacement."""
    random = np.random.default_rng(seed)
    count = len(values)
    means = np.array(
        [values[random.integers(count, size=count)].mean(axis=0) for _ in range(RESAMPLES)]
    )
    lower, upper = np.percentile(means, [2.5, 97.5], axis=0)
    return [
        Interval(float(mean), float(low), float(high))
        for mean, low, high in zip(values.mean(axis=0), lower, upper, strict=True)
    ]


def _evaluate(task: EvaluateTask, store: ArtifactStore, sampler: Sampler | None) -> Rows:
    # All files are read first: a malformed one must not cost the time of the others.
    sets = [(dataset, *_read(dataset, store)) for dataset in task.evaluation.datasets]
    if sampler is None:
        total = sum(len(questions) for _, questions, _ in sets) * (1 + task.evaluation.samples)
        counter = progress.Counter(total, "answers")
        folder = store.model(task.solver)
        sampler = open_sampler(task.sampler, folder, on_completions=counter.advance)
    scored: list[ScoredQuestion] = []
    intervals: dict[str, list[Interval]] = {}
    counts = dict.fromkeys(("questions", "answers", "truncated", "tokens", "samplingSeconds"), 0.0)
    for dataset, questions, _ in sets:
        rows = _score(task, dataset, questions, sampler, counts)
        seed = derive_seed(task.seed, task.iteration, task.stage, dataset.name, "bootstrap")
        intervals[dataset.name] = bootstrap(_measures(rows), seed)
        scored += rows
    files = [ref for _, _, ref in sets]
    counts["gradingSeconds"] = round(answers.grading_seconds(), 3)
    metrics = counts | _scores(intervals)
    return Rows("scores", scored, metrics, inputs=[task.solver], files=files)


def _read(dataset: Dataset, store: ArtifactStore) -> tuple[list[HeldOutQuestion], InputRef]:
    path = store.file(dataset.uri)
    try:
        questions = list(read_jsonl(path, HeldOutQuestion))
    except BadData as error:
        raise BadData(f"evaluation dataset {dataset.name}: {error}") from error
    if not questions:
        raise BadData(
            f"evaluation dataset {dataset.name}: {path.name} has no questions; write one JSON "
            'object {"question": ..., "answer": ...} a line'
        )
    return questions, InputRef(uri=dataset.uri, digest=sha256_of(path))


def _score(
    task: EvaluateTask,
    dataset: Dataset,
    questions: Sequence[HeldOutQuestion],
    sampler: Sampler,
    counts: dict[str, float],
) -> list[ScoredQuestion]:
    prompt = task.prompts.solver or prompts.SOLVER_PROMPT
    messages = [prompts.solver_messages(prompt, item.question) for item in questions]
    settings = task.evaluation.sampling
    seed = derive_seed(task.seed, task.iteration, task.stage, dataset.name)
    clock = time.monotonic()
    greedy = sampler.sample(messages, 1, settings, seed, greedy=True)
    sampled = sampler.sample(messages, task.evaluation.samples, settings, seed)
    counts["samplingSeconds"] += round(time.monotonic() - clock, 3)
    drawn = [one + many for one, many in zip(greedy, sampled, strict=True)]
    _count(drawn, counts)
    extracted = [[answers.extract(completion.text) for completion in row] for row in drawn]
    labels = [vote.label for vote in answers.vote_all([row[1:] for row in extracted])]
    candidates = [[*row, label] for row, label in zip(extracted, labels, strict=True)]
    pairs = [
        (candidate, item.answer)
        for row, item in zip(candidates, questions, strict=True)
        for candidate in row
    ]
    right = iter(answers.grade_all(pairs))
    rows = []
    for item, row in zip(questions, candidates, strict=True):
        greedy_right, *samples_right, majority_right = [next(right) for _ in row]
        rows.append(
            ScoredQuestion(
                dataset=dataset.name,
                question=item.question,
                answer=item.answer,
                greedy=row[0],
                greedy_right=greedy_right,
                samples=row[1:-1],
                right=samples_right,
                majority_right=majority_right,
            )
        )
    return rows


def _count(drawn: Sequence[Sequence[Completion]], counts: dict[str, float]) -> None:
    completions = [completion for row in drawn for completion in row]
    counts["questions"] += len(drawn)
    counts["answers"] += len(completions)
    counts["truncated"] += sum(not completion.finished for completion in completions)
    counts["tokens"] += sum(completion.tokens for completion in completions)


def _measures(rows: Sequence[ScoredQuestion]) -> NDArray[np.float64]:
    """(questions, 3) in the order of `MEASURES`."""
    return np.array(
        [(row.greedy_right, np.mean(row.right), row.majority_right) for row in rows],
        dtype=np.float64,
    )


def _scores(intervals: Mapping[str, Sequence[Interval]]) -> dict[str, float]:
    """Scores and bounds; of many datasets only what fits a result (scores.jsonl has all)."""
    estimates = {
        f"{name}.{measure}": round(interval.estimate, 5)
        for name, found in intervals.items()
        for measure, interval in zip(MEASURES, found, strict=True)
    }
    bounds = {
        f"{name}.{measure}{end}": round(value, 5)
        for name, found in intervals.items()
        for measure, interval in zip(MEASURES, found, strict=True)
        for end, value in (("Lower", interval.lower), ("Upper", interval.upper))
    }
    means = {name: value for name, value in estimates.items() if name.endswith(".mean")}
    for metrics in (estimates | bounds, estimates):
        if len(json.dumps(metrics)) <= _METRIC_BYTES:
            return metrics
    return means
