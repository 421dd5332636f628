"""The types of figure data: what is drawn, in no drawing library's words. Plain data.

A section of a report has panels, a panel has two axes and series. ``report/html/svg`` draws them on
the page, ``report/figures`` into files, and ``words`` says what they show.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.report.marks import Mark
from toolkit.report.numbers.analyse import GroupRow
from toolkit.report.text import schedule_label

CLOCKS = {"update": "update", "seconds": "wall-clock, s"}
"""What the x axis of a panel over the run can show -> its title."""
MOST_TICKS = 6


@dataclass(frozen=True)
class Series:
    """Points of one entrant, joined by a line, marked, or both.

    Attributes:
        name: the entrant, as in the legend; empty for what the legend has not.
        mark: its colour, marker and line style.
        x, y: the points, of one length. None interrupts a line; texts are categories.
        width: of the line, in pixels; 0 for none.
        size: of the markers, in pixels; 0 for none.
        filled: whether the markers are.
        steps: ``after`` for a line that keeps a value until the next point, ``before`` for one that
            has it since the point before; empty for a straight one.
        bounds: lowest and highest y of each point (x where the y are categories): bars where there
            are markers, else a band around the line.
        hover_text: what the reader is told at a point: one text for all points, or one each; empty
            for a series that the mouse does not touch.
        decides: whether its marks are decisions, each with a text of its own.
        clipped: whether its points are arrows at the end of an axis, for values beyond it.
    """

    name: str
    mark: Mark
    x: Sequence[Any]
    y: Sequence[Any]
    width: float = 0
    size: float = 0
    filled: bool = True
    steps: str = ""
    bounds: tuple[Sequence[float], Sequence[float]] | None = None
    hover_text: str | Sequence[str] = ""
    decides: bool = False
    clipped: bool = False


@dataclass(frozen=True)
class Axis:
    """An axis.

    Attributes:
        title: with the unit, where there is one.
        log: whether it is logarithmic.
        ticks: where its ticks are; the drawing library's choice if empty.
        limits: its ends, in units of the values; around all values if None.
        categories: whether it has names, from top to bottom.
    """

    title: str = ""
    log: bool = False
    ticks: Sequence[float] = ()
    limits: tuple[float, float] | None = None
    categories: bool = False


@dataclass(frozen=True)
class Panel:
    """Series between two axes.

    Attributes:
        title: a few words above it.
        ropes: for each category of a panel of differences, how far from 0 its ROPE goes.
    """

    title: str
    series: Sequence[Series]
    x: Axis
    y: Axis
    ropes: Sequence[float] = ()


@dataclass(frozen=True)
class Section:
    """Panels of one kind.

    Attributes:
        title: a heading.
        caption: what is seen.
        panels: none if there is nothing to show.
        legend: whether it needs one of its own, as it does not belong to a pair.
    """

    title: str
    caption: str
    panels: Sequence[Panel]
    legend: bool = False


Legend = Mapping[str, Mark]
"""Entrant -> mark, in the order of the legend."""


def rates_of(rows: Iterable[GroupRow]) -> list[float]:
    """The base LRs of some groups, ascending."""
    return sorted({row.group.lr for row in rows})


def ordered(rows: Iterable[GroupRow], lr: float, legend: Legend) -> list[GroupRow]:
    """The groups at one base LR, in the order of the legend."""
    places = list(legend)
    at = [row for row in rows if row.group.lr == lr]
    return sorted(at, key=lambda row: (places.index(row.group.schedule), row.group.arm))


def label_of(row: GroupRow) -> str:
    """What the legend calls a group."""
    return schedule_label(row.group.schedule, row.group.arm)


def log_ticks(low: float, high: float) -> list[float]:
    """Ticks of a logarithmic axis: powers of ten, with steps between them where there are few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    if last - first <= 2:
        steps = (1, 1.5, 2, 3, 5, 7) if high < 6 * low else (1, 2, 5)
        return [m * 10.0**k for k in range(first, last + 1) for m in steps]
    return [10.0**k for k in range(first, last + 1, math.ceil((last - first) / MOST_TICKS))]


def rounded(values: Iterable[float | None]) -> list[float | None]:
    """Five significant digits: more cannot be seen."""
    return [None if value is None else float(f"{value:.5g}") for value in values]
