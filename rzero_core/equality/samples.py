"""Values of an expression at fixed points: expressions with different values are different.

Only refutes. Floating point never shows that two expressions are equal.
"""

import cmath
import math
import zlib
from collections.abc import Callable

from rzero_core.equality.expressions import Tree, Unreadable

SAMPLES = 3

FUNCTIONS: dict[str, Callable[[complex], complex]] = {
    "sin": cmath.sin, "cos": cmath.cos, "tan": cmath.tan, "ln": cmath.log, "exp": cmath.exp,
    "arcsin": cmath.asin, "arccos": cmath.acos, "arctan": cmath.atan,
    "sinh": cmath.sinh, "cosh": cmath.cosh, "tanh": cmath.tanh,
    "sec": lambda z: 1 / cmath.cos(z), "csc": lambda z: 1 / cmath.sin(z),
    "cot": lambda z: cmath.cos(z) / cmath.sin(z),
}  # fmt: skip


def sample(tree: Tree) -> tuple[complex, ...] | None:
    """Values at `SAMPLES` fixed points, every variable positive. None where floating point cannot
    tell.
    """
    try:
        values = tuple(_approximate(tree, point) for point in range(SAMPLES))
    except (ArithmeticError, ValueError, Unreadable):
        return None
    return values if all(cmath.isfinite(value) for value in values) else None


def differ(a: tuple[complex, ...], b: tuple[complex, ...]) -> bool:
    """Whether two samples prove two different expressions. Wide enough that rounding never does."""
    return any(abs(x - y) > 1e-6 * max(abs(x), abs(y), 1.0) for x, y in zip(a, b, strict=True))


def proportional(a: tuple[complex, ...], b: tuple[complex, ...]) -> bool:
    """Whether a = c b for one constant c at every point, as two sides of one equation have it."""
    return all(
        abs(x * b[0] - y * a[0]) <= 1e-6 * max(abs(x * b[0]), abs(y * a[0]), 1e-3)
        for x, y in zip(a, b, strict=True)
    )


def _approximate(tree: Tree, point: int) -> complex:
    match tree:
        case ("num", value):
            return complex(float(value))
        case ("var", name):
            return complex(0.6 + zlib.crc32(f"{name}/{point}".encode()) / 2**32 * 1.3)
        case ("const", name):
            return {"pi": complex(math.pi), "e": complex(math.e), "i": 1j}[name]
        case ("neg", a):
            return -_approximate(a, point)
        case ("fact", a):
            return _approximate_factorial(_approximate(a, point))
        case ("fn", name, *operands):
            return _approximate_function(name, [_approximate(o, point) for o in operands])
        case (operator, a, b):
            x, y = _approximate(a, point), _approximate(b, point)
            return OPERATORS[operator](x, y)
    raise AssertionError(f"no such tree: {tree[0]}")


def _approximate_power(x: complex, y: complex) -> complex:
    if x.imag == 0 and x.real < 0 and y.imag == 0 and y.real != round(y.real):
        raise Unreadable("a root of a negative number has several values")
    return complex(x**y)


OPERATORS: dict[str, Callable[[complex, complex], complex]] = {
    "add": lambda x, y: x + y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "pow": _approximate_power,
}


def _approximate_factorial(x: complex) -> complex:
    if x.imag:
        raise Unreadable("the factorial of a complex number")
    return complex(math.gamma(x.real + 1))


def _approximate_function(name: str, values: list[complex]) -> complex:
    if name in FUNCTIONS:
        return complex(FUNCTIONS[name](values[0]))
    if name == "abs":
        return complex(abs(values[0]))
    if name == "log" and len(values) == 2:
        return cmath.log(values[1]) / cmath.log(values[0])
    # A bare logarithm has no certain base; floor and binomial are not smooth at sample points.
    raise Unreadable(f"no value for {name}")
