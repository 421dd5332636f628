"""How each entrant of a comparison looks: colour, marker and line style, the same in every report.

One colour serves the light and the dark page: each has a contrast (WCAG 2.2, 1.4.11) of 3:1 or more
against both backgrounds. As colours within that band of lightness differ in hue alone, and not
everybody sees hues, every entrant has its own marker and line style as well.
"""

from collections.abc import Iterable
from itertools import cycle
from typing import NamedTuple


class Symbol(NamedTuple):
    """A marker, for files and for the page.

    Attributes:
        name: a word without spaces, for the page.
        matplotlib: matplotlib's marker: a letter, or (corners, 1 for a star, degrees).
        path: an SVG path around (0, 0), about 10 wide.
    """

    name: str
    matplotlib: str | tuple[int, int, int]
    path: str


class Mark(NamedTuple):
    """How an entrant is drawn.

    Attributes:
        colour: ``#rrggbb``.
        symbol: its marker.
        dash: its line style: pixels of stroke and gap in turn; empty for a solid line.
    """

    colour: str
    symbol: Symbol
    dash: tuple[int, ...]


CIRCLE = Symbol("circle", "o", "M-4.5,0a4.5,4.5 0 1,0 9,0a4.5,4.5 0 1,0-9,0Z")
CROSS = Symbol("cross", "P", "M-2-5H2V-2H5V2H2V5H-2V2H-5V-2H-2Z")
DIAMOND = Symbol("diamond", "D", "M0-5.5L5.5,0L0,5.5L-5.5,0Z")
HEXAGON = Symbol("hexagon", "h", "M0-5.5L4.8-2.7V2.7L0,5.5L-4.8,2.7V-2.7Z")
HEXAGRAM = Symbol(
    "hexagram", (6, 1, 0), "M0-6L1.7-3H5.2L3.5,0L5.2,3H1.7L0,6L-1.7,3H-5.2L-3.5,0L-5.2-3H-1.7Z"
)
OCTAGON = Symbol("octagon", "8", "M-2-5H2L5-2V2L2,5H-2L-5,2V-2Z")
PENTAGON = Symbol("pentagon", "p", "M0-5.5L5.2-1.7L3.2,4.4H-3.2L-5.2-1.7Z")
SQUARE = Symbol("square", "s", "M-4-4H4V4H-4Z")
STAR = Symbol("star", "*", "M0-6L1.4-1.9H5.7L2.2,.7L3.5,4.9L0,2.3L-3.5,4.9L-2.2,.7L-5.7-1.9H-1.4Z")
TALL = Symbol("diamond-tall", "d", "M0-6L3.2,0L0,6L-3.2,0Z")
DOWN = Symbol("triangle-down", "v", "M0,5L5-4H-5Z")
LEFT = Symbol("triangle-left", "<", "M-5,0L4-5V5Z")
RIGHT = Symbol("triangle-right", ">", "M5,0L-4-5V5Z")
UP = Symbol("triangle-up", "^", "M0-5L5,4H-5Z")
X = Symbol(
    "x", "X", "M-5-2.5L-2.5-5L0-2.5L2.5-5L5-2.5L2.5,0L5,2.5L2.5,5L0,2.5L-2.5,5L-5,2.5L-2.5,0Z"
)

MARKS = {
    "cosine": Mark("#0072b2", CIRCLE, (6, 3)),
    "plan": Mark("#c34b96", DIAMOND, (12, 3, 2, 3)),
    "constant": Mark("#787878", SQUARE, (2, 2)),
    "step": Mark("#4b7800", UP, (6, 3, 2, 3)),
    "linear": Mark("#009669", CROSS, (12, 4)),
    "adaptive": Mark("#c37800", STAR, ()),
    "adaptive (sees validation)": Mark("#8c6400", OCTAGON, (4, 2, 1, 2)),
    "greedy": Mark("#c33c2d", X, (3, 2)),
    "greedy (sees validation)": Mark("#5a87ff", LEFT, (3, 5)),
    "plateau": Mark("#785ac3", PENTAGON, (9, 3)),
    "plateau (sees validation)": Mark("#e100ff", RIGHT, (9, 6)),
    "wsd": Mark("#ff4b69", HEXAGON, (6, 3, 2, 3, 2, 3)),
    "open-ended": Mark("#0f5aff", TALL, (16, 3)),
    "one-cycle": Mark("#961eff", DOWN, (12, 3, 2, 3, 2, 3)),
    "greedy-paper": Mark("#ff00b4", HEXAGRAM, (2, 5)),
}
"""Entrant -> mark, in the order of the legend: what is named here looks alike in every report."""

DECISIONS = {"raise": UP, "cut": DOWN, "rollback": X, "restore": SQUARE}
"""Action -> symbol of a decision; ``CIRCLE`` for any other."""

VERDICTS = {
    "better": Mark("#208c3f", UP, ()),
    "worse": Mark("#c33c2d", DOWN, ()),
    "equivalent": Mark("#0072b2", SQUARE, ()),
}
UNDECIDED = Mark("#7f8a94", CIRCLE, ())
"""Marks of a comparison's interval."""


def legend(entrants: Iterable[str]) -> dict[str, Mark]:
    """Each entrant of a report with its mark, in the order of the legend.

    Those of ``MARKS`` come first, in its order; the others, by name, take the marks that are left.
    As long as there are no more entrants than marks, any two differ in colour, in marker and in
    line style; with more, colours are combined with other markers.
    """
    found = set(entrants)
    named = {name: mark for name, mark in MARKS.items() if name in found}
    marks = list(MARKS.values())
    free = [mark for name, mark in reversed(MARKS.items()) if name not in found]
    for shift in range(1, len(marks)):
        free += [
            Mark(mark.colour, marks[i - shift].symbol, mark.dash) for i, mark in enumerate(marks)
        ]
    return named | dict(zip(sorted(found - named.keys()), cycle(free), strict=False))
