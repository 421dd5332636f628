"""What all interactive figures share: plain data for plotly.js, colours, axes.

Colours of text and grid are left out: the page sets them, for light and dark.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.report.numbers.analyse import Analysis, GroupRow
from toolkit.report.text import schedule_label

PALETTE = {
    "cosine": ("#0072b2", "circle"),
    "plan": ("#cc5a9b", "diamond"),
    "constant": ("#7f7f7f", "square"),
    "step": ("#8c6d31", "triangle-up"),
    "linear": ("#009e73", "cross"),
    "adaptive": ("#e69f00", "star"),
}
SPARE = [
    ("#56b4e9", "x"),
    ("#d55e00", "pentagon"),
    ("#6a51a3", "hexagon"),
    ("#b2182b", "hourglass"),
]
MOST_TICKS = 6

Figure = dict[str, Any]


@dataclass(frozen=True)
class Panel:
    """A figure with the words around it.

    Attributes:
        title: a few words above it.
        figure: data and layout for plotly.js.
        switchable: whether its x axis can show update, epoch or seconds.
    """

    title: str
    figure: Figure
    switchable: bool = False


@dataclass(frozen=True)
class Section:
    """Figures of one kind.

    Attributes:
        legend: whether it needs one of its own, as it does not belong to a pair.
    """

    title: str
    caption: str
    panels: list[Panel]
    legend: bool = False


def style_of(schedule: str, known: Sequence[str]) -> tuple[str, str]:
    """Colour and marker of a schedule, the same in every figure of a report."""
    if schedule in PALETTE:
        return PALETTE[schedule]
    others = [name for name in known if name not in PALETTE]
    return SPARE[others.index(schedule) % len(SPARE)]


def schedules(analysis: Analysis) -> list[str]:
    """The schedules of a report, in a fixed order: those of the palette first."""
    found = {row.group.schedule for row in analysis.groups}
    return [name for name in PALETTE if name in found] + sorted(found - PALETTE.keys())


def rates_of(rows: Iterable[GroupRow]) -> list[float]:
    """The base LRs of some groups, ascending."""
    return sorted({row.group.lr for row in rows})


def ordered(rows: Iterable[GroupRow], lr: float, known: Sequence[str]) -> list[GroupRow]:
    """The groups at one base LR, in the order of the legend."""
    at = [row for row in rows if row.group.lr == lr]
    return sorted(at, key=lambda row: (known.index(row.group.schedule), row.group.arm))


def shared(schedule: str, arm: int = 0) -> Figure:
    """What every trace of a schedule has, so that the legend can find it."""
    label = schedule_label(schedule, arm)
    return {"type": "scatter", "legendgroup": label, "name": label, "showlegend": False}


def layout(
    x: str,
    y: str,
    *,
    height: int = 280,
    log_y: Iterable[float | None] | None = None,
    horizontal: bool = False,
) -> Figure:
    """Axes and margins.

    Args:
        x, y: titles.
        height: in pixels.
        log_y: the values of a logarithmic y axis, for its ticks; None for a linear one.
        horizontal: for names on the y axis, from top to bottom.
    """
    y_axis: Figure = {"title": {"text": y}, "automargin": True, "zeroline": False}
    if log_y is not None:
        values = [value for value in log_y if value]
        y_axis |= {"type": "log"} | (ticks(min(values), max(values)) if values else {})
    if horizontal:
        y_axis |= {"autorange": "reversed", "type": "category"}
    return {
        "height": height,
        "margin": {"l": 56, "r": 12, "t": 8, "b": 44},
        "xaxis": {"title": {"text": x}, "zeroline": False, "nticks": MOST_TICKS},
        "yaxis": y_axis,
        "hovermode": "closest",
        "showlegend": False,
    }


def ticks(low: float, high: float) -> Figure:
    """Ticks of a logarithmic axis: powers of ten, with steps between them where there are few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    if last - first <= 2:
        steps = (1, 1.5, 2, 3, 5, 7) if high < 6 * low else (1, 2, 5)
        values = [m * 10.0**k for k in range(first, last + 1) for m in steps]
    else:
        stride = math.ceil((last - first) / MOST_TICKS)
        values = [10.0**k for k in range(first, last + 1, stride)]
    return {"tickvals": values, "ticktext": [f"{value:g}" for value in values]}


def rounded(values: Iterable[float | None]) -> list[float | None]:
    """Five significant digits: more cannot be seen."""
    return [None if value is None else float(f"{value:.5g}") for value in values]


def transparent(colour: str, share: float = 0.15) -> str:
    """A colour with so much of its opacity."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{share:g})"


def escape(text: str) -> str:
    """For plotly, which reads a little HTML in labels and templates."""
    plain = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return plain.replace("%{", "% {")
