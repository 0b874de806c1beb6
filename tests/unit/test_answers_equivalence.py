"""Equality of answers: the labelled table, and what the two usual graders get wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rzero_core import answers
from rzero_core.equality.grader import SHARED

ROWS = [
    json.loads(line)
    for line in (Path(__file__).resolve().parent.parent / "data" / "answer_pairs.jsonl")
    .read_text(encoding="utf-8")
    .splitlines()
]


def test_the_table_is_large_and_has_no_pair_twice() -> None:
    assert len(ROWS) >= 300
    assert len({(row["a"], row["b"]) for row in ROWS}) == len(ROWS)


def test_equal_pairs_are_found_and_unequal_ones_are_not_taken_for_equal() -> None:
    verdicts = answers.grade_all([(row["a"], row["b"]) for row in ROWS])
    wrong = [row for row, said in zip(ROWS, verdicts, strict=True) if said and not row["equal"]]
    missed = [row for row, said in zip(ROWS, verdicts, strict=True) if row["equal"] and not said]
    assert len(wrong) <= 0.01 * sum(verdicts), wrong
    assert len(missed) <= 0.03 * sum(row["equal"] for row in ROWS), missed


def test_equality_is_symmetric() -> None:
    pairs = [(row["a"], row["b"]) for row in ROWS]
    assert answers.grade_all(pairs) == answers.grade_all([(b, a) for a, b in pairs])


@pytest.mark.parametrize(
    ("a", "b"),
    [("2/4", "1/2"), ("6/2", "3"), ("2^{10}", "1024"), ("10^3", "1000"), (r"\{1,2\}", r"\{2,1\}"),
     ("50%", "0.5"), ("50 %", "0.5"), (r"50\%", "0.5"), ("x+1", "1+x"), (r"\sqrt{2}", r"\sqrt2"),
     (r"\frac{1}{1+\sqrt{2}}", r"\sqrt{2}-1"), (r"\sin^2 x+\cos^2 x", "1")],
)  # fmt: skip
def test_what_a_strict_grader_misses_is_equal(a: str, b: str) -> None:
    assert answers.equivalent(a, b)
    assert answers.equivalent(b, a)


@pytest.mark.parametrize(
    ("a", "b"),
    [(r"2\sqrt{2}", "2"), ("(1,2)", "(2,1)"), ("1/2004!", "1/2006!"), ("1/2^{99}", "1/2^{98}"),
     ("n=2,3,4", "n=1,2,3"), ("D=(0,1)", "D=(0,1.5)"), ("y=x+1", "y=2x+3"),
     ("1.414214", r"\sqrt{2}"),
     (r"50\%", "50"), ("no solution", "no triangle"), (r"\infty^\infty", r"\sum_{k=1}^3 k^2"),
     (r"e^{\pi\sqrt{163}}", "262537412640768744"), ("x+10^{-20}", "x")],
)  # fmt: skip
def test_what_a_lenient_grader_accepts_is_not_equal(a: str, b: str) -> None:
    assert not answers.equivalent(a, b)
    assert not answers.equivalent(b, a)


def test_numbers_words_and_most_expressions_never_reach_the_grader() -> None:
    code = (
        "import sys\nfrom rzero_core import answers\n"
        "from rzero_core.equality.grader import SHARED\n"
        "answers.grade_all([(str(i), str(i + i % 2)) for i in range(999)])\n"
        "answers.vote(['Monday', 'Tuesday', '7', '1/2', 'x+1', '1+x', 'x+2', '(1,2)', '5 cm'])\n"
        "print(len(SHARED._pool), 'sympy' in sys.modules)"
    )
    assert run_python("-c", code) == "0 False"


@pytest.mark.parametrize("how", ["-c", "-"])
def test_symbolic_pairs_are_decided_whatever_the_main_module_is(how: str) -> None:
    code = (
        "from rzero_core import answers\n"
        r"print(answers.equivalent(r'\frac{1}{1+\sqrt{2}}', r'\sqrt{2}-1'))"
    )
    assert (run_python("-c", code) if how == "-c" else run_python("-", stdin=code)) == "True"


def run_python(*arguments: str, stdin: str = "") -> str:
    done = subprocess.run(
        [sys.executable, *arguments], input=stdin, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_verdict_is_asked_for_once() -> None:
    pair = (r"\frac{7}{1+\sqrt{3}}", r"\frac{7(\sqrt{3}-1)}{2}")
    assert answers.equivalent(*pair)
    served = sum(worker.done for worker in SHARED._pool)
    assert answers.equivalent(*reversed(pair))
    assert sum(worker.done for worker in SHARED._pool) == served
