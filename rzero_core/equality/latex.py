"""Cleans the LaTeX of an answer: one spelling for each construct, nothing of its look left."""

# The table holds the very characters that look like others.
# ruff: noqa: RUF001

import re
import unicodedata
from collections.abc import Callable

_UNICODE = {
    "−": "-",
    "–": "-",
    "×": r"\times ",
    "·": r"\cdot ",
    "⋅": r"\cdot ",
    "÷": r"\div ",
    "π": r"\pi ",
    "∞": r"\infty ",
    "≤": r"\le ",
    "≥": r"\ge ",
    "≠": r"\ne ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∅": r"\emptyset ",
    "∈": r"\in ",
    "±": r"\pm ",
    "°": "°",
    "√": r"\sqrt ",
    "θ": r"\theta ",
    "α": r"\alpha ",
    "β": r"\beta ",
    "’": "'",
    "′": "'",
    "⟨": r"\langle ",
    "⟩": r"\rangle ",
    "½": r"\frac{1}{2}",
    "⅓": r"\frac{1}{3}",
    "⅔": r"\frac{2}{3}",
    "¼": r"\frac{1}{4}",
    "¾": r"\frac{3}{4}",
}
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻ⁿ", "0123456789-n")
_SUPERSCRIPT_RUN = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻ⁿ]+")
_TEXT = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|mathrm|mathbf|mathit|mathsf|mbox|operatorname)\*?\s*\{([^{}]*)\}"
)
_WORD_COMMANDS = (
    "sqrt|arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|sec|csc|cot|log|ln|exp|pi|infty"
)
_SCIENTIFIC = re.compile(
    r"(?<![0-9A-Za-z.])([0-9]+(?:\.[0-9]+)?|\.[0-9]+)[eE]([+-]?[0-9]{1,4})(?![0-9A-Za-z])"
)
_RULES: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    (
        re.compile(
            r"\\(?:left|right|[bB]ig+[lrm]?|(?:display|text)style|(?:no)?limits)(?![A-Za-z])"
        ),
        "",
    ),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\[dt]binom(?![A-Za-z])"), r"\\binom"),
    (re.compile(r"\\boxed\s*\{(.*)\}"), r"\1"),
    (re.compile(r"\\\(|\\\)|\\\[|(?<!\\)\\\](?!\\)"), " "),
    (re.compile(r"\\\$|(?<![A-Za-z])US\$"), "¤"),
    (re.compile(r"\$"), ""),
    (re.compile(r"(?<=[0-9])(?:\{,\}|\\,|\\!|,\\!)(?=[0-9]{3}(?![0-9]))"), ""),
    (re.compile(r"(?<!\\)\\[,;:!> ]|~|\\q?quad(?![A-Za-z])"), " "),
    (re.compile(r"\\h?(?:space|phantom)\{[^{}]*\}"), " "),
    (re.compile(r"\\%"), "%"),
    (re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?![A-Za-z])|\\textdegree"), "°"),
    (re.compile(r"\\(?:vec)\s*\{([A-Za-z])\}"), r"\1"),
    (re.compile(r"\\[lr]?vert(?![A-Za-z])"), "|"),
    (re.compile(r"\\leq?(?:slant)?(?![A-Za-z])"), r"\\le "),
    (re.compile(r"\\geq?(?:slant)?(?![A-Za-z])"), r"\\ge "),
    (re.compile(r"\\lt(?![A-Za-z])"), "<"),
    (re.compile(r"\\gt(?![A-Za-z])"), ">"),
    (re.compile(r"<="), r"\\le "),
    (re.compile(r">="), r"\\ge "),
    (re.compile(r"\\neq(?![A-Za-z])"), r"\\ne "),
    (re.compile(r"\\varnothing(?![A-Za-z])"), r"\\emptyset"),
    (re.compile(r"\\(?:lbrace)(?![A-Za-z])"), r"\\{"),
    (re.compile(r"\\(?:rbrace)(?![A-Za-z])"), r"\\}"),
    (re.compile(rf"(?<![\\A-Za-z])({_WORD_COMMANDS})(?![A-Za-z])"), r"\\\1 "),
    (re.compile(r"\\(sqrt|ln|log|sin|cos|tan|exp)\s*\(([^()]*)\)"), r"\\\1{(\2)}"),
    (re.compile(r"\*\*"), "^"),
    (_SCIENTIFIC, r"\1\\cdot 10^{\2}"),
    (re.compile(r"\s+"), " "),
]


def clean(text: str) -> str:
    """The text with one spelling for each LaTeX construct; words from \\text{} stand between « and
    ».
    """
    if not text.isascii():
        text = _SUPERSCRIPT_RUN.sub(lambda m: "^{" + m.group().translate(_SUPERSCRIPTS) + "}", text)
        text = "".join(_UNICODE.get(character, character) for character in text)
        text = unicodedata.normalize("NFKC", text)
        text = re.sub(r"\\sqrt ([0-9]+)", r"\\sqrt{\1}", text)
    text = _TEXT.sub(_mark_text, text)
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text.strip()


def _mark_text(match: re.Match[str]) -> str:
    inner = match.group(1).strip()
    if inner in ("and", "or", ","):
        return f" {inner} "
    if (
        re.fullmatch(r"[-+]?[0-9., ]*[0-9]", inner)
        or inner in ("e", "i", "d")
        or inner in _FUNCTION_WORDS
    ):
        return f" {inner} "
    if inner[:1].isdigit():
        return f" {inner} "
    return f" «{inner}»" if inner else " "


_FUNCTION_WORDS = frozenset(_WORD_COMMANDS.split("|"))
