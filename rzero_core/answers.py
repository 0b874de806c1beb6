"""Finds the answer in a Solver's text, decides when two answers are equal, and takes the vote.

The only judge of equality in a run: votes, Solver rewards, evaluation and label accuracy all ask
here. Keys settle plain answers in microseconds (`canonical`), sample values refute most of the rest
(`samples`), and what remains goes to math-verify in processes that are killed on time-out
(`grader`). No model output can hang, crash or bloat a stage.
"""

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from itertools import combinations
from typing import ParamSpec, TypeVar

from rzero_core.equality import samples
from rzero_core.equality.brackets import nesting
from rzero_core.equality.canonical import MAX_LENGTH, MAX_NESTING, canonical
from rzero_core.equality.grader import SHARED
from rzero_core.equality.keys import Key

__all__ = [
    "EQUIVALENCE_VERSION",
    "Vote",
    "canonical",
    "equivalent",
    "extract",
    "grade_all",
    "grading_seconds",
    "grading_timeouts",
    "vote",
    "vote_all",
]

EQUIVALENCE_VERSION = 1
"""Part of every number that depends on equality; other versions are not comparable."""
MAX_CACHED = 1 << 18


@dataclass(frozen=True)
class Vote:
    """The outcome of one question's votes."""

    label: str | None
    """The majority answer in its most frequent spelling; None for a tie or when all abstain."""
    agreement: float
    """Votes for the largest class divided by all votes, abstentions included."""
    counts: dict[str, int]
    """Votes of each class by its representative, largest first."""
    abstained: int
    ambiguous: bool = False
    """Some class holds two answers that are not equal to each other, only both to a third."""


_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def extract(text: str) -> str | None:
    """The content of the last non-empty \\boxed{} of a text; None when there is none: the Solver
    abstains.

    Linear in the length of the text, whatever its braces. An answer of more than 256 characters or
    nested deeper than 8 brackets is none.
    """
    starts = [match.end() for match in _BOX.finditer(text)]
    if not starts:
        return None
    opened: list[int] = []
    boxes = set(starts)
    best: tuple[int, str] | None = None
    for match in _BRACE.finditer(text, starts[0] - 1):
        if match.group() == "{":
            opened.append(match.end())
        elif match.group() == "}" and opened:
            start = opened.pop()
            if start in boxes and (best is None or start > best[0]):
                content = text[start : min(match.start(), start + MAX_LENGTH + 3)].strip()
                if content:
                    best = (start, content)
    if best is None or len(best[1]) > MAX_LENGTH or nesting(best[1]) > MAX_NESTING:
        return None
    return best[1]


def equivalent(a: str, b: str) -> bool:
    """Whether two answers are equal. Symmetric; False when undecided within 1.5 s of CPU time."""
    return grade_all([(a, b)])[0]


_P = ParamSpec("_P")
_R = TypeVar("_R")
_spent = [0.0]


def _clocked(grade: Callable[_P, _R]) -> Callable[_P, _R]:
    """Add the time of every call to `grading_seconds`."""

    @wraps(grade)
    def timed(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        clock = time.monotonic()
        try:
            return grade(*args, **kwargs)
        finally:
            _spent[0] += time.monotonic() - clock

    return timed


@_clocked
def grade_all(pairs: Sequence[tuple[str | None, str | None]]) -> list[bool]:
    """Whether each pair is equal, sharing one pass through the grader; an abstention (None) equals
    nothing.
    """
    keyed = [
        (None if a is None else canonical(a), None if b is None else canonical(b)) for a, b in pairs
    ]
    settled = _settle({(a, b) for a, b in keyed if a is not None and b is not None})
    return [a is not None and b is not None and settled[a, b] for a, b in keyed]


def vote(answers: Sequence[str | None]) -> Vote:
    """The vote over one question's answers (None: abstention). Independent of their order."""
    return vote_all([answers])[0]


@_clocked
def vote_all(questions: Sequence[Sequence[str | None]]) -> list[Vote]:
    """The votes of many questions, sharing one pass through the grader: the way to label a pool."""
    keyed: list[dict[Key, Counter[str]]] = []
    for answers in questions:
        spellings: dict[Key, Counter[str]] = {}
        # Sorted, because equal keys differ in the text that the grader would see.
        for answer in sorted(answer for answer in answers if answer is not None):
            if answer.strip():
                spellings.setdefault(canonical(answer), Counter())[answer.strip()] += 1
        keyed.append(spellings)
    settled = _settle({pair for spellings in keyed for pair in combinations(spellings, 2)})
    return [
        _count(len(answers), spellings, settled)
        for answers, spellings in zip(questions, keyed, strict=True)
    ]


def grading_seconds() -> float:
    """Time that this process has spent in `vote_all` and `grade_all`: a metric of every stage that
    grades.
    """
    return _spent[0]


def grading_timeouts() -> int:
    """Pairs of this process that ran out of time and were counted as not equal: a metric of every
    stage that grades.
    """
    return SHARED.timeouts


def _count(
    total: int, spellings: dict[Key, Counter[str]], settled: dict[tuple[Key, Key], bool]
) -> Vote:
    """Joins equal keys to classes (connected components) and counts them."""
    classes = {key: {key} for key in spellings}
    for a, b in combinations(spellings, 2):
        if settled[a, b] and classes[a] is not classes[b]:
            classes[a] |= classes[b]
            for key in classes[b]:
                classes[key] = classes[a]
    components = list({id(members): members for members in classes.values()}.values())
    sizes: list[tuple[int, str]] = []
    for members in components:
        spelled: Counter[str] = sum((spellings[key] for key in members), Counter())
        representative = min(spelled, key=lambda s: (-spelled[s], len(s), s))
        sizes.append((spelled.total(), representative))
    sizes.sort(key=lambda item: (-item[0], item[1]))
    ambiguous = any(
        not settled[a, b] for a, b in combinations(spellings, 2) if classes[a] is classes[b]
    )
    won = bool(sizes) and (len(sizes) == 1 or sizes[0][0] > sizes[1][0])
    return Vote(
        label=sizes[0][1] if won else None,
        agreement=sizes[0][0] / total if sizes else 0.0,
        counts={representative: size for size, representative in sizes},
        abstained=total - sum(size for size, _ in sizes),
        ambiguous=ambiguous,
    )


# --- deciding pairs ------------------------------------------------------------------------------

_verdicts: dict[frozenset[Key], bool] = {}
_verdicts_lock = threading.Lock()
Ask = Callable[[Key, Key], bool]


def _settle(pairs: Iterable[tuple[Key, Key]]) -> dict[tuple[Key, Key], bool]:
    """Decides pairs of keys. Each round collects what only the grader can decide and asks it all at
    once; a pair is settled in the round that needs no new verdict.
    """
    settled: dict[tuple[Key, Key], bool] = {}
    known: dict[frozenset[Key], bool] = {}
    pending = list(pairs)
    while pending:
        asked: dict[frozenset[Key], tuple[str, str]] = {}
        unsettled: list[tuple[Key, Key]] = []
        for a, b in pending:
            missing: list[frozenset[Key]] = []
            settled[a, b] = _compare(a, b, partial(_look_up, known, asked, missing))
            if missing:
                unsettled.append((a, b))
        if asked:
            verdicts = SHARED.decide(list(asked.values()))
            known.update(zip(asked, verdicts, strict=True))
        pending = unsettled
    _remember(known)
    return settled


def _look_up(
    known: dict[frozenset[Key], bool],
    asked: dict[frozenset[Key], tuple[str, str]],
    missing: list[frozenset[Key]],
    a: Key,
    b: Key,
) -> bool:
    """The grader's verdict on two keys, or True for now with the pair noted as missing."""
    if not a.text or not b.text:  # too large for the grader
        return False
    pair = frozenset((a, b))
    verdict = known.get(pair, _verdicts.get(pair))
    if verdict is not None:
        return verdict
    first, second = sorted((a.text, b.text))
    asked[pair] = (first, second)
    missing.append(pair)
    return True


def _remember(verdicts: dict[frozenset[Key], bool]) -> None:
    with _verdicts_lock:
        _verdicts.update(verdicts)
        for stale in list(_verdicts)[: max(0, len(_verdicts) - MAX_CACHED)]:
            del _verdicts[stale]


_SYMBOLIC = frozenset({"number", "expr", "latex", "equation"})
_STRUCTURES = frozenset({"tuple", "row", "interval", "matrix", "set", "list", "union"})
_READ_BY_GRADER = _SYMBOLIC | {"relation", "set", "union", "interval", "tuple", "assign"}


def _compare(a: Key, b: Key, ask: Ask) -> bool:
    """Whether two keys are equal; symmetric. Calls `ask` for pairs of expressions that nothing here
    can settle.
    """
    if a == b:
        return True
    kinds = {a.kind, b.kind}
    if "assign" in kinds:
        return _compare_assigned(a, b, ask)
    if "quantity" in kinds:
        return _compare_quantities(a, b, ask)
    if kinds == {"set", "list"}:
        return _match(list(a.parts), list(b.parts), ask)
    if a.kind == b.kind and a.kind in _STRUCTURES:
        return _compare_structures(a, b, ask)
    if kinds == {"number"}:
        return False
    if kinds <= {"number", "expr"}:
        x, y = _sample(a), _sample(b)
        return not (x and y and samples.differ(x, y)) and ask(a, b)
    if kinds == {"equation"}:
        x, y = _sample(a), _sample(b)
        return not (x and y and not samples.proportional(x, y)) and ask(a, b)
    if "equation" in kinds:
        return False
    if kinds & {"latex", "relation"} and kinds <= _READ_BY_GRADER:
        return ask(a, b)
    return False


def _sample(key: Key) -> tuple[complex, ...] | None:
    found = _samples.get(key)
    if found is None and key not in _samples:
        tree = ("num", key.value) if key.kind == "number" else key.tree
        found = None if tree is None else samples.sample(tree)
        if len(_samples) > MAX_CACHED:
            _samples.clear()
        _samples[key] = found
    return found


_samples: dict[Key, tuple[complex, ...] | None] = {}


def _compare_assigned(a: Key, b: Key, ask: Ask) -> bool:
    """x = 5 equals 5 and x = 5, not y = 5; y = 2x + 1 may equal an equation written otherwise."""
    if a.kind == b.kind == "assign":
        (name, value), (other_name, other_value) = a.parts, b.parts
        if name == other_name:
            return _compare(value, other_value, ask)
        rearranged = name in other_value.text and other_name in value.text  # y = 2x, x = y/2
        return {value.kind, other_value.kind} == {"expr"} and rearranged and ask(a, b)
    assigned, other = (a, b) if a.kind == "assign" else (b, a)
    if other.kind in ("equation", "relation"):
        return ask(a, b)
    return _compare(assigned.parts[1], other, ask)


def _compare_quantities(a: Key, b: Key, ask: Ask) -> bool:
    """5 cm equals 5 and 0.05 m, not 5 m."""
    if a.kind == b.kind:
        (x, unit, factor), (y, other_unit, other_factor) = a.parts, b.parts
        if unit != other_unit:
            return False
        if factor == other_factor:
            return _compare(x, y, ask)
        both = x.kind == y.kind == "number"
        return both and bool(x.parts * factor == y.parts * other_factor)
    quantity, other = (a, b) if a.kind == "quantity" else (b, a)
    return other.kind in _SYMBOLIC and _compare(quantity.parts[0], other, ask)


def _compare_structures(a: Key, b: Key, ask: Ask) -> bool:
    if a.kind in ("set", "list", "union"):
        return _match(list(a.parts), list(b.parts), ask)
    if a.kind == "interval":
        (left, low, high, right), (other_left, other_low, other_high, other_right) = (
            a.parts,
            b.parts,
        )
        return (left, right) == (other_left, other_right) and _all_equal(
            (low, high), (other_low, other_high), ask
        )
    if a.kind == "matrix":
        return len(a.parts) == len(b.parts) and all(
            _all_equal(row, other, ask) for row, other in zip(a.parts, b.parts, strict=True)
        )
    return _all_equal(a.parts, b.parts, ask)


def _all_equal(a: Sequence[Key], b: Sequence[Key], ask: Ask) -> bool:
    # Stops at the first proven difference, so that the grader is not asked about the rest.
    return len(a) == len(b) and all(_compare(x, y, ask) for x, y in zip(a, b, strict=True))


def _match(a: list[Key], b: list[Key], ask: Ask) -> bool:
    """Whether two collections hold equal elements equally often, in any order."""
    if len(a) != len(b):
        return False
    for element in (*a, *b):
        in_a = sum(_compare(element, other, ask) for other in a)
        in_b = sum(_compare(element, other, ask) for other in b)
        if in_a != in_b or not in_a:
            return False
    return True
