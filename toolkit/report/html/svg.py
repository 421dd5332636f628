"""Figure data for the page: as SVG that scales, follows the page's colours and can be read aloud.

A curve, an interval and a mark belong to a group of their entrant, which the page's legend can hide
by ``data-schedule``. Marks with a text of their own are reached with the keyboard.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import count
from typing import Any

from matplotlib.ticker import MaxNLocator

from toolkit.report.figure_data.axes import clip
from toolkit.report.figure_data.panels import Axis, Panel, Series
from toolkit.report.figure_data.words import alternative
from toolkit.report.marks import MARKS

WIDTH, HEIGHT = 360, 236
"""Of a panel, in units of about a pixel; a panel of categories is as high as it has rows."""
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 8, 40
"""Room around the plotting area of a panel with two numeric axes."""
ROW, LABEL = 40, 13
"""Height of a category, and the baseline of its label in it."""
MARK_SCALE = 0.1
"""A marker's path is about 10 wide."""
MOST_TICKS = 5
LABEL_LENGTH = 52
"""Characters of a category's label."""


@dataclass(frozen=True)
class _Place:
    """From the values of an axis to places in the drawing, between two ends."""

    axis: Axis
    ends: tuple[float, float]

    @property
    def limits(self) -> tuple[float, float]:
        return self.axis.limits or (0.0, 1.0)

    def __call__(self, value: float) -> float:
        low, high = map(self._scaled, self.limits)
        if self.axis.log and value <= 0:
            return self.ends[0]
        share = (self._scaled(value) - low) / (high - low)
        return self.ends[0] + share * (self.ends[1] - self.ends[0])

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.axis.log else value

    def ticks(self) -> list[float]:
        low, high = self.limits
        steps = MaxNLocator(MOST_TICKS, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        return [t for t in self.axis.ticks or list(steps) if low <= t <= high]


def figure(panel: Panel, name: str) -> str:
    """A panel as an SVG element.

    Args:
        panel: what is drawn; its numeric axes have limits.
        name: a word that no other figure of the page has, the start of its ids.
    """
    labels = list(dict.fromkeys(y for one in panel.series for y in one.y if panel.y.categories))
    rows = {label: TOP + ROW * i for i, label in enumerate(labels)}
    bottom = TOP + ROW * len(rows) if rows else HEIGHT - BOTTOM
    x = _Place(panel.x, (14 if rows else LEFT, WIDTH - RIGHT))
    y = _Place(panel.y, (bottom, TOP))
    drawn = clip(panel)
    ids = count()
    parts = [
        *_frame(panel, x, y, bottom),
        *_ropes(panel, x, rows),
        *_labels(rows),
        *(_series(one, x, y, rows, f"{name}-{{}}", ids) for one in drawn.series),
    ]
    role = "group" if any(series.decides for series in panel.series) else "img"
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH} {bottom + BOTTOM}" role="{role}" '
        f'aria-label="{escape(alternative(panel))}">{"".join(parts)}</svg>'
    )


def symbols() -> str:
    """The markers, and the plotting area that no curve leaves: once for all figures of a page."""
    found = sorted((mark.symbol for mark in MARKS.values()), key=lambda symbol: symbol.name)
    paths = "".join(f'<path id="s-{symbol.name}" d="{symbol.path}"/>' for symbol in found)
    area = (
        f'<clipPath id="area"><rect x="{LEFT - 6}" y="{TOP - 6}" '
        f'width="{WIDTH - LEFT - RIGHT + 12}" height="{HEIGHT - TOP - BOTTOM + 12}"/></clipPath>'
    )
    return (
        '<svg width="0" height="0" class="symbols" aria-hidden="true">'
        f"<defs>{paths}{area}</defs></svg>"
    )


def _frame(panel: Panel, x: _Place, y: _Place, bottom: float) -> Iterator[str]:
    """Grid, tick labels and titles of the axes."""
    left, right = x.ends
    for tick in x.ticks():
        yield f'<path class="grid" d="M{x(tick):.1f},{TOP}V{bottom}"/>'
        yield _text(x(tick), bottom + 14, _number(tick), "middle")
    if not panel.y.categories:
        for tick in y.ticks():
            yield f'<path class="grid" d="M{left},{y(tick):.1f}H{right}"/>'
            yield _text(left - 5, y(tick) + 4, _number(tick), "end")
        middle = (TOP + bottom) / 2
        yield (
            f'<text class="title" text-anchor="middle" transform="translate(11,{middle:.0f})'
            f'rotate(-90)">{escape(panel.y.title)}</text>'
        )
    yield f'<path class="frame" d="M{left},{bottom}H{right}"/>'
    yield _text((left + right) / 2, bottom + 32, panel.x.title, "middle", "title")


def _ropes(panel: Panel, x: _Place, rows: Mapping[Any, float]) -> Iterator[str]:
    """The ROPE around 0 in the row of each comparison, and the line of no difference."""
    if not panel.ropes:
        return
    low, high = x.limits
    for row, rope in zip(rows.values(), panel.ropes, strict=True):
        a, b = x(max(low, -rope)), x(min(high, rope))
        if rope and b > a:
            yield (
                f'<rect class="rope" x="{a:.1f}" y="{row + 18}" width="{b - a:.1f}" height="18"/>'
            )
    if low < 0 < high:
        yield f'<path class="zero" d="M{x(0):.1f},{TOP}V{TOP + ROW * len(rows)}"/>'


def _labels(rows: Mapping[Any, float]) -> Iterator[str]:
    for label, top in rows.items():
        short = label if len(label) <= LABEL_LENGTH else f"\u2026{label[-LABEL_LENGTH:]}"
        yield _text(16, top + LABEL, short, "start", "row")


def _number(value: float) -> str:
    """A tick's label: short, as 1e-4 for 0.0001."""
    return f"{value:.0e}".replace("e-0", "e-") if 0 < abs(value) < 1e-3 else f"{value:.6g}"


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="{kind}" {place}>{escape(text)}</text>'


def _series(
    series: Series,
    x: _Place,
    y: _Place,
    rows: Mapping[Any, float],
    ids: str,
    numbers: Iterator[int],
) -> str:
    """Band, line, bars and marks of a series, in a group of its entrant."""
    points: list[tuple[float, float] | None] = [
        None if b is None or a is None else (x(a), rows[b] + 27 if rows else y(b))
        for a, b in zip(series.x, series.y, strict=True)
    ]
    parts = []
    if series.bounds and not series.size:
        parts.append(_band(series, x, y))
    if series.width:
        style = f'stroke-width="{series.width:g}"'
        if series.mark.dash:
            style += f' stroke-dasharray="{",".join(map(str, series.mark.dash))}"'
        tip = _tip(series.hover_text) if isinstance(series.hover_text, str) else ""
        parts.append(f'<path class="line" {style}{tip} d="{_path(points, series.steps)}"/>')
    if series.bounds and series.size:
        parts += _bars(series, x, y, rows, points)
    if series.size:
        parts += _marks(series, points, y, ids, numbers)
    clipped = "" if rows else ' class="in"'
    owner = f' data-schedule="{escape(series.name)}"' if series.name else ""
    return f'<g{clipped}{owner} color="{series.mark.colour}">{"".join(parts)}</g>'


def _marks(
    series: Series,
    points: Sequence[tuple[float, float] | None],
    y: _Place,
    ids: str,
    numbers: Iterator[int],
) -> Iterator[str]:
    """The marks; that of a decision within the axis is named by its text in the list of them."""
    kind = "" if series.filled else ' class="hollow"'
    texts, top, bottom = series.hover_text, min(y.ends), max(y.ends)
    for i, point in enumerate(points):
        if series.decides:
            told = f' tabindex="-1" role="img" aria-labelledby="{ids.format(next(numbers))}"'
        else:
            told = _tip(texts if isinstance(texts, str) else texts[i])
        if point is not None and (not series.decides or top - 1 <= point[1] <= bottom + 1):
            size = f"{series.size * MARK_SCALE:.2g}"
            place = f"translate({point[0]:.1f},{point[1]:.1f})scale({size})"
            yield f'<use href="#s-{series.mark.symbol.name}"{kind}{told} transform="{place}"/>'


def _bars(
    series: Series,
    x: _Place,
    y: _Place,
    rows: Mapping[Any, float],
    points: Sequence[tuple[float, float] | None],
) -> Iterator[str]:
    assert series.bounds is not None
    for low, high, point in zip(*series.bounds, points, strict=True):
        if point is not None and rows:
            a, b = x(low), x(high)
            ends = "".join(f"M{end:.1f},{point[1] - 4:.1f}v8" for end in (a, b))
            yield f'<path class="bar" d="M{a:.1f},{point[1]:.1f}H{b:.1f}{ends}"/>'
        elif point is not None:
            a, b = y(low), y(high)
            ends = "".join(f"M{point[0] - 3:.1f},{end:.1f}h6" for end in (a, b))
            yield f'<path class="bar" d="M{point[0]:.1f},{a:.1f}V{b:.1f}{ends}"/>'


def _band(series: Series, x: _Place, y: _Place) -> str:
    """The area between the bounds: along the highest, back along the lowest."""
    assert series.bounds is not None
    low, high = series.bounds
    there = [(x(a), y(b)) for a, b in zip(series.x, high, strict=True)]
    back = [(x(a), y(b)) for a, b in zip(series.x, low, strict=True)][::-1]
    turned = {"after": "before", "before": "after", "": ""}[series.steps]
    path = f"{_path(there, series.steps)}L{_path(back, turned)[1:]}Z"
    return f'<path class="band" d="{path}"/>'


def _path(points: Sequence[tuple[float, float] | None], steps: str) -> str:
    """A path through points, interrupted by None.

    Args:
        points: places in the drawing.
        steps: as of a series.
    """
    parts: list[str] = []
    last: tuple[int, int] | None = None
    for point in points:
        here = None if point is None else (round(10 * point[0]), round(10 * point[1]))
        if here is not None and last is None:
            parts.append(f"M{here[0] / 10:g},{here[1] / 10:g}")
        elif here is not None and last is not None:  # relative, in tenths: half the characters
            dx, dy = (f"{(a - b) / 10:g}" for a, b in zip(here, last, strict=True))
            step = {"": f"l{dx},{dy}", "after": f"h{dx}v{dy}", "before": f"v{dy}h{dx}"}
            parts.append(step[steps])
        last = here
    return "".join(parts)


def _tip(text: str) -> str:
    return f' data-tip="{escape(text)}"' if text else ""
