"""What a panel shows, for who cannot see it: a sentence, and tables of its numbers."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from toolkit.report.columns import Column, Table
from toolkit.report.figure_data.panels import Panel, Series

PLACES = 6
"""Rows of the table of a curve."""


def alternative(panel: Panel) -> str:
    """The text alternative of a panel: what is drawn over what, and what came out."""
    if panel.y.categories:
        told = [f"{label}: {text}" for label, text in _by_place(panel).values()]
        return f"{panel.title}. {panel.x.title}: {'; '.join(told)}."
    lines = [one for one in panel.series if one.width]
    last = [f"{one.name} {one.y[-1]:.4g}" for one in _first_of_each(lines) if one.y[-1] is not None]
    ends = f" At the right end: {'; '.join(last)}." if last else ""
    return f"{panel.title}. {panel.y.title} over {panel.x.title}.{ends}"


def numbers(panel: Panel) -> Table:
    """The numbers of a panel: intervals, or curves at some places."""
    if panel.y.categories:
        rows = [(*told, _singly(panel, place)) for place, told in _by_place(panel).items()]
        columns = [Column("row", "{row[0]}"), Column(panel.x.title, "{row[1]}")]
        columns += [Column("each seed", "{row[2]}")] if any(row[2] for row in rows) else []
        return Table(panel.title, panel.title, columns, rows, words=1)
    lines = _first_of_each(one for one in panel.series if one.width)
    columns = [Column(panel.x.title, "{row[0]:.4g}")]
    columns += [Column(one.name, f"{{row[{i}]}}") for i, one in enumerate(lines, 1)]
    caption = f"{panel.title}: {panel.y.title}"
    return Table(panel.title, caption, columns, list(_at_places(lines)), words=0)


def decisions(panel: Panel) -> list[str]:
    """What the schedules decided, a text for each mark, in the order of the marks."""
    return [text for one in panel.series if one.decides for text in one.hover_text]


def _by_place(panel: Panel) -> dict[str, tuple[str, str]]:
    """Of every category that has an interval, what it is called, and the text."""
    return {
        str(one.y[0]): (one.name or str(one.y[0]), str(one.hover_text))
        for one in panel.series
        if one.bounds
    }


def _singly(panel: Panel, place: str) -> str:
    """The values of a category that have a mark each, in the order of the seeds."""
    points = [x for one in panel.series if not one.bounds and place in one.y for x in one.x]
    return ", ".join(f"{x:g}" for x in points)


def _first_of_each(lines: Any) -> list[Series]:
    """One line of each entrant: others of it are those of further seeds."""
    return list({one.name: one for one in reversed([*lines])}.values())[::-1]


def _at_places(lines: Sequence[Series]) -> Iterator[tuple[Any, ...]]:
    """At some x of the longest line, that and each line's y."""
    longest = max((one.x for one in lines), key=len, default=[])
    count = min(PLACES, len(longest))
    for i in range(count):
        x = longest[round(i * (len(longest) - 1) / max(1, count - 1))]
        yield (x, *(_at(one, x) for one in lines))


def _at(series: Series, x: float) -> str:
    """The y of a line at an x, as it is drawn; a dash before its beginning and after its end."""
    known = [point for point in zip(series.x, series.y, strict=True) if point[1] is not None]
    if not known or not known[0][0] <= x <= known[-1][0]:
        return "-"
    places, values = zip(*known, strict=True)
    if series.steps == "after":
        return f"{values[bisect_right(places, x) - 1]:.4g}"
    return f"{np.interp(x, places, values):.4g}"
