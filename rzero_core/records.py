"""The rows of the artifacts: questions, votes, curriculum, scores; one JSON object a line."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import Field, ValidationError

from rzero_core.task import BadData
from rzero_core.wire import Wire, explain

Row = TypeVar("Row", bound=Wire)


class Question(Wire):
    """A question that the Challenger wrote (questions.jsonl)."""

    id: str
    """First 16 hex digits of sha256 of the text."""
    text: str
    challenger_answer: str | None = None
    """The Challenger's own boxed answer, if it gave one. Never a label."""

    @classmethod
    def of(cls, text: str, challenger_answer: str | None = None) -> "Question":
        """A question with its id. What UTF-8 cannot hold becomes a question mark."""
        data = text.encode("utf-8", "replace")
        digest = hashlib.sha256(data).hexdigest()
        return cls(id=digest[:16], text=data.decode(), challenger_answer=challenger_answer)


class VotedQuestion(Wire):
    """A question with all votes on it (votes.jsonl)."""

    id: str
    text: str
    challenger_answer: str | None = None
    answers: list[str | None]
    """The extracted answer of each vote; None abstains."""
    label: str | None = None
    """The majority answer; None for a tie or when all abstain."""
    agreement: float = Field(ge=0.0, le=1.0)
    """Votes for the largest cluster / votes cast or abstained."""
    decided_early: bool = False
    """True: no remaining vote could have brought the question into the band."""


class VotedProbe(VotedQuestion):
    """A probe with all votes on it (probes.jsonl beside votes.jsonl)."""

    answer: str
    """The known answer."""


class LabeledQuestion(Wire):
    """A question of the curriculum (curriculum.jsonl)."""

    id: str
    text: str
    label: str
    agreement: float = Field(ge=0.0, le=1.0)


class Verdict(Wire):
    """What the auditor made of one label (audit.jsonl)."""

    id: str
    text: str
    label: str
    agreement: float = Field(ge=0.0, le=1.0)
    auditor: str
    """What judged: verdicts are comparable while it stays the same."""
    right: bool | None = None
    """None: the auditor abstained."""
    truth: str | None = None
    """The answer that the label was compared with, where there is one."""
    answers: list[str | None] = Field(default_factory=list)
    """The oracle's answers; None for one that boxed none or never came."""
    why: str | None = None
    """Why the auditor abstained."""


class OracleAnswers(Wire):
    """What an oracle answered to one question (answers.jsonl): kept, for it was paid."""

    id: str
    oracle: str
    """Identity of the oracle: endpoint, model, prompt and settings."""
    answers: list[str | None]
    """The extracted answer of each draw, in their order; None boxed none."""


class JudgedProbe(Wire):
    """A probe with its label judged by the known answer (probes.jsonl beside curriculum.jsonl)."""

    id: str
    text: str
    answer: str
    """The known answer."""
    label: str | None = None
    """The majority answer; None for a tie or when all abstain."""
    agreement: float = Field(ge=0.0, le=1.0)
    right: bool | None = None
    """Whether the label is right; None without a label."""
    oracle_says_right: bool | None = None
    """The oracle's verdict on the label; None if it abstained or was not asked."""


class HeldOutQuestion(Wire):
    """A line of an evaluation dataset, or a probe."""

    question: str = Field(min_length=1)
    answer: str = Field(min_length=1)


class ScoredQuestion(Wire):
    """A held-out question with what the Solver made of it (scores.jsonl)."""

    dataset: str
    question: str
    answer: str
    greedy: str | None = None
    """Answer of greedy decoding."""
    greedy_right: bool
    samples: list[str | None]
    """Sampled answers."""
    right: list[bool]
    """Which of them are right."""
    majority_right: bool
    """Whether their majority answer is."""
    settings: str | None = None
    """What it depends on beside checkpoint and question: scores are compared while it stays the
    same. None in older artifacts."""


class StepRow(Wire):
    """One training step (steps.jsonl)."""

    step: int
    """1..n."""
    metrics: dict[str, float]
    """reward, agreement, uncertainty, repetition, valid, kl, seconds, …"""


def read_jsonl(path: Path, row: type[Row]) -> Iterator[Row]:
    """The rows of a file. Raises `BadData` that names the file and the line."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield row.model_validate_json(line)
            except ValidationError as error:
                reason = explain(error)[0].removeprefix(": ")
                raise BadData(f"{path.name}, line {number}: {reason}") from error


def write_jsonl(path: Path, rows: Iterable[Wire]) -> int:
    """Write rows, one a line, and return how many."""
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as out:
        for row in rows:
            out.write(row.to_json() + "\n")
            count += 1
    return count
