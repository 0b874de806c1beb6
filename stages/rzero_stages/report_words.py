"""Numbers and model texts in the form in which the report shows them."""

import unicodedata
from dataclasses import dataclass
from statistics import fmean

from rzero_core.intervals import Interval
from rzero_core.run import Stage
from rzero_stages.report_data import Iteration, LabelAccuracy, Score

NOTHING = "\u2013"
PERCENT = "\u00a0%"
"""A percent sign that stays on the line of its number."""
STAGES = {
    Stage.TRAIN_CHALLENGER: "Train Challenger",
    Stage.GENERATE_QUESTIONS: "Generate questions",
    Stage.LABEL_QUESTIONS: "Label questions",
    Stage.BUILD_CURRICULUM: "Build curriculum",
    Stage.TRAIN_SOLVER: "Train Solver",
    Stage.EVALUATE: "Evaluate",
}
_JOINERS = "\u200c\u200d"  # Needed by several scripts, and they reorder nothing.


@dataclass(frozen=True)
class Row:
    """One iteration in the table."""

    name: str
    generated: str
    valid: str
    duplicates: str
    kept: str
    agreement: str
    accuracy: str
    accuracy_notes: list[str]
    uncertainty: str
    reward: str
    scores: dict[str, Score]
    seconds: str


def row(entry: Iteration) -> Row:
    """The figures of one iteration as text; a dash for what is not known."""
    counts = outcome_counts(entry)
    drawn = sum(counts.values())
    agreements = entry.agreements()
    accuracy, notes = _accuracy(entry.label_accuracy)
    return Row(
        name=str(entry.number) if entry.number else "base",
        generated=f"{drawn:,}" if counts else NOTHING,
        valid=f"{drawn - counts['malformed']:,} valid" if counts else "",
        duplicates=f"{counts['duplicate']:,}" if counts else NOTHING,
        kept=f"{counts['kept']:,}" if counts else NOTHING,
        agreement=percent(fmean(agreements)) if agreements else NOTHING,
        accuracy=accuracy,
        accuracy_notes=notes,
        uncertainty=_rise(entry.ends(Stage.TRAIN_CHALLENGER, "uncertainty")),
        reward=_rise(entry.ends(Stage.TRAIN_SOLVER, "reward")),
        scores=entry.scores,
        seconds=duration(sum(entry.seconds.values())) if entry.seconds else NOTHING,
    )


def outcome_counts(entry: Iteration) -> dict[str, int]:
    """Questions drawn in an iteration by what became of them; empty before that is decided."""
    built = entry.metrics.get(Stage.BUILD_CURRICULUM)
    if not built:
        return {}
    drawn = entry.metrics.get(Stage.GENERATE_QUESTIONS, {})
    return {
        "kept": int(built.get("kept", 0)),
        "easy": int(built.get("tooEasy", 0)),
        "hard": int(built.get("tooHard", 0)),
        "tie": int(built.get("ties", 0)),
        "silent": int(built.get("unlabelled", 0)),
        "duplicate": int(
            sum(built.get(name, 0) for name in ("duplicates", "nearDuplicates", "probeDuplicates"))
        ),
        "malformed": int(drawn.get("malformed", 0)),
    }


def percent(share: float) -> str:
    """0.6712 as 67.1 %."""
    return f"{100 * share:.1f}{PERCENT}"


def interval(share: Interval) -> str:
    """A 95 % interval in percent, without the sign."""
    return f"{100 * share.lower:.1f}\u2013{100 * share.upper:.1f}"


def signed(value: float) -> str:
    """+11.2 or -0.4, with a minus sign of the width of the plus."""
    return f"{value:+.1f}".replace("-", "\u2212")


def duration(seconds: float) -> str:
    """Seconds in the two largest units that matter."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.0f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def plain(text: str, limit: int = 700) -> str:
    """A text of a model, harmless to look at: cut, and with all that is invisible spelled out.

    Control characters, direction overrides and zero-width characters could hide or reorder what is
    around them; marks beyond two on one letter would run over other lines.
    """
    out = []
    marks = 0
    for character in text[:limit]:
        category = unicodedata.category(character)
        marks = marks + 1 if category in ("Mn", "Me") else 0
        if character in "\n\t" or character in _JOINERS:
            out.append(character)
        elif category in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
            out.append(f"⟨U+{ord(character):04X}⟩")
        elif marks <= 2:
            out.append(character)
    if len(text) > limit:
        out.append(f" … ({len(text):,} characters)")
    return "".join(out)


def _rise(ends: tuple[float, float] | None) -> str:
    return f"{ends[0]:.2f} → {ends[1]:.2f}" if ends else NOTHING


def _accuracy(found: LabelAccuracy | None) -> tuple[str, list[str]]:
    """The share, and below it its interval and, if not all labels were judged, how many were."""
    if found is None:
        return NOTHING, []
    partly = [] if found.judged == found.labels else [f"{found.judged:,} {found.basis}"]
    if found.share is None:
        return NOTHING, partly
    return percent(found.share.estimate), [interval(found.share), *partly]
