"""Compares our answer equivalence with math-verify alone and with plain string comparison.

`.venv/bin/python -m benchmarks.answers` prints precision and recall on the labelled pairs of
`tests/data/answer_pairs.jsonl`, the slowest of the hostile strings, and the time to vote on 8000
questions of 10 votes. math-verify votes as the reference does, answer by answer against the first
member of each class, on a part of the same questions; its time for all is extrapolated.
"""

import json
import logging
import random
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import math_verify

from rzero_core import answers

DATA = Path(__file__).resolve().parent.parent / "tests" / "data"
QUESTIONS, VOTES, PEER_QUESTIONS = 8000, 10, 160


def main() -> None:
    logging.disable(logging.CRITICAL)  # math-verify warns of every time-out
    result = {
        "pairs": measure_pairs(),
        "hostile": measure_hostile(),
        "throughput": measure_throughput(),
        "timeouts": answers.grading_timeouts(),
    }
    print(json.dumps(result) if "--json" in sys.argv[1:] else table(result))


def by_math_verify(a: str, b: str) -> bool:
    """math-verify in its best form: gold = a, prediction = b, both boxed, its own time-outs."""
    gold = math_verify.parse("\\boxed{" + a + "}")
    return bool(math_verify.verify(gold, math_verify.parse("\\boxed{" + b + "}")))


def measure_pairs() -> list[dict[str, Any]]:
    lines = (DATA / "answer_pairs.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    truth = [row["equal"] for row in rows]
    pairs = [(row["a"], row["b"]) for row in rows]
    graders: dict[str, Callable[[], list[bool]]] = {
        "rzero": lambda: answers.grade_all(pairs),
        "math-verify": lambda: [by_math_verify(a, b) for a, b in pairs],
        "string": lambda: [a.strip() == b.strip() for a, b in pairs],
    }
    return [{"grader": name, **scores(truth, grade())} for name, grade in graders.items()]


def scores(truth: list[bool], verdicts: list[bool]) -> dict[str, float]:
    right = sum(t and v for t, v in zip(truth, verdicts, strict=True))
    said, meant = sum(verdicts), sum(truth)
    return {
        "pairs": len(truth),
        "equal": meant,
        "precision": right / said if said else 1.0,
        "recall": right / meant,
        "falsePositives": said - right,
        "falseNegatives": meant - right,
    }


def measure_hostile() -> dict[str, Any]:
    strings = hostile_strings()
    seconds = []
    answers.equivalent(r"\int_0^1 x\,dx", "0.5")  # the workers are up before the clock runs
    for text in strings:
        start = time.perf_counter()
        answers.extract("\\boxed{" + text + "}")
        answers.equivalent(text, r"\frac{\sqrt{2}}{x+1}")
        answers.equivalent(text, "1")
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"strings": len(strings), "worstSeconds": max(seconds), "peakMiB": peak}


def hostile_strings() -> list[str]:
    lines = (DATA / "hostile_answers.jsonl").read_text(encoding="utf-8").splitlines()
    return ["".join(part * times for part, times in json.loads(line)) for line in lines]


def measure_throughput() -> dict[str, Any]:
    questions = votes_of(QUESTIONS)
    start = time.perf_counter()
    answers.vote_all(questions)
    ours = time.perf_counter() - start
    start = time.perf_counter()
    for question in questions[:PEER_QUESTIONS]:
        greedy_classes(question)
    measured = time.perf_counter() - start
    theirs = measured * QUESTIONS / PEER_QUESTIONS
    return {
        "questions": QUESTIONS,
        "votes": VOTES,
        "seconds": ours,
        "peerQuestions": PEER_QUESTIONS,
        "peerMeasuredSeconds": measured,
        "peerExtrapolatedSeconds": theirs,
        "speedup": theirs / ours,
    }


def greedy_classes(question: list[str]) -> list[list[str]]:
    """The reference's vote: each answer joins the first class whose first member it matches."""
    classes: list[list[str]] = []
    for answer in question:
        for members in classes:
            if answer == members[0] or by_math_verify(members[0], answer):
                members.append(answer)
                break
        else:
            classes.append([answer])
    return classes


def votes_of(count: int) -> list[list[str]]:
    """Questions whose votes are right about half of the time, each in one of several spellings."""
    rng = random.Random(0)
    kinds: list[Callable[[random.Random, int], list[str]]] = [
        spell_integer, spell_fraction, spell_decimal, spell_radical, spell_pi, spell_pair,
        spell_polynomial, spell_word,
    ]  # fmt: skip
    weights = [62, 12, 7, 6, 4, 4, 4, 1]
    questions = []
    for _ in range(count):
        spell = rng.choices(kinds, weights)[0]
        right = rng.randint(2, 400)
        share = rng.random()
        values = [
            right if rng.random() < share else right + rng.randint(-6, 6) for _ in range(VOTES)
        ]
        questions.append([rng.choice(spell(rng, value)) for value in values])
    return questions


def spell_integer(rng: random.Random, n: int) -> list[str]:
    return [str(n), str(n), str(n), str(n), f"{n}.", f"{n}.0", f"{n} \\text{{ units}}", f"${n}$"]


def spell_fraction(rng: random.Random, n: int) -> list[str]:
    return [f"\\frac{{{n}}}{{7}}", f"\\dfrac{{{n}}}{{7}}", f"{n}/7", f"\\frac{{{2 * n}}}{{14}}"]


def spell_decimal(rng: random.Random, n: int) -> list[str]:
    return [f"{n / 4:.2f}", f"{n / 4}", f"\\frac{{{n}}}{{4}}", f"\\${n / 4:.2f}"]


def spell_radical(rng: random.Random, n: int) -> list[str]:
    return [f"{n}\\sqrt{{2}}", f"\\sqrt{{{2 * n * n}}}", f"\\frac{{{2 * n}}}{{\\sqrt{{2}}}}",
            f"\\frac{{{n}}}{{\\sqrt{{2}}-1}}-{n}"]  # fmt: skip


def spell_pi(rng: random.Random, n: int) -> list[str]:
    return [f"{n}\\pi", f"\\pi \\cdot {n}", f"\\frac{{{2 * n}\\pi}}{{2}}"]


def spell_pair(rng: random.Random, n: int) -> list[str]:
    return [f"({n}, {n + 1})", f"\\left({n},{n + 1}\\right)", f"({n},\\frac{{{2 * n + 2}}}{{2}})"]


def spell_polynomial(rng: random.Random, n: int) -> list[str]:
    return [f"x^2+{n}x", f"x(x+{n})", f"{n}x + x^2", f"x^2\\left(1+\\frac{{{n}}}{{x}}\\right)"]


def spell_word(rng: random.Random, n: int) -> list[str]:
    names = ["Monday", "Tuesday", "Wednesday", "Thursday"]
    return [names[n % 4], f"\\text{{{names[n % 4]}}}"]


def table(result: dict[str, Any]) -> str:
    lines = ["grader        precision   recall   false +   false -"]
    for row in result["pairs"]:
        lines.append(
            f"{row['grader']:<12}{row['precision']:>11.4f}{row['recall']:>9.4f}"
            f"{row['falsePositives']:>10}{row['falseNegatives']:>10}"
        )
    first = result["pairs"][0]
    lines.append(f"({first['pairs']} labelled pairs, {first['equal']} of them equal)")
    hostile, speed = result["hostile"], result["throughput"]
    lines.append(
        f"hostile: {hostile['strings']} strings, each against two answers: slowest "
        f"{hostile['worstSeconds']:.2f} s, peak memory of this process {hostile['peakMiB']:.0f} MiB"
    )
    lines.append(
        f"{speed['questions']} questions x {speed['votes']} votes: {speed['seconds']:.1f} s; "
        f"math-verify pair by pair {speed['peerExtrapolatedSeconds']:.0f} s "
        f"({speed['peerMeasuredSeconds']:.1f} s for {speed['peerQuestions']} questions, "
        f"extrapolated): {speed['speedup']:.0f} times"
    )
    lines.append(f"pairs that ran out of time: {result['timeouts']}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
