"""Draws the plots of the report as SVG whose colours and fonts are those of the page around them.

matplotlib knows no CSS, so each colour of a plot is a stand-in that becomes a CSS variable in the
text of the SVG: the page's light and dark schemes then hold for its plots too.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from rzero_core.intervals import Interval

_NAMES = (
    *("muted", "faint", "grid", "surface", "band", "challenger", "solver", "agreement"),
    *("kept", "easy", "hard", "tie", "silent", "duplicate", "malformed"),
    *("generate", "label", "curriculum", "evaluate"),
)
COLOURS = {name: f"#fe{number:02x}dc" for number, name in enumerate(_NAMES, start=1)}
"""Stand-in of each colour; `--NAME` is its CSS variable."""
_WIDTH = 5.8
"""Inches at 72 a unit: 418 units, so that text is legible on a telephone and not huge on a desk."""
_STEPS = (1, 2, 5, 10)
"""Distances of round ticks, as matplotlib takes them."""


@dataclass(frozen=True)
class Line:
    """One series by step: (iteration, steps) pieces in their order."""

    colour: str
    pieces: Sequence[tuple[int, Sequence[float]]]


@dataclass(frozen=True)
class Bars:
    """One layer of stacked bars, a value for each iteration."""

    colour: str
    values: Sequence[float]


def by_step(name: str, description: str, lines: Sequence[Line]) -> Markup:
    """Series over training steps, the iterations one after the other and marked."""
    figure, axes = _figure(height=3.1)
    steps = sum(len(values) for _, values in lines[0].pieces)
    for line in lines:
        start = 0
        for _, values in line.pieces:
            x = np.arange(start + 1, start + len(values) + 1)
            style = "-" if len(values) > 1 else ""
            axes.plot(x, values, style, color=COLOURS[line.colour], linewidth=2, marker="o")
            axes.lines[-1].set_markersize(3.5 if steps < 80 or len(values) == 1 else 0)
            start += len(values)
    _mark_iterations(axes, lines[0].pieces)
    axes.set_xlabel("training step")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=_STEPS))
    axes.set_ylim(*_room([v for line in lines for _, values in line.pieces for v in values]))
    return _svg(figure, name, description)


def agreement_histogram(
    name: str,
    description: str,
    agreements: Sequence[float],
    votes: int,
    band: tuple[float, float],
    *,
    narrow: bool,
) -> Markup:
    """Questions by agreement; those in the band of the curriculum stand out."""
    figure, axes = _figure(height=2.6, width=4.2 if narrow else _WIDTH)
    bins = votes if votes <= 20 else 20
    places = np.clip(np.rint(np.asarray(agreements) * bins).astype(int), 0, bins)
    counts = np.bincount(places, minlength=bins + 1)
    x = np.arange(bins + 1) / bins
    inside = (x >= band[0] - 1e-9) & (x <= band[1] + 1e-9)
    if inside.any():
        edges = x[inside][0] - 0.5 / bins, x[inside][-1] + 0.5 / bins
        axes.axvspan(*edges, color=COLOURS["band"], linewidth=0)
    for mask, colour in ((inside, "kept"), (~inside, "faint")):
        axes.bar(x[mask], counts[mask], width=0.82 / bins, color=COLOURS[colour])
    axes.set_xlim(-0.6 / bins, 1 + 0.6 / bins)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol="\u00a0%"))
    axes.set_xlabel("agreement")
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True, steps=_STEPS))
    return _svg(figure, name, description)


def shares(
    name: str, description: str, series: Mapping[str, Mapping[int, Interval | float]]
) -> Markup:
    """Shares by iteration, with their intervals where there are any. `series`: by colour."""
    figure, axes = _figure(height=3.1)
    apart = 0.09
    everything: list[float] = []
    for number, (colour, points) in enumerate(series.items()):
        x = np.array(list(points)) + apart * (number - (len(series) - 1) / 2)
        y = [p.estimate if isinstance(p, Interval) else p for p in points.values()]
        axes.plot(x, y, color=COLOURS[colour], linewidth=2, marker="o", markersize=5)
        everything += y
        for at, point in zip(x, points.values(), strict=True):
            if isinstance(point, Interval):
                ends = [point.lower, point.upper]
                axes.plot([at, at], ends, color=COLOURS[colour], linewidth=1.5, marker="_")
                everything += ends
    _iteration_ticks(axes, sorted({i for points in series.values() for i in points}))
    axes.set_ylim(*_room(everything, ceiling=1.0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol="\u00a0%"))
    return _svg(figure, name, description)


def stacked(
    name: str, description: str, iterations: Sequence[int], layers: Sequence[Bars], unit: str
) -> Markup:
    """Horizontal stacked bars, one for each iteration, the first on top."""
    figure, axes = _figure(height=0.95 + 0.38 * max(len(iterations), 2))
    y = np.arange(len(iterations))
    left = np.zeros(len(iterations))
    for layer in layers:
        values = np.asarray(layer.values, dtype=float)
        axes.barh(y, values, left=left, height=0.62, color=COLOURS[layer.colour])
        for bar in axes.containers[-1]:
            bar.set(edgecolor=COLOURS["surface"], linewidth=1)
        left += values
    axes.set_yticks(y, [str(i) if i else "base" for i in iterations])
    axes.set_ylim(len(iterations) - 0.4, -0.6)
    axes.set_ylabel("iteration")
    axes.set_xlabel(unit)
    axes.grid(visible=True, axis="x", color=COLOURS["grid"], linewidth=0.8)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=unit == "questions", steps=_STEPS))
    return _svg(figure, name, description)


def _figure(height: float, width: float = _WIDTH) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    axes.grid(visible=True, axis="y", color=COLOURS["grid"], linewidth=0.8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(COLOURS["faint"])
    axes.tick_params(length=0, labelsize=12, labelcolor=COLOURS["muted"], pad=5)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(fontsize=12, color=COLOURS["muted"])
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    return figure, axes


def _mark_iterations(axes: Axes, pieces: Sequence[tuple[int, Sequence[float]]]) -> None:
    """A thin line where an iteration begins, and its number above, as far as there is room."""
    start = 0
    every = max(1, math.ceil(len(pieces) / 8))
    for place, (iteration, values) in enumerate(pieces):
        if start:
            axes.axvline(start + 0.5, color=COLOURS["faint"], linewidth=0.8, dashes=(3, 3))
        if place % every == 0:
            axes.annotate(
                f"iteration {iteration}" if len(pieces) <= 4 else str(iteration),
                (start + (1 + len(values)) / 2, 1.02),
                xycoords=("data", "axes fraction"),
                ha="center",
                fontsize=12,
                color=COLOURS["muted"],
            )
        start += len(values)
    axes.set_xlim(0.5, start + 0.5)


def _iteration_ticks(axes: Axes, iterations: Sequence[int]) -> None:
    every = max(1, math.ceil(len(iterations) / 10))
    shown = iterations[::every]
    axes.set_xticks(shown, [str(i) if i else "base" for i in shown])
    margin = 0.35 if len(iterations) > 1 else 1.0
    axes.set_xlim(iterations[0] - margin, iterations[-1] + margin)
    axes.set_xlabel("iteration")


def _room(values: Sequence[float], ceiling: float | None = None) -> tuple[float, float]:
    """Limits with some room around the values, at least 0.1 apart."""
    low, high = min(values), max(values)
    margin = max(0.12 * (high - low), (0.1 - (high - low)) / 2, 0.01)
    top = high + margin
    return (
        max(low - margin, 0.0) if low >= 0 else low - margin,
        min(top, ceiling + 0.01) if ceiling is not None else top,
    )


def _svg(figure: Figure, name: str, description: str) -> Markup:
    """The figure as an SVG element for the page: named for screen readers, sized by its place."""
    out = io.StringIO()
    # Element ids derive from the salt, so that those of two plots of a page differ.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    box = re.search(r'viewBox="[^"]+"', text)
    assert box is not None  # matplotlib always writes one
    opening = f'<svg role="img" aria-label={quoteattr(description)} {box[0]}>'
    text = opening + text[text.index(">") + 1 :]
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r" font-family: [^;]+;", "", text)
    for colour, stand_in in COLOURS.items():
        text = text.replace(stand_in, f"var(--{colour})")
    # Every part comes from matplotlib or is a number or a constant; the description is quoted.
    return Markup(text)
