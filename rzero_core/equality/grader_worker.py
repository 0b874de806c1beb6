"""Decides symbolic pairs with math-verify, one at a time, in a process that may be killed at any
moment.

Started by `grader.Grader` as `python -m rzero_core.equality.grader_worker`. Reads one JSON pair a
line; writes a letter for each step it enters (`a`, `b`: reading a side; `c`: comparing), then `1`
equal, `0` not equal or undecided. A timer of the kernel ends the process when a pair used its
processor time: no C call, however long, can hold that back, no parent is needed for it, and a busy
machine decides as an idle one does.
"""

import cmath
import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import math_verify
import sympy  # type: ignore[import-untyped]

MEMORY_BYTES = 2 << 30
DIGITS = 40
POINTS = 3
WARM_UP = [(r"\int_0^1 x dx", r"\frac{1}{2}"), (r"x^2+y=\sqrt{4}", "y=2-x^2"), (r"\{1,2\}", "x<3")]
REFUSALS = (
    ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
"""What sympy raises for expressions that it cannot evaluate or compare."""


def main() -> None:
    seconds = float(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    logging.disable(logging.CRITICAL)
    for a, b in WARM_UP:  # fills tables of parser and simplifier before the clock runs
        decide(a, b, lambda step: None)
    answer("r")
    for line in sys.stdin:
        a, b = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            equal = decide(a, b, answer)
        except REFUSALS:
            equal = False  # undecided; any other error ends the process: the parent counts a loss
        signal.setitimer(signal.ITIMER_PROF, 0)
        answer("1" if equal else "0")


def answer(letter: str) -> None:
    os.write(1, letter.encode())


def decide(a: str, b: str, enter: Callable[[str], None]) -> bool:
    """True when a and b are shown equal: by math-verify in either direction, or by 40 digits at
    rational points.

    Where both are plain expressions the digits also have a veto, because math-verify compares
    numbers after rounding (1.414214 = sqrt 2).
    """
    enter("a")
    left = read(a)
    enter("b")
    right = read(b)
    enter("c")
    if not left or not right:
        return False
    same = same_values(left[0], right[0])
    if same is not None:
        return same
    return bool(
        math_verify.verify(left, right, timeout_seconds=None)
        or math_verify.verify(right, left, timeout_seconds=None)
    )


@lru_cache(maxsize=4096)
def read(text: str) -> list[Any]:
    return list(math_verify.parse("\\boxed{" + text + "}", parsing_timeout=None))


def same_values(a: Any, b: Any) -> bool | None:
    """Whether two expressions, or two equations up to a factor, agree to 40 digits; None when that
    cannot tell.
    """
    if isinstance(a, sympy.Eq) and isinstance(b, sympy.Eq):
        left, right = a.lhs - a.rhs, b.lhs - b.rhs
        points = points_of(left, right)
        xs, ys = values(left, points), values(right, points)
        if xs is None or ys is None or not any(xs) or not any(ys):
            return None
        constant = all(is_zero(x * ys[0] - y * xs[0]) for x, y in zip(xs, ys, strict=True))
        return True if constant else None
    if not isinstance(a, sympy.Expr) or not isinstance(b, sympy.Expr):
        return None
    difference = values(a - b, points_of(a, b))
    if difference is None:
        # Constants without a finite value: math-verify takes oo**oo for any large number.
        return None if a.free_symbols | b.free_symbols else False
    return all(is_zero(value) for value in difference)


def points_of(a: Any, b: Any) -> list[dict[Any, Any]]:
    symbols = sorted(a.free_symbols | b.free_symbols, key=str)
    return [
        {s: sympy.Rational(7 + 5 * i + 11 * point, 9 + 2 * i) for i, s in enumerate(symbols)}
        for point in range(POINTS if symbols else 1)
    ]


def values(expression: Any, points: list[dict[Any, Any]]) -> list[Any] | None:
    exact = {f: sympy.Rational(str(f)) for f in expression.atoms(sympy.Float)}
    letters = {"i": sympy.I, "e": sympy.E}
    named = {s: letters[s.name] for s in expression.free_symbols if s.name in letters}
    expression = expression.xreplace(exact).xreplace(named)
    found = [expression.xreplace(point).evalf(DIGITS, maxn=400) for point in points]
    finite = all(value.is_number and cmath.isfinite(complex(value)) for value in found)
    return found if finite else None


def is_zero(value: Any) -> bool:
    return bool(abs(value) < sympy.Float(10) ** (8 - DIGITS))


if __name__ == "__main__":
    main()
