"""Scores a checkpoint on held-out questions: greedy, mean@k and maj@k, each with its interval.

And compares it with the Solver before, question by question: this decides whether a run still
learns, where the intervals of two scores would be too wide to tell.
"""

import hashlib
import json
import logging
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rzero_core import answers, prompts
from rzero_core.intervals import CONFIDENCE, Interval, quantile
from rzero_core.manifest import sha256_of
from rzero_core.records import HeldOutQuestion, ScoredQuestion, read_jsonl
from rzero_core.run import Dataset, Prompt
from rzero_core.store import ArtifactStore, InputRef
from rzero_core.task import MAX_RESULT_BYTES, BadData, EvaluateTask, StageResult, derive_seed
from rzero_stages import progress
from rzero_stages.published import Rows, once
from rzero_stages.sampler import Completion, Sampler
from rzero_stages.sampling import open_sampler

RESAMPLES = 2000
MEASURES = ("greedy", "mean", "majority")
_METRIC_BYTES = 2800
_BESIDE_BYTES = 500
"""Of a result, beside its metrics and the place of its artifact."""
_SCORES = "scores.jsonl"

log = logging.getLogger(__name__)


def run(task: EvaluateTask, store: ArtifactStore, sampler: Sampler | None = None) -> StageResult:
    """Answer every question of every dataset greedily and `evaluation.samples` times, and grade.

    Graded by the same equivalence as the vote. Metrics per dataset: `{name}.greedy`, `{name}.mean`
    and `{name}.majority`, each also with `Lower` and `Upper` (bootstrap percentiles); `{name}.gain`
    with `Lower` and `Upper` (`paired`), how much mean@k rose since `task.previous` on the questions
    that are in both, if both were scored under the same `settings_of`, of which `settings` tells as
    a number. `BadData` names the file and line of what is no question with an answer.
    """
    return once(task, store, None, lambda: _evaluate(task, store, sampler))


def settings_of(task: EvaluateTask) -> str:
    """16 hex digits for what scores depend on beside the checkpoint and the questions.

    A Solver that may answer at greater length scores higher, and has learned nothing. The number of
    samples is no part of it: a share of right answers is the same of few and of many.
    """
    parts = (
        task.evaluation.sampling.to_json(),
        _prompt(task).to_json(),
        answers.EQUIVALENCE_VERSION,
    )
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:16]


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


def paired(differences: Sequence[float]) -> Interval:
    """The interval of the mean of (questions,) differences, each from -1 to 1, of two scores.

    Agresti and Min's for matched pairs (2005, Statistics in Medicine 24): Wald's, after two
    questions were added whose differences are 1/2 part 1, 1/2 part -1 and else 0. So a handful of
    questions, or of changes among many, is never certain; on 0 and 1 it decides about as McNemar's
    test does.
    """
    n = len(differences) + 2
    center = sum(differences) / n
    variance = (sum(value * value for value in differences) + 1) / n - center * center
    half = quantile(CONFIDENCE) * math.sqrt(variance / n)
    mean = sum(differences) / len(differences)
    return Interval(mean, max(-1.0, min(mean, center - half)), min(1.0, max(mean, center + half)))


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
    # Exact as a float, in a decimal string, and in a result that is read by other programs.
    counts["settings"] = float(int(settings_of(task)[:8], 16))
    before = _read_scores(store, task.previous, settings_of(task))
    room = min(_METRIC_BYTES, MAX_RESULT_BYTES - _BESIDE_BYTES - len(task.prefix.encode()))
    metrics = counts | _scores(intervals, _gains(scored, before), room)
    inputs = [task.solver, *([task.previous] if task.previous and before else [])]
    return Rows("scores", scored, metrics, inputs=inputs, files=files)


def _read_scores(store: ArtifactStore, uri: str | None, settings: str) -> list[ScoredQuestion]:
    """The scores of the Solver before; none where they are gone, damaged, or of other settings."""
    if uri is None:
        return []
    try:
        rows = list(read_jsonl(store.local(uri, [_SCORES]) / _SCORES, ScoredQuestion))
        if any(row.settings != settings for row in rows):
            raise BadData("evaluation.sampling, prompts.solver or how answers are graded changed")
    except (BadData, FileNotFoundError) as error:
        log.warning("the scores cannot be compared with those of the Solver before: %s", error)
        return []
    return rows


def _gains(now: Iterable[ScoredQuestion], before: Iterable[ScoredQuestion]) -> dict[str, Interval]:
    """How much mean@k rose on the questions that are in both, by dataset."""
    earlier = dict(_shares(before))
    differences: dict[str, list[float]] = {}
    for key, share in _shares(now):
        if key in earlier:
            differences.setdefault(key[0], []).append(share - earlier[key])
    return {name: paired(found) for name, found in differences.items()}


def _shares(
    rows: Iterable[ScoredQuestion],
) -> Iterator[tuple[tuple[str, str, str, int], float]]:
    """The share of right samples by dataset, question and answer, and how often these came before:
    a dataset may hold a question twice.
    """
    seen: Counter[tuple[str, str, str]] = Counter()
    for row in rows:
        same = (row.dataset, row.question, row.answer)
        seen[same] += 1
        if row.right:
            yield (*same, seen[same]), sum(row.right) / len(row.right)


def _prompt(task: EvaluateTask) -> Prompt:
    return task.prompts.solver or prompts.SOLVER_PROMPT


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
    messages = [prompts.solver_messages(_prompt(task), item.question) for item in questions]
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
    rows, used = [], settings_of(task)
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
                settings=used,
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


def _scores(
    intervals: Mapping[str, Sequence[Interval]], gains: Mapping[str, Interval], room: int
) -> dict[str, float]:
    """Scores, gains and bounds; of many datasets what `room` bytes hold (scores.jsonl has all).

    The bounds of scores go first, then greedy and majority, then the gains, all of them at once: a
    gain over some datasets only would favour these.
    """
    estimates: dict[str, float] = {}
    bounds: dict[str, float] = {}
    for name, found in intervals.items():
        for measure, interval in zip(MEASURES, found, strict=True):
            estimates[f"{name}.{measure}"] = round(interval.estimate, 5)
            bounds[f"{name}.{measure}Lower"] = round(interval.lower, 5)
            bounds[f"{name}.{measure}Upper"] = round(interval.upper, 5)
    rises = {
        f"{name}.gain{end}": round(value, 5)
        for name, gain in gains.items()
        for end, value in (("", gain.estimate), ("Lower", gain.lower), ("Upper", gain.upper))
    }
    means = {name: value for name, value in estimates.items() if name.endswith(".mean")}
    for metrics in (estimates | rises | bounds, estimates | rises, means | rises):
        if len(json.dumps(metrics)) <= room:
            return metrics
    return means
