"""What a panel shows, for who cannot see it: a sentence, and tables of its numbers."""

from collections.abc import Iterator, Sequence
from typing import Any

from toolkit.report.columns import Column, Table
from toolkit.report.figure_data.panels import Panel, Series

PLACES = 6
"""Rows of the table of a curve."""


def alternative(panel: Panel) -> str:
    """The text alternative of a panel: what is drawn over what, and what came out."""
    if panel.y.categories:
        told = [f"{label}: {text}" for label, text in _intervals(panel)]
        return f"{panel.title}. {panel.x.title}: {'; '.join(told)}."
    lines = [one for one in panel.series if one.width]
    last = [f"{one.name} {one.y[-1]:.4g}" for one in _first_of_each(lines) if one.y[-1] is not None]
    ends = f" At the right end: {'; '.join(last)}." if last else ""
    return f"{panel.title}. {panel.y.title} over {panel.x.title}.{ends}"


def numbers(panel: Panel) -> Table:
    """The numbers of a panel: intervals, or curves at some places."""
    if panel.y.categories:
        columns = [Column("row", "{row[0]}"), Column(panel.x.title, "{row[1]}")]
        return Table(panel.title, panel.title, columns, list(_intervals(panel)), words=1)
    lines = _first_of_each(one for one in panel.series if one.width)
    columns = [Column(panel.x.title, "{row[0]:.4g}")]
    columns += [Column(one.name, f"{{row[{i}]}}") for i, one in enumerate(lines, 1)]
    caption = f"{panel.title}: {panel.y.title}"
    return Table(panel.title, caption, columns, list(_at_places(lines)), words=0)


def decisions(panel: Panel) -> list[str]:
    """What the schedules decided, a text for each mark, in the order of the marks."""
    return [text for one in panel.series if one.decides for text in one.hover_text]


def _intervals(panel: Panel) -> Iterator[tuple[str, str]]:
    """The label and the text of every point that has an interval."""
    for series in panel.series:
        if series.bounds:
            yield str(series.y[0]), str(series.hover_text)


def _first_of_each(lines: Any) -> list[Series]:
    """One line of each entrant: others of it are those of further seeds."""
    return list({one.name: one for one in reversed([*lines])}.values())[::-1]


def _at_places(lines: Sequence[Series]) -> Iterator[tuple[Any, ...]]:
    """At some x of the longest line, that and each line's y; a dash after a line's end."""
    longest = max((one.x for one in lines), key=len, default=[])
    count = min(PLACES, len(longest))
    for i in range(count):
        x = longest[round(i * (len(longest) - 1) / max(1, count - 1))]
        yield (x, *(_at(one, x) for one in lines))


def _at(series: Series, x: float) -> str:
    known = [(px, y) for px, y in zip(series.x, series.y, strict=True) if y is not None]
    if not known or x > known[-1][0]:
        return "-"
    return f"{min(known, key=lambda point: abs(point[0] - x))[1]:.4g}"
