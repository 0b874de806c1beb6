"""Turns the text of an answer into a key: answers with equal keys are equal, whatever way they are
written.

`canonical` cleans the LaTeX, recognizes what kind of answer it is (number, quantity, tuple, set,
interval, matrix, choice, text, expression) and reads its parts by the same rules; what has no parts
is read by `single_values`. Pure Python, microseconds for plain numbers.
"""

import math
import re
from fractions import Fraction
from functools import lru_cache

from rzero_core.equality.brackets import closes_at, nesting, split_outside
from rzero_core.equality.keys import Key
from rzero_core.equality.latex import clean
from rzero_core.equality.quantities import quantity
from rzero_core.equality.single_values import single_value

MAX_LENGTH = 256
"""Characters of an answer; a longer one is compared as it stands."""
MAX_NESTING = 8


@lru_cache(maxsize=1 << 16)
def canonical(answer: str) -> Key:
    """The key of an answer; never fails. What is too long, too deep or too large is a key of its
    own exact text.
    """
    stripped = answer.strip()
    if _INTEGER.fullmatch(stripped):  # the common case first
        return Key("number", Fraction(int(stripped)), stripped)
    if len(stripped) > MAX_LENGTH or nesting(stripped) > MAX_NESTING:
        return Key("opaque", stripped)
    text = clean(stripped)
    if len(text) > 2 * MAX_LENGTH:
        return Key("opaque", stripped)
    return _read(text)


_INTEGER = re.compile(r"-?[0-9]{1,30}")


_CHOICE = re.compile(r"(?:\(([A-Z])\)|\[([A-Z])\]|([A-Z])[).:]?)")
_THOUSANDS = re.compile(r"(?<![0-9.,])([0-9]{1,3}(?:,[0-9]{3})+)(?![0-9,])")
_ALIASES = {
    "no solution": r"\emptyset", "no solutions": r"\emptyset", "empty set": r"\emptyset",
    "the empty set": r"\emptyset", r"\{\}": r"\emptyset", r"\{ \}": r"\emptyset",
    "infinity": r"\infty", "does not exist": "dne", "positive infinity": r"\infty",
    "negative infinity": r"-\infty", "inf": r"\infty", r"+\infty": r"\infty",
}  # fmt: skip
_NUMBER_WORDS = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7,
    "eight": 8, "nine": 9, "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen":
    14, "fifteen": 15, "sixteen": 16, "seventeen": 17, "eighteen": 18, "nineteen": 19,
    "twenty": 20,
}  # fmt: skip


def _read(text: str) -> Key:
    text = _unwrap(text)
    plain = " ".join(text.replace("«", " ").replace("»", " ").split())
    lowered = plain.casefold().rstrip(".")
    if lowered in _NUMBER_WORDS:
        return Key("number", Fraction(_NUMBER_WORDS[lowered]), str(_NUMBER_WORDS[lowered]))
    alias = _ALIASES.get(lowered)
    if alias is not None:
        text = plain = alias
    if plain in (r"\emptyset", r"\infty", r"-\infty"):
        return Key("constant", plain, plain)
    choice = _CHOICE.fullmatch(plain)
    if choice:
        return Key("choice", next(filter(None, choice.groups())), plain)
    for reader in (_matrix, _union, _list, _relation, _bracketed, _ratio, _quantity, _plus_minus):
        key = reader(text)
        if key is not None:
            return key
    return single_value(plain)


def _unwrap(text: str) -> str:
    """Without final punctuation and without braces around the whole."""
    while True:
        before = text
        text = text.strip().rstrip(" ,;:")
        if text.endswith(".") and not text.endswith("..."):
            text = text[:-1].rstrip()
        if text.startswith("{") and text.endswith("}") and closes_at(text, 0) == len(text) - 1:
            text = text[1:-1]
        if text == before:
            return text


_MATRIX = re.compile(r"\\begin\{([pb]?|small)(matrix|array)\}(?:\{[^{}]*\})?(.*)\\end\{\1\2\}")


def _matrix(text: str) -> Key | None:
    bare = re.sub(
        r"^[(\[]\s*(\\begin.*\\end\{(?:array|matrix|smallmatrix)\})\s*[)\]]$", r"\1", text
    )
    match = _MATRIX.fullmatch(bare)
    if not match or r"\begin" in match.group(3):
        return None
    rows = [row for row in re.split(r"\\\\", match.group(3)) if row.strip()]
    return Key("matrix", tuple(tuple(_read(cell) for cell in row.split("&")) for row in rows), text)


_CUP = re.compile(r"\\cup(?![A-Za-z])")


def _union(text: str) -> Key | None:
    pieces = split_outside(text, _CUP)
    if len(pieces) < 2:
        return None
    name, _, first = pieces[0].rpartition(r"\in ")
    parts = frozenset(_read(piece) for piece in (first, *pieces[1:]))
    return (
        _assigned(name.strip(), Key("union", parts, text), text)
        if name
        else Key("union", parts, text)
    )


_SEPARATOR = re.compile(r"\s*[,;]\s*(?:(?:and|or) )?| and | or ")


def _list(text: str) -> Key | None:
    """Values side by side, `1, 2` or `x = 1 or x = 2`: in any order, as the solutions of an
    equation.
    """
    if "," not in text and ";" not in text and " and " not in text and " or " not in text:
        return None
    joined = (
        _THOUSANDS.sub(lambda m: m.group(1).replace(",", ""), text) if not _brackets(text) else text
    )
    if joined != text and len(split_outside(joined, _SEPARATOR)) == 1:
        return _read(joined)
    pieces = split_outside(joined, _SEPARATOR)
    if len(pieces) < 2 or not all(piece.strip() for piece in pieces):
        return None
    keys = [_read(piece) for piece in pieces]
    names = {key.parts[0] for key in keys if key.kind == "assign"}
    if len(names) == 1 and keys[0].kind == "assign" and keys[0].parts[1].kind != "list":
        values = [key.parts[1] if key.kind == "assign" else key for key in keys]
        if " or " in text and all(re.search(r"[<>]|\\[lg]e(?![A-Za-z])", key.text) for key in keys):
            return _assigned(names.pop(), Key("union", frozenset(values), text), text)
        return _assigned(names.pop(), Key("list", _ordered(values), text), text)
    return Key("list", _ordered(keys), text)


def _brackets(text: str) -> bool:
    return any(bracket in text for bracket in ("(", "[", r"\{", r"\langle"))


def _ordered(keys: list[Key]) -> tuple[Key, ...]:
    return tuple(sorted(keys, key=lambda key: (key.kind, key.text)))


_RELATION = re.compile(
    r"=|<|>|\\le(?![A-Za-z])|\\ge(?![A-Za-z])|\\in(?![A-Za-z])|\\ne(?![A-Za-z])|\\approx(?![A-Za-z])"
)
_NAME = re.compile(
    r"(?:[A-Za-z]|\\[A-Za-z]+)(?:_(?:[A-Za-z0-9]|\{[A-Za-z0-9, ]+\}))?'*(?:\([A-Za-z0-9, ]+\))?"
)  # fmt: skip


def _relation(text: str) -> Key | None:
    sides = [side.strip() for side in split_outside(text, _RELATION)]
    if len(sides) < 2:
        return None
    signs = _RELATION.findall(re.sub(r"[(\[{«][^()\[\]{}»]*[)\]}»]", "", text))
    if not all(sides) or len(signs) != len(sides) - 1:
        return Key("relation", text.replace(" ", ""), text)
    if set(signs) == {"="}:
        return _equation(sides, text)
    if signs == [r"\in"]:
        return _assigned(sides[0], _read(sides[1]), text)
    return _inequality(sides, signs, text) or Key("relation", text.replace(" ", ""), text)


def _equation(sides: list[str], text: str) -> Key:
    first, last = sides[0], sides[-1]
    if _is_name(first):
        return _assigned(first, _read(last), text)
    if len(sides) == 2 and _is_name(last):
        return _assigned(last, _read(first), text)
    left, right = _read(first), _read(last)
    if left.kind == "number" and left == right:  # 2 + 3 = 5
        return right
    if left.kind == "text":
        return _assigned(str(left.value), right, text)
    if left.kind == right.kind == "tuple" and all(part.kind == "expr" for part in left.parts):
        return _assigned(first.replace(" ", ""), right, text)  # (x, y) = (1, 2)
    trees = [side.tree for side in (left, right)]
    tree = ("add", trees[0], ("neg", trees[1])) if len(sides) == 2 and None not in trees else None
    return Key("equation", text.replace(" ", ""), text, tree)


def _is_name(text: str) -> bool:
    return bool(_NAME.fullmatch(text)) and text not in (r"\pi", r"\infty", r"\emptyset", "e", "i")


def _assigned(name: str, value: Key, text: str) -> Key:
    return Key("assign", (" ".join(name.replace("«", "").replace("»", "").split()), value), text)


def _inequality(sides: list[str], signs: list[str], text: str) -> Key | None:
    """A range of one variable as an interval: x > 3, 0 < x \\le 1."""
    if r"\ne" in signs or r"\approx" in signs or "=" in signs or r"\in" in signs:
        return None
    if any(sign in (">", r"\ge") for sign in signs):
        if not all(sign in (">", r"\ge") for sign in signs):
            return None
        sides = sides[::-1]
        signs = [{">": "<", r"\ge": r"\le"}[sign] for sign in signs[::-1]]
    low, high = Key("constant", r"-\infty", r"-\infty"), Key("constant", r"\infty", r"\infty")
    brackets = ["(", ")"]
    names = [side for side in sides if _is_name(side)]
    if len(names) != 1 or len(sides) > 3:
        return None
    place = sides.index(names[0])
    if place > 1 or (len(sides) == 3 and place != 1):
        return None
    if place == 1:
        low = _read(sides[0])
        brackets[0] = "[" if signs[0] == r"\le" else "("
    if place < len(sides) - 1:
        high = _read(sides[-1])
        brackets[1] = "]" if signs[-1] == r"\le" else ")"
    return _assigned(names[0], _interval(brackets[0], [low, high], brackets[1], text), text)


def _interval(opening: str, ends: list[Key], closing: str, text: str) -> Key:
    if opening == "(" and closing == ")":  # an open interval and a pair are written alike
        return Key("tuple", tuple(ends), text)
    return Key("interval", (opening, *ends, closing), text)


_SET_BUILDER = re.compile(r"\s*([A-Za-z])\s*(?:\\mid(?![A-Za-z])|\||:)\s*([^|:]*)")
_COMMA = re.compile(r"\s*[,;]\s*")


def _bracketed(text: str) -> Key | None:
    if text.startswith(r"\{") and text.endswith(r"\}"):
        inner, kind = text[2:-2], "set"
    elif text.startswith(r"\langle") and text.endswith(r"\rangle"):
        inner, kind = text[7:-7], "tuple"
    elif text[:1] in ("(", "[") and text[-1:] in (")", "]") and closes_at(text, 0) == len(text) - 1:
        inner, kind = text[1:-1], "tuple" if text[0] == "(" and text[-1] == ")" else "interval"
    else:
        return None
    pieces = split_outside(inner, _COMMA)
    if kind == "set":
        builder = _SET_BUILDER.fullmatch(inner)
        if builder and (condition := _read(builder.group(2))).kind == "assign":
            return condition.parts[1] if condition.parts[0] == builder.group(1) else None
        if re.search(r"\\mid|\||:|\\[lc]?dots|\\\}", inner) or not all(
            piece.strip() for piece in pieces
        ):
            return Key("latex", text.replace(" ", ""), text)
        return Key("set", frozenset(_read(piece) for piece in pieces), text)
    if len(pieces) < 2 or not all(piece.strip() for piece in pieces):
        return _read(inner) if kind == "tuple" and _whole(inner) else None
    keys = [_read(piece) for piece in pieces]
    if kind == "interval" and len(keys) == 2:
        return _interval(text[0], keys, text[-1], text)
    return Key("tuple" if kind == "tuple" else "row", tuple(keys), text)


def _whole(inner: str) -> bool:
    """Whether parentheses around this text may be dropped: (5), (x+1), (yes)."""
    return bool(inner.strip())


_RATIO = re.compile(r"([0-9]+)((?: ?: ?[0-9]+)+)")


def _ratio(text: str) -> Key | None:
    """3:4 in lowest terms; 3:45 is left as it stands, for it may be a time."""
    if not _RATIO.fullmatch(text):
        return None
    written = [part.strip() for part in text.split(":")]
    terms = [int(part) for part in written]
    divisor = 1 if len(written[-1]) == 2 and terms[0] < 24 else math.gcd(*terms) or 1
    return Key("ratio", tuple(term // divisor for term in terms), text)


def _quantity(text: str) -> Key | None:
    return quantity(text, _read)


_PLUS_MINUS = re.compile(r"\\pm(?![A-Za-z])")


def _plus_minus(text: str) -> Key | None:
    """Both values of a single \\pm, as a list of solutions."""
    if len(_PLUS_MINUS.findall(text)) != 1 or r"\mp" in text:
        return None
    keys = [_read(_PLUS_MINUS.sub(lambda _, sign=sign: sign, text)) for sign in "+-"]  # type: ignore[misc]
    return Key("list", _ordered(keys), text)
