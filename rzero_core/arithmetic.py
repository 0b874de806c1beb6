"""Works out questions that are plain arithmetic, so that the report knows which labels are right.

What is arithmetic is decided here; the exact value comes from the expressions that answers are
compared by.
"""

import re
from fractions import Fraction

from rzero_core.equality.expressions import Unreadable, parse
from rzero_core.equality.normal_form import TooLarge, constant_of, normal_form

_MAX_CHARACTERS = 256

_REQUEST = re.compile(
    r"^\s*(?:what\s+is|what's|compute|calculate|evaluate|find)\s+(?:the\s+value\s+of\s+)?",
    re.IGNORECASE,
)
_ARITHMETIC = re.compile(r"(?:[-+*/(){}.\s0-9]|\\frac|\\times|\\cdot|\\div)+")
_OPERATOR = re.compile(r"[-+*/\\]")
# "1 2" and "1.2.3" are no numbers, and no products either.
_NO_NUMBER = re.compile(r"[0-9.]\s+[0-9.]|\.[0-9]*\.")
# "1 + 1/2 + ..." goes on, and 1/2\frac{3}{4} may mean two things.
_UNCERTAIN = re.compile(r"\.\.|(?:/|\\div)\s*[0-9.]+\s*\\frac")
_SYMBOLS = {
    "\u2212": "-",  # minus sign
    "\u00d7": "*",  # multiplication sign
    "\u22c5": "*",  # dot operator
    "\u00b7": "*",  # middle dot
    "\u00f7": "/",  # division sign
    "\\left(": "(",
    "\\right)": ")",
    "\\dfrac": "\\frac",
    "$": "",
}


def solve(question: str) -> Fraction | None:
    """The exact value of a question such as "12+345", "What is 3*(4+5)?" or "7/2 - 0.5 =".

    Numbers are written in ASCII digits, with + - * / and parentheses or the usual LaTeX and Unicode
    signs for them, and at least one operator. None for anything else: other words, powers, a
    division by zero, what may mean two things, more than 256 characters.
    """
    if len(question) > _MAX_CHARACTERS:
        return None
    for symbol, plain in _SYMBOLS.items():
        question = question.replace(symbol, plain)
    expression = _REQUEST.sub("", question, count=1).rstrip(" \n=?.")
    if not _ARITHMETIC.fullmatch(expression) or not _OPERATOR.search(expression):
        return None
    if _NO_NUMBER.search(expression) or _UNCERTAIN.search(question):
        return None
    try:
        return constant_of(normal_form(parse(expression)))
    except (Unreadable, TooLarge):
        return None
