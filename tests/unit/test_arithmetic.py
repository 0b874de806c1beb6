"""Tests of exact answers to plain arithmetic."""

import random
import time
from fractions import Fraction

import pytest

from rzero_core import arithmetic


@pytest.mark.parametrize(
    ("question", "value"),
    [
        ("12+345", 357),
        ("12+345+6", 363),
        (" 12 + 345 = ", 357),
        ("12+345=?", 357),
        ("What is 12 + 345?", 357),
        ("what's 7*8?", 56),
        ("Compute 2*(3-5).", -4),
        ("Calculate the value of 10 / 4", Fraction(5, 2)),
        ("Find $3 \\times \\left(4+5\\right)$.", 27),
        ("3 \u00d7 4 \u2212 5 \u00f7 2", Fraction(19, 2)),
        ("3*(4+5)", 27),
        ("8/4/2", 1),
        ("8-4-2", 2),
        ("2+3*4", 14),
        ("-3+5", 2),
        ("2*-3", -6),
        ("1-(-1)", 2),
        ("1--1", 2),
        ("0.1+0.2", Fraction(3, 10)),
        ("5-5", 0),
        ("1---2", -1),
        ("2(3)+.5", Fraction(13, 2)),
        ("$\\frac{1}{2} + \\dfrac13$", Fraction(5, 6)),
        ("007+1", 8),
        ("9" * 40 + "+1", 10**40),
    ],
)
def test_plain_arithmetic_has_its_exact_value(question: str, value: int | Fraction) -> None:
    assert arithmetic.solve(question) == value


@pytest.mark.parametrize(
    "question",
    [
        "", "?", "=", "12", "(12)", "+", "1+", "*1", "1 2+3", "1+2=3", "()", "(1+2", "1+2)",
        "1/2(3)", "2**3", "2^3", "1,000+1", "x+1", "1/0", "1/(2-2)", "3!+1", "1..2+1",
        "1+2 find +3", "1.2.3+1", "What is the sum of 1 and 2?", "How many of 3+4 apples are red?",
        "1e3+1", "1_0+1",
    ],
)  # fmt: skip
def test_anything_else_has_none(question: str) -> None:
    assert arithmetic.solve(question) is None


@pytest.mark.parametrize(
    "question",
    [
        "__import__('os').system('true')+1",
        "9**9**9**9",
        "(" * 100_000 + "1+1" + ")" * 100_000,
        "(" * 120 + "1+1" + ")" * 120,
        "-(" * 80 + "1+1" + ")" * 80,
        "1+" * 100_000 + "1",
        "What is " * 30,
        "1" + " " * 200 + "+",
        "\u0661+\u0662",
        "\uff11+\uff12",
        "\u00b2+1",
        "1+1\x00",
        "\ud800+1",
        "1" * 100 + "." * 100,
    ],
)
def test_hostile_questions_have_none_at_once(question: str) -> None:
    # Processor time: a busy machine takes longer, for the same work.
    start = time.process_time()
    assert arithmetic.solve(question) is None
    assert time.process_time() - start < 0.1


def test_thirty_two_nested_parentheses_are_read() -> None:
    assert arithmetic.solve("(" * 32 + "1+1" + ")" * 32) == 2


def test_random_sums_agree_with_python() -> None:
    rng = random.Random(0)
    for _ in range(500):
        numbers = [rng.randint(0, 9999) for _ in range(rng.randint(2, 3))]
        assert arithmetic.solve("+".join(map(str, numbers))) == sum(numbers)
