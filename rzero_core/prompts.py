"""What the two roles are asked, and how a question is read from what the Challenger wrote.

The Challenger's format and its parser stand side by side: `CHALLENGER_PROMPT`, `parse_question`.
"""

from dataclasses import dataclass
from enum import StrEnum

from rzero_core import answers
from rzero_core.run import Prompt

OPEN, CLOSE = "<question>", "</question>"

CHALLENGER_PROMPT = Prompt(
    system=(
        "You write questions for mathematics competitions. Think first, for yourself: choose a "
        "field (algebra, geometry, number theory, combinatorics, prealgebra, probability, "
        "statistics or calculus) and devise an original question that takes several steps of "
        "reasoning. It should be so hard that fewer than 30 % of strong high-school students "
        "solve it, it must have exactly one answer, and it must not be a known contest question "
        "or a small change of one.\n"
        "Then write the question and its final answer, and nothing else, as\n"
        f"{OPEN}\n"
        "the whole question\n"
        f"{CLOSE}\n"
        "\\boxed{the final answer}"
    ),
    user="Write one new, hard question in this format.",
)

SOLVER_PROMPT = Prompt(
    system="Reason step by step, and put your final answer in \\boxed{}.",
    user="{question}",
)


class Rejection(StrEnum):
    """Why what the Challenger wrote is no question; stages count these by name."""

    NO_QUESTION_BLOCK = "noQuestionBlock"
    """No <question> with a </question> after it."""
    EMPTY_QUESTION = "emptyQuestion"
    """Nothing between the two."""
    TOO_LONG = "tooLong"
    """More characters than `questions.maxCharacters`."""


@dataclass(frozen=True)
class ParsedQuestion:
    """A question, as the Challenger wrote it."""

    question: str
    """Never empty, without white space around it."""
    answer: str | None
    """The Challenger's own boxed answer after the question; None when it boxed none."""


def parse_question(text: str, max_characters: int) -> ParsedQuestion | Rejection:
    """Reads the last complete <question> block of a Challenger's completion, in linear time.

    Only the tags decide, never what the question says. A boxed answer is not needed: the label is
    the Solver's majority.
    """
    start = text.rfind(OPEN, 0, max(text.rfind(CLOSE), 0))
    if start < 0:
        return Rejection.NO_QUESTION_BLOCK
    end = text.find(CLOSE, start)
    question = text[start + len(OPEN) : end].strip()
    if not question:
        return Rejection.EMPTY_QUESTION
    if len(question) > max_characters:
        return Rejection.TOO_LONG
    return ParsedQuestion(question, answers.extract(text[end + len(CLOSE) :]))


def challenger_messages(prompt: Prompt) -> list[dict[str, str]]:
    """The conversation that asks for one question."""
    return _messages(prompt.system, prompt.user)


def solver_messages(prompt: Prompt, question: str) -> list[dict[str, str]]:
    """The conversation that asks for an answer; the question goes in as it is, braces and all."""
    return _messages(prompt.system, prompt.user.replace("{question}", question))


def plain(messages: list[dict[str, str]]) -> str:
    """A conversation as text, for models without a chat template."""
    return "\n".join(f"{message['role']}: {message['content']}" for message in messages)


def _messages(system: str, user: str) -> list[dict[str, str]]:
    messages = [{"role": "system", "content": system}] if system else []
    return [*messages, {"role": "user", "content": user}]
