"""Judges labels of questions whose answer can be checked exactly: what the auditor Programmatic
covers.

Arithmetic is worked out. Solutions of a polynomial equation are put into it and counted by Sturm's
theorem. A derivative is taken, and an antiderivative is differentiated. A question is read as a
whole or not at all: whatever else it says makes it one that this module does not cover. Model texts
meet only the project's own parser, never `eval`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from rzero_core import answers, arithmetic
from rzero_core.equality import samples
from rzero_core.equality.brackets import nesting
from rzero_core.equality.canonical import canonical
from rzero_core.equality.derivatives import (
    NotDifferentiable,
    derivative,
    substitute,
    variables,
)
from rzero_core.equality.expressions import Tree, Unreadable, parse
from rzero_core.equality.keys import Key
from rzero_core.equality.latex import clean
from rzero_core.equality.normal_form import TooLarge, constant_of, normal_form
from rzero_core.equality.polynomials import distinct_roots, polynomial_of, real_roots

MAX_CHARACTERS = 512
MAX_DEPTH = 6
"""Of brackets: the size of a normal form grows by a factor with each level."""
CONSTANTS = frozenset("CcKk")
"""Letters for the constant of integration."""


@dataclass(frozen=True)
class Judgement:
    """What can be said of a label for certain."""

    right: bool | None
    """None: the question is covered, and this label cannot be decided."""
    truth: str | None = None
    """The computed answer, where one was computed rather than checked."""


def judge_all(pairs: Sequence[tuple[str, str]]) -> list[Judgement | None]:
    """The judgement of each (question, label); None for a question that is not covered."""
    judged: list[Judgement | None] = []
    sums: list[tuple[int, str, str]] = []
    for place, (question, label) in enumerate(pairs):
        value = arithmetic.solve(question)
        if value is not None:
            sums.append((place, label, str(value)))
        judged.append(None if value is not None else _judge(question, label))
    # One pass through the grader for all labels that are no plain numbers.
    right = answers.grade_all([(label, truth) for _, label, truth in sums])
    for (place, _, truth), is_right in zip(sums, right, strict=True):
        judged[place] = Judgement(is_right, truth)
    return judged


_EXPRESSION = r"(?P<e>[^=?;:]+?)"
_EQUATION = r"(?P<left>[^=?;:]+)=(?P<right>[^=?;:]+?)"
_SOLVE = re.compile(
    r"(?:solve|find all (?P<real>real )?solutions (?:of|to))(?: for (?P<x>[a-z]))?,?:?"
    rf"(?: the (?:equation|following equation):?)? {_EQUATION}(?: for (?P<y>[a-z]))?",
    re.IGNORECASE,
)
_ASK = r"(?:what is |find |compute |calculate |determine )?"
_DERIVATIVE = re.compile(
    rf"(?:{_ASK}the derivative of |differentiate |{_ASK}\\frac\{{d\}}\{{dx\}} ?)"
    rf"(?:f ?\(x\) ?= ?)?{_EXPRESSION}(?P<by> with respect to x)?(?: at x ?= ?(?P<at>-?[0-9/]+))?",
    re.IGNORECASE,
)
_INTEGRAL = re.compile(
    rf"{_ASK}(?:evaluate |(?:the )?(?:indefinite )?integral:? )?\\int (?P<e>[^=?;:_]+?) ?d ?x"
    r"|"
    rf"{_ASK}(?:the |an )antiderivative of (?P<e2>[^=?;:]+?)",
    re.IGNORECASE,
)
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")


def _judge(question: str, label: str) -> Judgement | None:
    if len(question) > MAX_CHARACTERS or nesting(question) > MAX_DEPTH or ".." in question:
        return None
    text = " ".join(clean(question).split()).rstrip(" .?")
    try:
        if match := _SOLVE.fullmatch(text):
            name = match["x"] or match["y"]
            return _judge_solutions(match["left"], match["right"], name, bool(match["real"]), label)
        if match := _DERIVATIVE.fullmatch(text):
            function = _read(match["e"])
            if match["by"] is None and not variables(function) <= {"x"}:
                return None
            return _judge_derivative(function, match["at"], label)
        if match := _INTEGRAL.fullmatch(text):
            function = _read(match["e"] or match["e2"])
            if match["e"] is None and not variables(function) <= {"x"}:
                return None
            return _judge_antiderivative(function, label)
    except (Unreadable, TooLarge, NotDifferentiable, RecursionError):
        return None
    return None


def _read(text: str) -> Tree:
    """An expression without words. Raises `Unreadable`."""
    if _WORD.search(text):
        raise Unreadable("words")
    return parse(text)


def _judge_solutions(
    left: str, right: str, name: str | None, only_real: bool, label: str
) -> Judgement | None:
    """Whether the label names every solution, and nothing else."""
    tree: Tree = ("add", _read(left), ("neg", _read(right)))
    coefficients = polynomial_of(tree, name)
    if coefficients is None or len(coefficients) < 2:
        return None
    count = real_roots(coefficients)
    # Without the word, somebody may mean the complex solutions too.
    if not count or (not only_real and count != distinct_roots(coefficients)):
        return None
    (variable,) = variables(tree)
    given = _values(canonical(label), variable)
    if given is None:
        return Judgement(None)
    checks = [_is_root(coefficients, value) for value in given]
    if False in checks:
        return Judgement(False)
    if None in checks:
        return Judgement(None)
    distinct = len({normal_key(value) for value in given})
    return Judgement(distinct == len(given) == count)


def normal_key(value: Tree) -> str:
    """The same text for the same exact value."""
    return str(sorted(normal_form(value).items(), key=str))


def _values(key: Key, variable: str) -> list[Tree] | None:
    """The numbers that an answer lists for the variable; None for one that is no list of numbers.

    (2, 3) may be a list, a point or an interval.
    """
    if key.kind == "assign":
        named = key.parts[0].split("_")[0] == variable.split("_")[0]
        return _values(key.parts[1], variable) if named else None
    if key.kind in ("list", "set"):
        found = [_values(part, variable) for part in key.parts]
        return None if None in found else [value for part in found for value in part or ()]
    if key.kind == "number":
        return [("num", key.value)]
    return [key.tree] if key.kind == "expr" and key.tree is not None else None


def _is_root(coefficients: Sequence[Fraction], value: Tree) -> bool | None:
    """Whether the polynomial is zero there; None where exact arithmetic cannot tell."""
    constant, *others = coefficients
    result: Tree = ("num", Fraction(0))
    for coefficient in reversed(others):
        result = ("mul", ("add", result, ("num", coefficient)), value)
    return _are_equal(result, ("num", -constant))


def _are_equal(a: Tree, b: Tree) -> bool | None:
    """True and False are certain."""
    try:
        form = normal_form(("add", a, ("neg", b)))
    except (TooLarge, Unreadable):
        return None
    if not form:
        return True
    if constant_of(form) is not None:
        return False
    x, y = samples.sample(a), samples.sample(b)
    return False if x and y and samples.differ(x, y) else None


def _judge_derivative(function: Tree, at: str | None, label: str) -> Judgement | None:
    found = derivative(function, "x")
    if at is not None:
        there = samples.sample(substitute(function, "x", parse(at)))
        # ln x has no slope at -1, although 1/x has a value there.
        if there is None or any(value.imag for value in there):
            return None
        found = substitute(found, "x", parse(at))
    return _judge_equal(found, label, variables(function))


def _judge_antiderivative(function: Tree, label: str) -> Judgement | None:
    given = _expression_of(label)
    if given is None or not variables(given) <= variables(function) | {"x"} | CONSTANTS:
        return Judgement(None)
    # The constant of integration vanishes by itself.
    try:
        return Judgement(_are_equal(derivative(given, "x"), function))
    except NotDifferentiable:
        return Judgement(None)


def _judge_equal(truth: Tree, label: str, known: frozenset[str]) -> Judgement:
    """A label with other variables, such as the d of d/dx, may not be what it was read as."""
    given = _expression_of(label)
    if given is None or not variables(given) <= known:
        return Judgement(None)
    return Judgement(_are_equal(truth, given))


def _expression_of(label: str) -> Tree | None:
    key = canonical(label)
    if key.kind == "assign":
        key = key.parts[1]
    if key.kind == "number":
        return ("num", key.value)
    return key.tree if key.kind == "expr" else None
