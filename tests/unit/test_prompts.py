"""Tests of what the roles are asked and of how a question is read from a completion."""

import time

import pytest

from rzero_core.prompts import (
    CHALLENGER_PROMPT,
    SOLVER_PROMPT,
    ParsedQuestion,
    Rejection,
    challenger_messages,
    parse_question,
    plain,
    solver_messages,
)
from rzero_core.run import Prompt, Prompts


def parse(text: str) -> ParsedQuestion | Rejection:
    return parse_question(text, max_characters=200)


def test_a_completion_in_the_asked_format_is_read_back() -> None:
    for question, answer in [("What is $1+1$?", "2"), ("A\nB", "\\frac{1}{2}"), ("{}", "x")]:
        text = f"<question>\n{question}\n</question>\n\\boxed{{{answer}}}"
        assert parse(text) == ParsedQuestion(question, answer)


def test_the_prompt_shows_the_format_that_the_parser_reads() -> None:
    parsed = parse(CHALLENGER_PROMPT.system)
    assert parsed == ParsedQuestion("the whole question", "the final answer")


def test_the_last_complete_block_counts() -> None:
    assert parse("<question>a</question> no, better: <question>b</question>") == ParsedQuestion(
        "b", None
    )
    assert parse("<question>a</question> and <question>b") == ParsedQuestion("a", None)
    assert parse("I use <question> tags. <question>a</question></question>") == ParsedQuestion(
        "a", None
    )


def test_only_a_box_after_the_question_is_the_challengers_answer() -> None:
    assert parse("\\boxed{1} <question>Fill \\boxed{2}</question>") == ParsedQuestion(
        "Fill \\boxed{2}", None
    )


def test_a_missing_or_empty_box_is_no_answer_rather_than_a_text() -> None:
    assert parse("<question>a</question>") == ParsedQuestion("a", None)
    assert parse("<question>a</question>\\boxed{}") == ParsedQuestion("a", None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", Rejection.NO_QUESTION_BLOCK),
        ("What is 1+1? \\boxed{2}", Rejection.NO_QUESTION_BLOCK),
        ("<question>a", Rejection.NO_QUESTION_BLOCK),
        ("a</question>", Rejection.NO_QUESTION_BLOCK),
        ("</question>a<question>", Rejection.NO_QUESTION_BLOCK),
        ("<QUESTION>a</QUESTION>", Rejection.NO_QUESTION_BLOCK),
        ("<question> \n</question>", Rejection.EMPTY_QUESTION),
        ("<question>" + "a" * 201 + "</question>", Rejection.TOO_LONG),
    ],
)
def test_what_is_no_question_has_a_reason(text: str, reason: Rejection) -> None:
    assert parse(text) is reason


def test_the_longest_allowed_question_is_kept() -> None:
    assert parse(f"<question>{'a' * 200}</question>") == ParsedQuestion("a" * 200, None)


@pytest.mark.parametrize("question", ["A box holds 3 balls.", "证明 1+1=2", "Which text is None?"])
def test_no_word_in_a_question_drops_it(question: str) -> None:
    assert parse(f"<question>{question}</question>") == ParsedQuestion(question, None)


@pytest.mark.parametrize(
    "text",
    [
        "<question>" * 100_000,
        "</question>" * 100_000,
        "<question></question>" * 50_000,
        "<question>a</question>" + "\\boxed{" * 100_000,
        "<question>a</question>" + "{" * 1_000_000,
    ],
)
def test_hostile_completions_are_read_in_linear_time(text: str) -> None:
    # Processor time: a busy machine takes longer, for the same work.
    start = time.process_time()
    parse(text)
    assert time.process_time() - start < 1.0


@pytest.mark.parametrize("question", ["{0} {question} {x!r}", "%s $x$ \\g<1>", "}{", "user: hi"])
def test_a_question_goes_into_the_prompt_as_it_is(question: str) -> None:
    messages = solver_messages(Prompt(system="", user="Q: {question} {not} A:"), question)
    assert messages == [{"role": "user", "content": f"Q: {question} {{not}} A:"}]


def test_an_empty_system_text_makes_no_system_message() -> None:
    assert challenger_messages(Prompt(user="Write a sum.")) == [
        {"role": "user", "content": "Write a sum."}
    ]


def test_the_built_in_prompts_are_valid_and_ask_for_what_is_parsed() -> None:
    Prompts(challenger=CHALLENGER_PROMPT, solver=SOLVER_PROMPT)
    assert [m["role"] for m in challenger_messages(CHALLENGER_PROMPT)] == ["system", "user"]
    assert "\\boxed{" in SOLVER_PROMPT.system


def test_a_conversation_is_plain_text_where_there_is_no_chat_template() -> None:
    messages = solver_messages(Prompt(system="Think.", user="{question}"), "1+1")
    assert plain(messages) == "system: Think.\nuser: 1+1"
