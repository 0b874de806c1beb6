"""The Solver votes on one shard of the pool: votes.jsonl keeps every vote, not just the winner.

Probes are voted on among the questions and by the same path; they leave it in probes.jsonl.
"""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rzero_core import answers, prompts
from rzero_core.answers import Vote
from rzero_core.manifest import sha256_of
from rzero_core.records import HeldOutQuestion, Question, VotedProbe, VotedQuestion, read_jsonl
from rzero_core.run import Labels, Probes, Prompt
from rzero_core.store import ArtifactStore, InputRef
from rzero_core.task import BadData, BadTask, LabelQuestionsTask, StageResult, derive_seed
from rzero_stages import progress
from rzero_stages.published import Rows, once
from rzero_stages.sampler import Sampler
from rzero_stages.sampling import open_sampler

QUESTIONS = "questions.jsonl"
PROBES = "probes.jsonl"


def run(
    task: LabelQuestionsTask, store: ArtifactStore, shard: int, sampler: Sampler | None = None
) -> StageResult:
    """Vote on the questions of `pool[shard]` and publish them with their votes.

    Metrics are counts and sums, so that those of shards can be added; those of tokens and times
    include the probes, the others do not.
    """
    if not 0 <= shard < len(task.pool):
        raise BadTask(f"shard {shard} is not one of the {len(task.pool)} in pool")
    return once(task, store, shard, lambda: _label(task, store, shard, sampler))


def first_votes(labels: Labels) -> int:
    """The smallest number of votes after which some question can be decided.

    Unanimous votes decide once they alone exceed `max_agreement`, and abstentions once what is left
    cannot reach `min_agreement`.
    """
    total = labels.votes
    for cast in range(1, total):
        unanimous = Vote(label="", agreement=1.0, counts={"": cast}, abstained=0)
        silent = Vote(label=None, agreement=0.0, counts={}, abstained=cast)
        if is_decided(unanimous, labels) or is_decided(silent, labels):
            return cast
    return total


def is_decided(vote: Vote, labels: Labels) -> bool:
    """Whether no remaining vote can bring the question into the band.

    The largest class only grows. It may grow by more than the remaining votes, because one answer
    can join two classes; so only abstentions bound it from above.
    """
    total = labels.votes
    largest = max(vote.counts.values(), default=0)
    most = total - vote.abstained
    return largest / total > labels.max_agreement or most / total < labels.min_agreement


def read_probes(
    probes: Probes, store: ArtifactStore
) -> tuple[dict[str, HeldOutQuestion], InputRef]:
    """The first `count` probes of the file by their ids, always the same; repeated ones count once.

    Raises `BadData` that names the file when it is damaged or empty.
    """
    path = store.file(probes.uri)
    found: dict[str, HeldOutQuestion] = {}
    for row in read_jsonl(path, HeldOutQuestion):
        found.setdefault(Question.of(row.question).id, row)
        if len(found) == probes.count:
            break
    if not found:
        raise BadData(
            f"labelAccuracy.auditor.probes: {path.name} has no questions; write one JSON object "
            '{"question": ..., "answer": ...} a line'
        )
    return found, InputRef(uri=probes.uri, digest=sha256_of(path))


@dataclass
class _Ballot:
    """A question with the votes on it so far."""

    question: Question
    answers: list[str | None]
    vote: Vote | None = None
    known: str | None = None
    """The known answer of a probe."""


def _label(
    task: LabelQuestionsTask, store: ArtifactStore, shard: int, sampler: Sampler | None
) -> Rows:
    pool = task.pool[shard]
    questions = list(read_jsonl(store.local(pool, [QUESTIONS]) / QUESTIONS, Question))
    in_order = [_Ballot(question, []) for question in questions]
    probes, files = _probes(task, store, shard)
    ballots = [*in_order, *probes]
    if probes:
        # Nothing about its place may tell a probe from a question.
        parts = (task.seed, task.iteration, task.stage, task.round, shard, "probes")
        random.Random(derive_seed(*parts)).shuffle(ballots)
    counter = None
    if sampler is None and ballots:
        counter = progress.Counter(len(ballots) * task.labels.votes, "votes")
        folder = None if task.solver_endpoint else store.model(task.solver)
        sampler = open_sampler(task.sampler, folder, task.solver_endpoint, counter.advance)
    figures = dict.fromkeys(("tokens", "truncated", "samplingSeconds"), 0.0)
    if sampler is not None:
        first = first_votes(task.labels)
        _cast(task, shard, sampler, ballots, first, "first", figures)
        rest = task.labels.votes - first
        undecided = [b for b in ballots if b.vote and not is_decided(b.vote, task.labels)]
        if counter is not None:
            counter.advance(rest * (len(ballots) - len(undecided)))
        if rest and undecided:
            _cast(task, shard, sampler, undecided, rest, "rest", figures)
    rows = [_row(ballot, task.labels) for ballot in in_order]
    return Rows(
        "votes",
        rows,
        _metrics(rows, in_order, figures),
        inputs=[task.solver, pool],
        files=files,
        beside={PROBES: [_probe_row(probe, task.labels) for probe in probes]} if files else {},
    )


def _probes(
    task: LabelQuestionsTask, store: ArtifactStore, shard: int
) -> tuple[list[_Ballot], list[InputRef]]:
    """This shard's share of the probes, and the file that they come from."""
    if task.probes is None:
        return [], []
    probes, file = read_probes(task.probes, store)
    share = list(probes.values())[shard :: len(task.pool)]
    return [_Ballot(Question.of(row.question), [], known=row.answer) for row in share], [file]


def _cast(
    task: LabelQuestionsTask,
    shard: int,
    sampler: Sampler,
    ballots: Sequence[_Ballot],
    votes: int,
    part: str,
    figures: dict[str, float],
) -> None:
    """Draw so many votes more for each ballot, and count anew."""
    prompt: Prompt = task.prompts.solver or prompts.SOLVER_PROMPT
    messages = [prompts.solver_messages(prompt, ballot.question.text) for ballot in ballots]
    seed = derive_seed(task.seed, task.iteration, task.stage, task.round, shard, part)
    clock = time.monotonic()
    drawn = sampler.sample(messages, votes, task.labels.sampling, seed)
    figures["samplingSeconds"] += time.monotonic() - clock
    for ballot, completions in zip(ballots, drawn, strict=True):
        ballot.answers += [answers.extract(completion.text) for completion in completions]
        figures["tokens"] += sum(completion.tokens for completion in completions)
        figures["truncated"] += sum(not completion.finished for completion in completions)
    counted = answers.vote_all([ballot.answers for ballot in ballots])
    for ballot, vote in zip(ballots, counted, strict=True):
        ballot.vote = vote


def _row(ballot: _Ballot, labels: Labels) -> VotedQuestion:
    assert ballot.vote is not None
    return VotedQuestion(
        id=ballot.question.id,
        text=ballot.question.text,
        challenger_answer=ballot.question.challenger_answer,
        answers=ballot.answers,
        label=ballot.vote.label,
        agreement=ballot.vote.agreement,
        decided_early=len(ballot.answers) < labels.votes,
    )


def _probe_row(ballot: _Ballot, labels: Labels) -> VotedProbe:
    assert ballot.known is not None
    return VotedProbe(**dict(_row(ballot, labels)), answer=ballot.known)


def _metrics(
    rows: Sequence[VotedQuestion], ballots: Sequence[_Ballot], figures: dict[str, float]
) -> dict[str, float]:
    votes = [ballot.vote for ballot in ballots if ballot.vote is not None]
    return {
        "questions": len(rows),
        "votes": sum(len(row.answers) for row in rows),
        "abstained": sum(vote.abstained for vote in votes),
        "unlabelled": sum(not vote.counts for vote in votes),
        "ties": sum(vote.label is None and bool(vote.counts) for vote in votes),
        "ambiguous": sum(vote.ambiguous for vote in votes),
        "decidedEarly": sum(row.decided_early for row in rows),
        "agreementSum": round(sum(row.agreement for row in rows), 6),
        "gradingTimeouts": answers.grading_timeouts(),
        "gradingSeconds": round(answers.grading_seconds(), 3),
        **{name: round(value, 3) for name, value in figures.items()},
    }
