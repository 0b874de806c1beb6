"""Polynomials of one variable with rational coefficients: how many solutions an equation has."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

from rzero_core.equality.derivatives import variables
from rzero_core.equality.expressions import Tree, Unreadable
from rzero_core.equality.normal_form import normal_form

MAX_DEGREE = 8
MAX_BITS = 256
"""Of a coefficient: Sturm's remainders grow fast."""

Coefficients = list[Fraction]
"""(degree + 1,), the constant first, the last one not zero; empty for zero."""


def polynomial_of(tree: Tree, name: str | None = None) -> Coefficients | None:
    """The coefficients of a tree that is a polynomial of one variable (of `name`, if given).

    None for anything else, also where a division by a variable or a root of one cancels out, which
    changes where the expression exists; and for degrees and coefficients that are too large. Raises
    what `normal_form` raises.
    """
    if not _is_entire(tree):
        return None
    found: dict[int, Fraction] = {}
    for monomial, coefficient in normal_form(tree).items():
        degree = 0
        if monomial:
            ((atom, exponent), *others) = monomial
            if others or atom[0] != "var" or name not in (None, atom[1]):
                return None
            name = atom[1]
            if exponent.denominator != 1 or not 0 <= exponent <= MAX_DEGREE:
                return None
            degree = int(exponent)
        if max(coefficient.numerator.bit_length(), coefficient.denominator.bit_length()) > MAX_BITS:
            return None
        found[degree] = coefficient
    return [found.get(degree, Fraction(0)) for degree in range(max(found, default=-1) + 1)]


def real_roots(polynomial: Sequence[Fraction]) -> int:
    """Distinct real roots, by Sturm's theorem. Raises `Unreadable` for a constant."""
    chain = _sturm(polynomial)
    left = [_sign(p[-1]) * (-1) ** (len(p) - 1) for p in chain]
    right = [_sign(p[-1]) for p in chain]
    return _changes(left) - _changes(right)


def distinct_roots(polynomial: Sequence[Fraction]) -> int:
    """Distinct complex roots: the degree less that of the common divisor with the derivative."""
    return len(polynomial) - len(_sturm(polynomial)[-1])


def _is_entire(tree: Tree) -> bool:
    """Whether variables are only added, multiplied, and raised to whole powers."""
    match tree:
        case ("div", above, below):
            return _is_entire(above) and not variables(below)
        case ("pow", base, exponent):
            whole = exponent[0] == "num" and exponent[1].denominator == 1 and exponent[1] > 0
            return (_is_entire(base) and whole) or not variables(tree)
        case ("add" | "mul" | "neg", *parts):
            return all(_is_entire(part) for part in parts)
    return tree[0] == "var" or not variables(tree)


def _sturm(polynomial: Sequence[Fraction]) -> list[Coefficients]:
    if len(polynomial) < 2:
        raise Unreadable("a constant has no roots to count")
    slope = [degree * c for degree, c in enumerate(polynomial)][1:]
    chain = [list(polynomial), slope]
    while rest := _remainder(chain[-2], chain[-1]):
        chain.append([-c for c in rest])
    return chain


def _remainder(dividend: Coefficients, divisor: Coefficients) -> Coefficients:
    rest = list(dividend)
    while len(rest) >= len(divisor):
        factor = rest[-1] / divisor[-1]
        shift = len(rest) - len(divisor)
        for place, coefficient in enumerate(divisor):
            rest[shift + place] -= factor * coefficient
        rest.pop()
        while rest and not rest[-1]:
            rest.pop()
    return rest


def _sign(value: Fraction) -> int:
    return (value > 0) - (value < 0)


def _changes(signs: Sequence[int]) -> int:
    return sum(a != b for a, b in pairwise(signs))
