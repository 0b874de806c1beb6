"""Label accuracy in the runs of `benchmarks.guardrails`: as it was reported, beside the truth."""

import ast
import operator
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from rich.table import Table

from benchmarks.guardrail_runs import Pair, artifact
from rzero_core.label_accuracy import AuditedStratum, allocate, audited
from rzero_core.records import LabeledQuestion, read_jsonl
from rzero_core.run import Stage
from rzero_core.status import IterationStatus

DRAWS = 500
ROUNDED = 1e-6
"""Reports are rounded to so much; a complete check has no other width."""


@dataclass(frozen=True)
class Accuracy:
    """Label accuracy of one curriculum: as reported, and as it is."""

    model: str
    seed: int
    iteration: int
    estimate: float
    lower: float
    upper: float
    truth: float
    """Of the questions whose answer can be computed."""
    uncomputed: int
    """Questions beside them; each may be right or wrong."""
    holds: bool
    """Whether the interval holds the truth."""
    sampled: float
    """Share of samples whose interval holds the truth."""
    verdict: str
    """Of the guarded run, where it came as far."""


def accuracies(pair: Pair, sample: int) -> list[Accuracy]:
    """Label accuracy of every curriculum of the unguarded run, beside the truth."""
    guarded = {group.iteration: group for group in pair.stop.iterations}
    return [
        _accuracy(pair, group, guarded.get(group.iteration), sample)
        for group in pair.warn.iterations
        if group.label_accuracy is not None
    ]


def _accuracy(
    pair: Pair, group: IterationStatus, guarded: IterationStatus | None, sample: int
) -> Accuracy:
    number = group.iteration
    stage = Stage.BUILD_CURRICULUM
    place = artifact(pair.folder / "warn", pair.warn, number, stage, "curriculum")
    rows = list(read_jsonl(place / "curriculum.jsonl", LabeledQuestion))
    values = [(row, worked_out(row.text)) for row in rows]
    known = [(row, value) for row, value in values if value is not None]
    right = [labelled(row.label) == value for row, value in known]
    truth = sum(right) / len(known)
    report = group.label_accuracy
    assert report is not None and report.estimate is not None
    lower, upper = float(report.lower or 0), float(report.upper or 1)
    verdict = guarded.guardrail if guarded else None
    strata: dict[float, list[bool]] = {}
    for (row, _), is_right in zip(known, right, strict=True):
        strata.setdefault(row.agreement, []).append(is_right)
    return Accuracy(
        pair.model,
        pair.seed,
        number,
        float(report.estimate),
        lower,
        upper,
        truth,
        len(rows) - len(known),
        lower - ROUNDED <= truth <= upper + ROUNDED,
        _coverage(list(strata.values()), truth, sample, pair.seed),
        f"{verdict.outcome}{', ' + verdict.action if verdict.action else ''}" if verdict else "",
    )


def worked_out(question: str) -> Fraction | None:
    """The value of a sum, found by Python's own parser: what the auditor computes is checked here
    by code that shares nothing with it. None for what is no arithmetic, as a number alone.
    """
    # Python refuses leading zeros.
    text = re.sub(r"(?<!\d)0+(?=\d)", "", question.strip().removesuffix("="))
    try:
        found = ast.parse(text, mode="eval").body
        return None if isinstance(found, ast.Constant) else _value(found)
    except (SyntaxError, ValueError, ZeroDivisionError):
        return None


OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def _value(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(int(value)):
            return Fraction(value)
        case ast.UnaryOp(ast.UAdd(), operand):
            return _value(operand)
        case ast.BinOp(left, op, right) if type(op) in OPERATORS:
            return OPERATORS[type(op)](_value(left), _value(right))
        case _:
            raise ValueError("this is no arithmetic")


def labelled(label: str) -> Fraction | None:
    """The number that a label is; None where it is none."""
    try:
        return Fraction(label.replace(" ", ""))
    except (ValueError, ZeroDivisionError):
        return None


def _coverage(strata: list[list[bool]], truth: float, sample: int, seed: int) -> float:
    """Share of stratified samples, judged without a mistake, whose interval holds the truth."""
    draw, held = random.Random(seed), 0
    counts = allocate([len(stratum) for stratum in strata], sample)
    for _ in range(DRAWS):
        judged = []
        for stratum, count in zip(strata, counts, strict=True):
            right = sum(draw.sample(stratum, count))
            judged.append(AuditedStratum(len(stratum), right, count - right))
        found = audited(judged).accuracy
        held += found.lower <= truth <= found.upper
    return held / DRAWS


def accuracy_table(found: list[Accuracy], sample: int) -> Table:
    """One row a curriculum of the unguarded runs."""
    out = Table(title="Pseudo-label accuracy of the unguarded runs' curricula, %")
    for column in ("model", "seed", "iteration", "reported [95 %]", "true", "not computable"):
        out.add_column(column, justify="right")
    out.add_column("holds")
    out.add_column(f"holds, samples of {sample}", justify="right")
    out.add_column("the guarded run's verdict")
    for row in found:
        reported = f"{100 * row.estimate:.1f} [{100 * row.lower:.1f}, {100 * row.upper:.1f}]"
        out.add_row(
            row.model,
            str(row.seed),
            str(row.iteration),
            reported,
            f"{100 * row.truth:.1f}",
            str(row.uncomputed),
            "yes" if row.holds else "NO",
            f"{100 * row.sampled:.1f} %",
            row.verdict,
        )
    return out
