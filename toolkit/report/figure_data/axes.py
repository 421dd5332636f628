"""Axes that panels side by side have in common, and what lies too far out for them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from toolkit.report.figure_data.panels import Axis, Panel, Series, log_ticks
from toolkit.report.marks import DOWN, LEFT, RIGHT, UP, Symbol

FENCE = 3
"""A value is an outlier that lies so many interquartile ranges outside the middle half of all."""
PADDING = 0.05
"""Share of an axis that is left empty at each end."""
BEYOND = {"x": (LEFT, RIGHT), "y": (DOWN, UP)}
"""Arrows at the lower and the upper end of an axis."""
CLIPPED = "An arrow at the edge stands for a value too far out to be drawn; the table has it."


def shared(panels: Sequence[Panel]) -> list[Panel]:
    """Panels of which equal axes, those of one title, have equal limits.

    Around marks (not around curves) outliers do not stretch an axis: ``clip`` makes them arrows.
    """
    for side in ("x", "y"):
        for title in dict.fromkeys(getattr(panel, side).title for panel in panels):
            some = [panel for panel in panels if getattr(panel, side).title == title]
            axis = _common(some, side)
            new: dict[str, Any] = {side: axis}
            panels = [replace(p, **new) if getattr(p, side).title == title else p for p in panels]
    return list(panels)


def clip(panel: Panel) -> Panel:
    """A panel of marks as it is drawn: with arrows for what is beyond the limits of its axes."""
    series = list(panel.series)
    for side in ("x", "y"):
        limits = getattr(panel, side).limits
        if limits and all(one.size for one in series):
            series = [part for one in series for part in _clip(one, side, limits)]
    return replace(panel, series=series)


def arrows_said(caption: str, panels: Iterable[Panel]) -> str:
    """A caption that says what arrows are, if there is one in a panel."""
    drawn = (series for panel in panels for series in clip(panel).series)
    return f"{caption} {CLIPPED}" if any(series.clipped for series in drawn) else caption


def _common(panels: Sequence[Panel], side: str) -> Axis:
    """The axis of all panels."""
    axes: list[Axis] = [getattr(panel, side) for panel in panels]
    limits = [axis.limits for axis in axes if axis.limits]
    if axes[0].categories:
        return axes[0]
    if limits:
        low, high = min(low for low, _ in limits), max(high for _, high in limits)
    else:
        values = [v for panel in panels for one in panel.series for v in _values(one, side)]
        marked = all(series.size for panel in panels for series in panel.series)
        low, high = _limits(values, axes[0].log, marked)
    ticks = axes[0].ticks or (log_ticks(low, high) if axes[0].log else ())
    return replace(axes[0], limits=(low, high), ticks=ticks)


def _values(series: Series, side: str) -> list[float]:
    """The finite values of a series on a side, with its bounds."""
    bounds = series.bounds if side == _bounded(series) else None
    values = [*getattr(series, side), *(value for ends in bounds or () for value in ends)]
    return [v for v in values if isinstance(v, float | int) and math.isfinite(v)]


def _bounded(series: Series) -> str:
    """The side that the bounds of a series belong to."""
    return "x" if any(isinstance(value, str) for value in series.y) else "y"


def _limits(values: Sequence[float], log: bool, fenced: bool) -> tuple[float, float]:
    """Around all values, or those that are no outliers, with some room."""
    scaled = np.array([math.log10(v) for v in values if v > 0] if log else values, float)
    if not len(scaled):
        return (0.1, 1.0) if log else (0.0, 1.0)
    if fenced:
        first, third = np.quantile(scaled, (0.25, 0.75))
        reach = FENCE * (third - first)
        scaled = scaled[(scaled >= first - reach) & (scaled <= third + reach)]
    low, high = float(scaled.min()), float(scaled.max())
    room = PADDING * (high - low) or (0.1 if log else 0.05 * abs(high) or 1.0)
    ends = low - room, high + room
    return (10 ** ends[0], 10 ** ends[1]) if log else ends


def _clip(series: Series, side: str, limits: tuple[float, float]) -> list[Series]:
    """A series within limits, and arrows for all that is outside of them."""
    low, high = limits
    values = list(getattr(series, side))
    lows, highs = series.bounds if series.bounds and side == _bounded(series) else (values, values)
    below = [i for i, value in enumerate(lows) if value < low]
    above = [i for i, value in enumerate(highs) if value > high]
    arrows = [
        _arrows(series, side, places, end, arrow)
        for places, end, arrow in zip((below, above), limits, BEYOND[side], strict=True)
        if places
    ]
    within: dict[str, Any] = {side: [min(max(value, low), high) for value in values]}
    if lows is not values:
        within["bounds"] = tuple([min(max(v, low), high) for v in end] for end in (lows, highs))
    if lows is values and not series.width:
        return [*_kept(series, {*below, *above}), *arrows]
    for end, arrow, gone in zip(limits, BEYOND[side], (below, above), strict=True):
        if gone and not series.width and within[side] == [end]:  # the mark itself is out there
            within["mark"] = series.mark._replace(symbol=arrow)
    return [replace(series, **within), *arrows]


def _kept(series: Series, without: set[int]) -> list[Series]:
    """A series of marks without those at some places; none without any mark."""
    kept = [i for i in range(len(series.x)) if i not in without]
    texts = series.hover_text
    some: dict[str, Any] = {"x": [series.x[i] for i in kept], "y": [series.y[i] for i in kept]}
    some["hover_text"] = texts if isinstance(texts, str) else [texts[i] for i in kept]
    return [replace(series, **some)] if kept else []


def _arrows(series: Series, side: str, places: Iterable[int], end: float, arrow: Symbol) -> Series:
    """Arrows at one end of an axis, for the points at some places of a series."""
    chosen, other = sorted(places), "y" if side == "x" else "x"
    texts = series.hover_text
    style: dict[str, Any] = {"size": 9, "width": 0, "bounds": None, "clipped": True}
    style |= {side: [end] * len(chosen), other: [getattr(series, other)[i] for i in chosen]}
    style["hover_text"] = texts if isinstance(texts, str) else [texts[i] for i in chosen]
    return replace(series, mark=series.mark._replace(symbol=arrow), **style)
