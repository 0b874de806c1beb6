"""Reads an answer that has no parts: a number, a symbolic expression, words, or LaTeX that only the
grader may read.
"""

import re
from fractions import Fraction

from rzero_core.equality import expressions, normal_form
from rzero_core.equality.keys import Key

_MIXED = re.compile(r"(-?)([0-9]+) (?:([0-9]+)\s?/\s?([0-9]+))")
_BASED = re.compile(r"([0-9A-Fa-f]+)\s*_\s*\{?([0-9]{1,2})\}?")
_DEGREES = re.compile(r"([0-9.]+)\s*°")
"""The grader's parser would drop the sign and take radians."""
_WORDS = re.compile(r"[A-Za-z](?:[A-Za-z' ]|(?<=[a-z]{2})-(?=[a-z]{2}))*[A-Za-z.]")
_VARIABLE_RUN = re.compile(r"[abc]+|[xyz]+|[uvw]+|[pqrs]+|[kmn]+|[xyt]+")
_LETTER_RUN = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")


def single_value(plain: str) -> Key:
    """A number, a symbolic expression, or else LaTeX for the grader, words, or an opaque text."""
    if _is_words(plain):
        return Key("text", _words(plain), plain)
    mixed = _MIXED.fullmatch(plain)
    if mixed and 0 < int(mixed.group(3)) < int(mixed.group(4)):
        sign, whole, above, below = mixed.groups()
        value = int(whole) + Fraction(int(above), int(below))
        return Key("number", -value if sign else value, plain)
    based = _BASED.fullmatch(plain)
    if based and 2 <= (base := int(based.group(2))) <= 36:
        digits = based.group(1)
        if all(int(digit, 36) < base for digit in digits):
            return Key("number", Fraction(int(digits, base)), plain)
    try:
        tree = expressions.parse(plain)
        form = normal_form.normal_form(tree)
    except normal_form.TooLarge:
        return Key("opaque", plain)
    except expressions.Unreadable:
        return _unread(plain)
    constant = normal_form.constant_of(form)
    if constant is not None:
        return Key("number", constant, plain, tree)
    shown = _DEGREES.sub(r"{(\\frac{\1\\pi}{180})}", plain) if expressions.is_tame(tree) else ""
    return Key("expr", normal_form.frozen(form), shown, tree)


def _is_words(plain: str) -> bool:
    if _WORDS.fullmatch(plain):
        return not _VARIABLE_RUN.fullmatch(plain)
    runs = _LETTER_RUN.findall(re.sub(r"\\(?:begin|end)\{[^{}]*\}", "", plain))
    return any(not _VARIABLE_RUN.fullmatch(run) for run in runs)


def _words(plain: str) -> str:
    return " ".join(re.sub(r"[\"'\u201c\u201d\u2018.,!?]", "", plain.casefold()).split()) or plain


_MATHEMATICS = re.compile(r"\\[A-Za-z]|[\^_/+|=]|[0-9]\s*[-*]")
_EXPONENT = re.compile(r"\^\s*\{?\s*-?\s*\(?([^{}()]*)")


def _unread(plain: str) -> Key:
    if not _MATHEMATICS.search(plain) or not plain.isascii():
        return Key("text", _words(plain), plain)
    squeezed = re.sub(r"\{([A-Za-z0-9])\}", r"\1", plain.replace(" ", ""))
    return Key("latex" if _is_harmless(squeezed) else "opaque", squeezed, plain)


_TOO_MUCH = re.compile(
    r"[0-9]{5,}!|[)}!]!|\\binom\{?[0-9]{5}|__|`|\^\{[^{}]*\^\{?[A-Za-z]|(?:\\int.*){3}"
)


def _is_harmless(text: str) -> bool:
    """The size guard for what we could not read: no towers, no long exponents, no large factorials
    or binomials.
    """
    if _TOO_MUCH.search(text) or text.count("^") > 12:
        return False
    for match in _EXPONENT.finditer(text):
        exponent = match.group(1)
        following = text[match.end() : match.end() + 1]
        if re.search(r"[0-9]{5}|!", exponent) or (
            exponent.endswith("^") and exponent[:1].isdigit()
        ):
            return False
        if re.search(r"[0-9]\^", exponent) or following == "^":
            return False
    return True
