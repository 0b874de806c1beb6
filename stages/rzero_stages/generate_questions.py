"""The Challenger writes one shard of the pool: questions.jsonl, with what is malformed counted."""

import logging
import time
from collections import Counter

from rzero_core import prompts
from rzero_core.prompts import Rejection
from rzero_core.records import Question
from rzero_core.store import ArtifactStore
from rzero_core.task import BadTask, GenerateQuestionsTask, StageResult, derive_seed
from rzero_stages import progress
from rzero_stages.published import Rows, once
from rzero_stages.sampler import Completion, Sampler
from rzero_stages.sampling import open_sampler

log = logging.getLogger(__name__)


def run(
    task: GenerateQuestionsTask, store: ArtifactStore, shard: int, sampler: Sampler | None = None
) -> StageResult:
    """Draw this shard's share of `questions.count` and publish the well-formed ones.

    Metrics: `questions` = `valid` + `malformed`, and `malformed` by reason. A shard without any
    valid question is published empty: whether enough are left is BuildCurriculum's to judge.
    """
    if not 0 <= shard < task.questions.shards:
        raise BadTask(
            f"shard {shard} is not one of the {task.questions.shards} in questions.shards"
        )
    return once(task, store, shard, lambda: _generate(task, store, shard, sampler))


def share(count: int, shards: int, shard: int) -> int:
    """How many of `count` questions shard number `shard` draws; all shards together draw all."""
    return count // shards + (shard < count % shards)


def _generate(
    task: GenerateQuestionsTask, store: ArtifactStore, shard: int, sampler: Sampler | None
) -> Rows:
    count = share(task.questions.count, task.questions.shards, shard)
    if sampler is None:
        counter = progress.Counter(count, "questions")
        folder = store.model(task.challenger)
        sampler = open_sampler(task.sampler, folder, on_completions=counter.advance)
    messages = prompts.challenger_messages(task.prompts.challenger or prompts.CHALLENGER_PROMPT)
    seed = derive_seed(task.seed, task.iteration, task.stage, task.round, shard)
    clock = time.monotonic()
    drawn = sampler.sample([messages] * count, 1, task.questions.sampling, seed)
    seconds = time.monotonic() - clock
    completions = [completion for (completion,) in drawn]
    questions, rejected = _parse(completions, task.questions.max_characters)
    if not questions:
        log.warning("no valid question in shard %d: %s", shard, dict(rejected))
    metrics: dict[str, float] = {
        "questions": count,
        "valid": len(questions),
        "malformed": rejected.total(),
        **{reason.value: rejected[reason] for reason in Rejection},
        "truncated": sum(not completion.finished for completion in completions),
        "tokens": sum(completion.tokens for completion in completions),
        "samplingSeconds": round(seconds, 3),
    }
    return Rows("questions", questions, metrics, inputs=[task.challenger])


def _parse(
    completions: list[Completion], max_characters: int
) -> tuple[list[Question], Counter[Rejection]]:
    questions: list[Question] = []
    rejected: Counter[Rejection] = Counter()
    for completion in completions:
        parsed = prompts.parse_question(completion.text, max_characters)
        if isinstance(parsed, Rejection):
            rejected[parsed] += 1
        else:
            questions.append(Question.of(parsed.question, parsed.answer))
    return questions, rejected
