"""A table as data: columns that say how a row gives its cell, and the rows.

Who shows a table needs only its ``head`` and ``cells``: the page, W&B, a terminal (``aligned``) and
markdown (``markdown_table``).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from toolkit.errors import one_line

PHONE, GAP = 42, 2
"""Characters that a phone has room for in a line, and those between two columns."""


class Column(NamedTuple):
    """A column.

    Attributes:
        title: its head, with the unit where there is one.
        cell: how a row gives the cell: a format of ``row``, or a function of it.
        tooltip: what the head means, for who points at it.
    """

    title: str
    cell: str | Callable[[Any], str]
    tooltip: str = ""


@dataclass(frozen=True)
class Table:
    """A table, or nothing if it has no rows.

    Attributes:
        title: a heading.
        caption: what the columns mean.
        columns: what is shown of each row.
        rows: whatever the columns take.
        words: how many columns at the left are words; the others are aligned as numbers.
    """

    title: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Any]
    words: int = 2

    @property
    def wide(self) -> bool:
        """Whether a phone is too narrow for it, so that the page shows a row as a card there."""
        columns = zip(self.head, *self.cells, strict=True)
        return sum(max(map(len, column)) + GAP for column in columns) > PHONE

    @property
    def head(self) -> list[str]:
        """The titles of the columns."""
        return [column.title for column in self.columns]

    @property
    def cells(self) -> list[list[str]]:
        """The text of all cells, row by row."""
        return [
            [c.format(row=row) if isinstance(c, str) else c(row) for _, c, _ in self.columns]
            for row in self.rows
        ]


def aligned(table: Table) -> str:
    """A table for a terminal."""
    rows = [[one_line(cell) for cell in row] for row in (table.head, *table.cells)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    lines = ("  ".join(map(str.ljust, row, widths)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def escaped(text: str, more: str = "") -> str:
    """A line of markdown that reads as the text: no mark, tag or link of markdown or HTML in it.

    Args:
        text: may be data, such as the name of a user's file.
        more: further characters to escape; within a word ``_`` is none.
    """
    return re.sub(rf"([\\`*<>|\[\]{more}])", r"\\\1", one_line(text))


def fenced(text: str) -> str:
    """A block of markdown that shows a text as it is, whatever marks are in it."""
    longest = max((len(marks) for marks in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"


def markdown_table(table: Table) -> str:
    """A table in markdown; what markdown or HTML would read in its cells is escaped."""
    head, *body = (
        "| " + " | ".join(escaped(cell, "_") for cell in row) + " |"
        for row in [table.head, *table.cells]
    )
    return "\n".join([head, "|" + " --- |" * len(table.columns), *body])
