"""Differentiates the trees that answers are read into."""

from fractions import Fraction

from rzero_core.equality.expressions import Tree

ONE: Tree = ("num", Fraction(1))
TWO: Tree = ("num", Fraction(2))
ZERO: Tree = ("num", Fraction(0))


class NotDifferentiable(ValueError):
    """No rule for this function."""


def derivative(tree: Tree, name: str) -> Tree:
    """The derivative by the variable `name`; all other letters are constants.

    Raises `NotDifferentiable` for what has no rule here (absolute values, factorials, a bare log).
    """
    match tree:
        case _ if not _depends(tree, name):
            return ZERO
        case ("var", _):
            return ONE
        case ("neg", inner):
            return ("neg", derivative(inner, name))
        case ("add", a, b):
            return ("add", derivative(a, name), derivative(b, name))
        case ("mul", a, b):
            return ("add", ("mul", derivative(a, name), b), ("mul", a, derivative(b, name)))
        case ("div", a, b):
            above = ("mul", derivative(a, name), b), ("neg", ("mul", a, derivative(b, name)))
            return ("div", ("add", *above), ("pow", b, TWO))
        case ("pow", base, exponent):
            return _power(base, exponent, name)
        case ("fn", function, inner):
            return ("mul", _outer(function, inner), derivative(inner, name))
    raise NotDifferentiable(f"no rule for {tree[0]}")


def substitute(tree: Tree, name: str, value: Tree) -> Tree:
    """The tree with `value` in place of the variable `name`."""
    if tree == ("var", name):
        return value
    if tree[0] in ("num", "var", "const"):
        return tree
    return tuple(substitute(part, name, value) if _is_tree(part) else part for part in tree)


def variables(tree: Tree) -> frozenset[str]:
    """The names of the variables in a tree; constants such as e are none."""
    if tree[0] == "var":
        return frozenset([tree[1]])
    return frozenset().union(*(variables(part) for part in tree[1:] if _is_tree(part)))


def _power(base: Tree, exponent: Tree, name: str) -> Tree:
    slope = derivative(base, name)
    if not _depends(exponent, name):
        lower = ("pow", base, ("add", exponent, ("neg", ONE)))
        return ("mul", ("mul", exponent, lower), slope)
    steepness = ("mul", derivative(exponent, name), ("fn", "ln", base))
    if not _depends(base, name):
        return ("mul", ("pow", base, exponent), steepness)
    relative = ("mul", exponent, ("div", slope, base))
    return ("mul", ("pow", base, exponent), ("add", steepness, relative))


def _outer(function: str, x: Tree) -> Tree:
    """f'(x) for f(x)."""
    square = ("pow", x, TWO)
    match function:
        case "sin":
            return ("fn", "cos", x)
        case "cos":
            return ("neg", ("fn", "sin", x))
        case "tan":
            return ("div", ONE, ("pow", ("fn", "cos", x), TWO))
        case "exp":
            return ("fn", "exp", x)
        case "ln":
            return ("div", ONE, x)
        case "sinh":
            return ("fn", "cosh", x)
        case "cosh":
            return ("fn", "sinh", x)
        case "arctan":
            return ("div", ONE, ("add", ONE, square))
        case "arcsin":
            return ("div", ONE, ("pow", ("add", ONE, ("neg", square)), ("div", ONE, TWO)))
    raise NotDifferentiable(f"no rule for {function}")


def _depends(tree: Tree, name: str) -> bool:
    return name in variables(tree)


def _is_tree(part: object) -> bool:
    return isinstance(part, tuple)
