"""Chooses ten questions of a run and shows how the Solver voted on them."""

from dataclasses import dataclass

from rzero_core import answers
from rzero_core.records import VotedQuestion
from rzero_core.run import Labels
from rzero_stages import build_curriculum
from rzero_stages.build_curriculum import Drop
from rzero_stages.report_data import Iteration

COUNT = 10
_ORDER = ("kept", "band", "easy", "hard", "tie", "kept", "duplicate", "silent")
"""Which outcomes take turns; kept questions come twice, for they are what the Solver learns."""
_MOST_ANSWERS = 8


@dataclass(frozen=True)
class Answer:
    """One answer that votes went to."""

    text: str
    votes: int
    share: float
    is_label: bool


@dataclass(frozen=True)
class Sample:
    """One question with its votes."""

    iteration: int
    outcome: str
    text: str
    label: str | None
    agreement: float
    votes: int
    answers: list[Answer]
    other_votes: int
    """Votes for answers that are not listed."""
    abstained: int
    decided_early: bool
    challenger_answer: str | None
    truth: str | None
    """The computed answer, else the oracle's, where there is one."""
    label_is_right: bool
    says: str
    """Whose answer `truth` is."""
    abstained_because: str | None
    """Why the auditor gave no verdict on the label, if it was asked."""


def choose(labels: Labels, iterations: list[Iteration]) -> list[Sample]:
    """Up to ten questions of different outcomes from all iterations, always the same ones."""
    queues: dict[str, list[tuple[Iteration, VotedQuestion]]] = {}
    with_votes = [entry for entry in iterations if entry.votes]
    # Ids are hashes of the texts: their order is as good as chance, and always the same. What the
    # auditor looked at comes first, for there is more to see.
    pools = [{question.id: question for question in entry.votes} for entry in with_votes]
    ordered = [
        [pool[id] for id in sorted(pool, key=lambda id: (id not in seen, id))]
        for pool, seen in zip(pools, (entry.verdicts for entry in with_votes), strict=True)
    ]
    for place in range(max(map(len, ordered), default=0)):
        for entry, questions in zip(with_votes, ordered, strict=True):
            if place < len(questions):
                what = _outcome(questions[place], labels, entry)
                queues.setdefault(what, []).append((entry, questions[place]))
    chosen: list[tuple[str, Iteration, VotedQuestion]] = []
    while len(chosen) < COUNT and any(queues.values()):
        for what in _ORDER:
            if queues.get(what) and len(chosen) < COUNT:
                chosen.append((what, *queues[what].pop(0)))
    chosen.sort(key=lambda item: (item[1].number, _ORDER.index(item[0])))
    return [_sample(*item) for item in chosen]


def _outcome(question: VotedQuestion, labels: Labels, entry: Iteration) -> str:
    """What became of a question; "band" where nothing is known but that it is in the band."""
    match build_curriculum.outcome(question, labels):
        case Drop.TOO_EASY:
            return "easy"
        case Drop.TOO_HARD:
            return "hard"
        case Drop.TIE:
            return "tie"
        case Drop.UNLABELLED:
            return "silent"
    if not entry.curriculum:
        return "band"
    return "kept" if question.id in entry.kept else "duplicate"


def _sample(what: str, entry: Iteration, question: VotedQuestion) -> Sample:
    vote = answers.vote(question.answers)
    cast = len(question.answers)
    listed = list(vote.counts.items())[:_MOST_ANSWERS]
    verdict = entry.verdicts.get(question.id)
    computed = entry.truths.get(question.id)
    truth = computed or (verdict.truth if verdict else None)
    if verdict is not None and not computed:
        # The auditor's own word: it holds what calls a question ill-posed for wrong, for example.
        right = bool(verdict.right)
    else:
        right = question.label is not None and answers.equivalent(question.label, truth or "")
    return Sample(
        iteration=entry.number,
        outcome=what,
        text=question.text,
        label=question.label,
        agreement=question.agreement,
        votes=cast,
        answers=[
            Answer(text, votes, votes / cast, text == question.label) for text, votes in listed
        ],
        other_votes=sum(list(vote.counts.values())[_MOST_ANSWERS:]),
        abstained=vote.abstained,
        decided_early=question.decided_early,
        challenger_answer=question.challenger_answer,
        truth=truth,
        label_is_right=right,
        says="the answer is" if computed else "the oracle answers",
        abstained_because=verdict.why if verdict else None,
    )
