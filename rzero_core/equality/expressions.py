"""Reads one mathematical expression from cleaned LaTeX into a tree, or refuses what is ambiguous.

`normal_form` and `samples` compare the trees.
"""

import re
from fractions import Fraction
from typing import Any

MAX_DEPTH = 40

Tree = tuple[Any, ...]
"""(operator, operands...): num, var, const, add, mul, div, pow, neg, fact, fn."""

FUNCTIONS = frozenset([
    "sin", "cos", "tan", "ln", "exp", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh",
    "sec", "csc", "cot",
])  # fmt: skip
INVERSES = {"sin": "arcsin", "cos": "arccos", "tan": "arctan"}
GREEK = frozenset([
    "alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "zeta", "eta", "theta",
    "vartheta", "kappa", "lambda", "mu", "nu", "xi", "rho", "sigma", "tau", "phi", "varphi",
    "chi", "psi", "omega", "Gamma", "Delta", "Theta", "Lambda", "Sigma", "Phi", "Psi", "Omega",
    "ell",
])  # fmt: skip
TIMES = frozenset({"*", r"\cdot", r"\times"})
DIVIDE = frozenset({"/", r"\div"})
CLOSING = frozenset({")", "]", "}", "|", r"\rfloor", r"\rceil"})
TOKEN = re.compile(
    r"\s*(?:([0-9]*\.[0-9]*\\overline\{[0-9]+\}|[0-9]+(?:\.[0-9]*)?|\.[0-9]+)|(\\[A-Za-z]+)|(\S))"
)


class Unreadable(ValueError):
    """This text is no expression that we read with one certain meaning."""


def parse(text: str) -> Tree:
    """The tree of a cleaned LaTeX expression.

    Raises `Unreadable` for what is unknown or ambiguous (`1/2x`), so that nobody guesses.
    """
    parser = _Parser(text)
    tree = parser.sum()
    if parser.peek():
        raise Unreadable(f"{parser.peek()!r} after a complete expression")
    return tree


def is_tame(tree: Tree, height: int = 0) -> bool:
    """Whether a computer algebra system may see this: no power tower of three exponents, no sum to
    a power above 100 that it might expand.
    """
    if tree[0] in ("num", "var", "const"):
        return True
    if tree[0] != "pow":
        return all(is_tame(part, height) for part in tree[1:] if isinstance(part, tuple))
    _, base, exponent = tree
    large = exponent[0] == "num" and exponent[1] > 100 and base[0] != "var"
    return height < 2 and not large and is_tame(base, height) and is_tame(exponent, height + 1)


class _Parser:
    """Recursive descent with implicit multiplication; the depth is bounded, so no text can exhaust
    the stack.
    """

    def __init__(self, text: str) -> None:
        self.tokens = [m.group(1) or m.group(2) or m.group(3) for m in TOKEN.finditer(text)]
        self.position = 0
        self.depth = 0
        self.in_bars = 0

    def peek(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        if not token:
            raise Unreadable("the expression ends too early")
        self.position += 1
        return token

    def expect(self, token: str) -> None:
        if self.take() != token:
            raise Unreadable(f"{token!r} is missing")

    def sum(self) -> Tree:
        tree = self.product()
        while self.peek() in ("+", "-"):
            sign = self.take()
            term = self.product()
            tree = ("add", tree, term if sign == "+" else ("neg", term))
        return tree

    def product(self) -> Tree:
        negative = False
        while self.peek() in ("+", "-"):
            negative ^= self.take() == "-"
        tree = self.power()
        divided = False
        while True:
            token = self.peek()
            if token in TIMES or token in DIVIDE:
                self.take()
                sign = self.peek() == "-" and bool(self.take())
                factor = self.power()
                factor = ("neg", factor) if sign else factor
                divided = token in DIVIDE
                tree = ("div" if divided else "mul", tree, factor)
            elif self.starts_factor():
                if divided:
                    raise Unreadable("a quotient followed by a factor may mean two things")
                tree = ("mul", tree, self.power())
            else:
                return ("neg", tree) if negative else tree

    def starts_factor(self) -> bool:
        token = self.peek()
        if not token or token in CLOSING - {"|"} or token in "+-^_!,;:=<>%&'\"°":
            return False
        return not (token == "|" and self.in_bars)

    def power(self) -> Tree:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("nested too deeply")
        tree = self.atom()
        while self.peek() in ("^", "!", "°"):
            sign = self.take()
            if sign == "!":
                tree = ("fact", tree)
            elif sign == "°":
                tree = ("div", ("mul", tree, ("const", "pi")), ("num", Fraction(180)))
            else:
                tree = ("pow", tree, self.exponent())
                if self.peek() == "^":
                    raise Unreadable("a double exponent without braces")
        self.depth -= 1
        return tree

    def exponent(self) -> Tree:
        sign = self.peek() == "-" and bool(self.take())
        tree = self.group() if self.peek() in ("{", "(") else self.atom()
        return ("neg", tree) if sign else tree

    def group(self) -> Tree:
        closing = {"{": "}", "(": ")", "[": "]", r"\lfloor": r"\rfloor", r"\lceil": r"\rceil"}
        opened = self.take()
        if opened not in closing:
            raise Unreadable(f"{opened!r} opens no group")
        bars, self.in_bars = self.in_bars, 0
        tree = self.sum()
        self.in_bars = bars
        self.expect(closing[opened])
        return tree

    def atom(self) -> Tree:
        token = self.peek()
        if token in ("(", "[", "{"):
            return self.group()
        if token in (r"\lfloor", r"\lceil"):
            return ("fn", "floor" if token == r"\lfloor" else "ceil", self.group())
        self.take()
        if token == "|":
            self.in_bars += 1
            inner = self.sum()
            self.in_bars -= 1
            self.expect("|")
            return ("fn", "abs", inner)
        if token[0] in "0123456789" or (token[0] == "." and len(token) > 1):
            return self.number(token)
        if token[0] == "\\":
            return self.command(token[1:])
        if token.isascii() and token.isalpha():
            return self.variable(token)
        raise Unreadable(f"unknown sign {token!r}")

    def number(self, token: str) -> Tree:
        value = _decimal(token)
        if self.peek() == r"\frac" and value.denominator == 1 and "." not in token:
            start = self.position
            self.take()
            tree = self.fraction()
            part = _plain_fraction(tree)
            if part is not None and 0 < part < 1:  # a mixed number: 1\frac{1}{2}
                return ("num", value + part)
            self.position = start
        return ("num", value)

    def command(self, name: str) -> Tree:
        if name == "frac":
            return self.fraction()
        if name == "sqrt":
            degree: Tree = ("num", Fraction(2))
            if self.peek() == "[":
                degree = self.group()
            return ("pow", self.argument(), ("div", ("num", Fraction(1)), degree))
        if name == "binom":
            return ("fn", "binom", self.argument(), self.argument())
        if name == "pi":
            return ("const", "pi")
        if name in FUNCTIONS or name == "log":
            return self.function(name)
        if name in GREEK:
            return self.variable(name)
        raise Unreadable(f"unknown command {name}")

    def fraction(self) -> Tree:
        return ("div", self.argument(), self.argument())

    def argument(self) -> Tree:
        """A braced group, or one sign as TeX takes it: the 1 and the 2 of \\frac12."""
        token = self.peek()
        if token == "{":
            return self.group()
        if token.isdigit() and len(token) > 1:
            if len(token) != 2 or self.tokens[self.position - 1] != r"\frac":
                raise Unreadable("an argument of several digits without braces")
            self.tokens[self.position : self.position + 1] = list(token)
        return self.atom()

    def function(self, name: str) -> Tree:
        base: Tree | None = None
        exponent: Tree | None = None
        while self.peek() in ("^", "_"):
            if self.take() == "^":
                exponent = self.exponent()
            elif name == "log":
                base = self.argument()
            else:
                raise Unreadable("a subscript on a function")
        if exponent == ("neg", ("num", Fraction(1))):
            if name not in INVERSES:
                raise Unreadable(f"the meaning of {name}^-1 is not certain")
            name, exponent = INVERSES[name], None
        inner = self.group() if self.peek() in ("(", "{", "[") else self.bare_argument()
        tree: Tree = ("fn", name, inner) if base is None else ("fn", "log", base, inner)
        return tree if exponent is None else ("pow", tree, exponent)

    def bare_argument(self) -> Tree:
        """The argument of a function without parentheses: \\sin 2x takes 2x, \\sin x\\cos x takes
        x.
        """
        tree = self.power()
        while self.starts_factor() and self.peek() not in TIMES | DIVIDE | {"("}:
            if self.peek()[1:] in FUNCTIONS or self.peek() == r"\log":
                break
            tree = ("mul", tree, self.power())
        return tree

    def variable(self, name: str) -> Tree:
        if self.peek() == "_":
            self.take()
            if self.peek() == "{":
                start = self.position
                while self.take() != "}":
                    continue
                name += "_" + "".join(self.tokens[start + 1 : self.position - 1])
            else:
                name += "_" + self.take()
        while self.peek() == "'":
            name += self.take()
        return ("const", name) if name in ("e", "i") else ("var", name)


def _decimal(token: str) -> Fraction:
    if "overline" not in token:
        return Fraction(token if token[-1] != "." else token[:-1])
    head, repeated = token[:-1].split(r"\overline{")
    whole, decimals = head.split(".")
    start = Fraction(int((whole or "0") + decimals), 10 ** len(decimals))
    return start + Fraction(int(repeated), (10 ** len(repeated) - 1) * 10 ** len(decimals))


def _plain_fraction(tree: Tree) -> Fraction | None:
    _, above, below = tree
    if above[0] != "num" or below[0] != "num" or below[1] == 0:
        return None
    return Fraction(above[1] / below[1])
