"""Draws label accuracy in a terminal: a line an iteration, with its interval and the floor."""

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from rzero_core.status import IterationStatus, LabelAccuracyStatus, RunStatus
from rzero_operator.printable import printable

_WIDTH = 41
"""Characters from 0 to 100 %."""
_FLOOR, _ESTIMATE, _BETWEEN, _BESIDE = "┊", "●", "─", "·"


def chart(status: RunStatus, floor: float) -> Table | None:
    """A line an iteration whose label accuracy is known, above the scale; None without such.

    An upper bound has no dot: accuracy may be anywhere below it. What another auditor had found
    and the present one judged again has a second line.
    """
    known = [group for group in status.iterations if _is_known(group)]
    if not known:
        return None
    shown = Table(box=None, pad_edge=False, show_header=False)
    for group in known:
        found = group.label_accuracy
        assert found is not None
        if (again := found.earlier) is not None:
            earlier = LabelAccuracyStatus(
                estimate=again.estimate, lower=again.lower, upper=again.upper, method=found.method
            )
            name = f"iteration {group.iteration - 1} again"
            shown.add_row(name, bar(earlier, floor), numbers(earlier))
        shown.add_row(f"iteration {group.iteration}", bar(found, floor), numbers(found))
    shown.add_row("", _scale(floor), "")
    return shown


def verdicts(status: RunStatus) -> Iterator[Text]:
    """Some verdicts of the newest audit, as it chose them."""
    groups = [group.label_accuracy for group in status.iterations if group.label_accuracy]
    for sample in groups[-1].samples if groups else ():
        color, word = ("green", "right") if sample.right else ("red", "wrong")
        truth = f", auditor {sample.truth}" if sample.truth is not None else ""
        asked = f"{sample.question}  label {sample.label}{truth}"
        # As text, not as escaped markup, which would lose backslashes of LaTeX.
        yield Text.assemble((word, color), " · ", printable(asked))


def numbers(found: LabelAccuracyStatus) -> str:
    """The estimate with its 95 % interval, `<=` before an upper bound."""
    if found.estimate is None:
        return f"unknown ({found.method})"
    bound = "<= " if found.is_upper_bound else ""
    ends = ", ".join(f"{float(end):.3f}" for end in (found.lower, found.upper) if end is not None)
    return f"{bound}{float(found.estimate):.3f}" + (f" [{ends}]" if ends else "")


def bar(found: LabelAccuracyStatus, floor: float) -> str:
    """From 0 to 100 %: the interval, the estimate in it, and the floor."""
    estimate = float(found.estimate or 0)
    lower = 0.0 if found.is_upper_bound else float(found.lower or estimate)
    cells = [_BESIDE] * _WIDTH
    for place in range(_place(lower), _place(float(found.upper or estimate)) + 1):
        cells[place] = _BETWEEN
    cells[_place(floor)] = _FLOOR
    if not found.is_upper_bound:
        cells[_place(estimate)] = _ESTIMATE
    return "".join(cells)


def _scale(floor: float) -> str:
    text = f"0 %, floor {100 * floor:.0f} %"
    return text + "100 %".rjust(_WIDTH - len(text))


def _place(share: float) -> int:
    return round(min(1.0, max(0.0, share)) * (_WIDTH - 1))


def _is_known(group: IterationStatus) -> bool:
    return group.label_accuracy is not None and group.label_accuracy.estimate is not None
