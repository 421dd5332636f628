"""Marks: every entrant looks different, alike in every report, and is seen in light and dark."""

import re
from itertools import combinations, product
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.studies import write_run, write_study
from toolkit.config import schedule_name
from toolkit.records.events import entrant
from toolkit.report.figure_data import words
from toolkit.report.figure_data.axes import clip
from toolkit.report.figure_data.panels import Axis, Panel, Series
from toolkit.report.figure_data.sections import legend_of, of_pair, of_study
from toolkit.report.figures import draw
from toolkit.report.html import page
from toolkit.report.html.svg import figure
from toolkit.report.marks import CIRCLE, MARKS, UNDECIDED, VERDICTS, Mark, legend
from toolkit.report.numbers.analyse import analyse
from toolkit.report.numbers.load import load_study
from toolkit.report.replayed import COLOURS
from toolkit.schedules import SCHEDULES
from toolkit.studies import shipped

LEAST_CONTRAST = 3.0
"""WCAG 2.2, 1.4.11: of graphics that one must tell apart to understand a figure."""


def luminance(colour: str) -> float:
    """Relative luminance by WCAG 2.2, of ``#rrggbb``."""
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    """Contrast ratio by WCAG 2.2: 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def backgrounds() -> list[str]:
    """What is behind the figures of the page, in light and in dark."""
    template = Path(page.__file__).with_name("page.html.j2").read_text()
    return re.findall(r"--paper: (#[0-9a-f]{6});", template)


def edge_of_the_rope(scheme: int) -> str:
    """Its colour in light (0) or dark (1)."""
    template = Path(page.__file__).with_name("page.html.j2").read_text()
    assert "stroke: var(--open); stroke-dasharray" in template
    return re.findall(r"--open: (#[0-9a-f]{6});", template)[scheme]


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)
    assert contrast("#e69f00", "#ffffff") < LEAST_CONTRAST


def test_every_colour_is_seen_in_light_and_dark() -> None:
    assert len(backgrounds()) == 2
    assert luminance(backgrounds()[0]) > 0.9
    assert luminance(backgrounds()[1]) < 0.1
    marks = [*MARKS.values(), UNDECIDED, *VERDICTS.values()]
    for scheme, background in enumerate(backgrounds()):
        for colour in {mark.colour for mark in marks} | {edge_of_the_rope(scheme)}:
            assert contrast(colour, background) >= LEAST_CONTRAST, (colour, background)
    for colour in COLOURS.values():
        assert contrast(colour, "#ffffff") >= LEAST_CONTRAST, colour


@pytest.mark.parametrize("study", ["headline", "lr_robustness", "plan"])
def test_all_entrants_of_a_shipped_study_differ_in_colour_marker_and_line(study: str) -> None:
    configs = shipped.load(study).configs
    names = {entrant(schedule_name(config.schedule), config.sees) for config in configs}
    assert study != "headline" or {"greedy (sees validation)", "wsd"} <= names
    assert names <= MARKS.keys()
    for one, other in combinations(legend(names).values(), 2):
        assert all(a != b for a, b in zip(one, other, strict=True))


def test_as_many_entrants_as_there_are_marks_differ_and_more_still_have_marks() -> None:
    own = [f"mine{i}.py:Mine" for i in range(len(MARKS) - 2)]
    marks = legend([*own, "cosine", "adaptive"])
    assert len(marks) >= 12
    for one, other in combinations(marks.values(), 2):
        assert all(a != b for a, b in zip(one, other, strict=True))
    crowd = legend(map(str, range(100)))
    assert len({(mark.colour, mark.symbol) for mark in crowd.values()}) == 100


def test_a_shipped_schedule_looks_alike_whoever_is_beside_it() -> None:
    assert SCHEDULES.keys() <= MARKS.keys()
    for name, beside in product(SCHEDULES, (["a.py:Mine"], ["cosine", "greedy"], [*MARKS])):
        assert legend([*beside, name])[name] == MARKS[name]
    assert list(legend(["z.py:Z", "wsd", "cosine"])) == ["cosine", "wsd", "z.py:Z"]


@pytest.mark.long
def test_page_and_file_draw_the_same_points_in_the_same_marks(tmp_path: Path) -> None:
    from matplotlib import pyplot as plt

    study = write_study(tmp_path / "mine")
    for seed, schedule in product(range(2), ("plan", "cosine", "greedy", "wsd")):
        write_run(study, schedule, seed, 80.0 + seed, lr=0.1)
    analysis = analyse(load_study(study))
    sections = {**of_pair(analysis, analysis.pairs[0]), **of_study(analysis)}
    marks = legend_of(analysis)
    drawn = 0
    for panel in (panel for section in sections.values() for panel in section.panels):
        svg = ElementTree.fromstring(figure(panel, "one"))  # noqa: S314  # our own
        groups = [part for part in svg.findall("g") if part.get("color")]
        canvas, axes = plt.subplots()
        draw(axes, panel)
        bars: Any = axes.containers  # of error bars
        lines = [c.lines[0] for c in bars if hasattr(c, "lines")]
        plt.close(canvas)
        series = clip(panel).series
        assert len(groups) == len(lines) == len(series)
        for group, line, one in zip(groups, lines, series, strict=True):
            assert list(line.get_xdata()) == list(one.x)
            assert line.get_color() == one.mark.colour == group.get("color")
            stroke = group.find("path[@class='line']")
            assert (stroke is None) == (one.width == 0)
            dashed = stroke is not None and "stroke-dasharray" in stroke.attrib
            assert line.is_dashed() == bool(one.width and one.mark.dash) == dashed
            uses = group.findall("use")
            assert len(uses) <= (len(one.x) if one.size else 0)
            assert {use.get("href") for use in uses} <= {f"#s-{one.mark.symbol.name}"}
            if one.name:
                assert one.mark.colour == marks[one.name].colour
                assert group.get("data-schedule") == one.name
            drawn += 1
        looks = {(one.name, one.mark.symbol) for one in panel.series if panel.y.categories}
        named = {(name, symbol) for name, symbol in looks if name}
        assert len({symbol for _, symbol in named}) == len(named)
    assert drawn > 20


def test_verdicts_differ_in_their_marker() -> None:
    marks = [*VERDICTS.values(), UNDECIDED]
    assert len({mark.symbol for mark in marks}) == len(marks) == len({m.colour for m in marks})


def test_a_table_of_a_figure_has_what_is_drawn_and_no_neighbouring_point() -> None:
    mark = Mark("#000000", CIRCLE, ())
    late = Series("cosine", mark, [1, 5, 9], [None, 0.2, 0.6], width=2)
    steps = Series("step", mark, [1, 5, 9], [1.0, 0.5, 0.1], width=2, steps="after")
    whole = Series("constant", mark, [1, 2, 5, 7, 9], [0.0, 0.25, 1.0, 1.0, 1.0], width=2)
    panel = Panel("base LR 1", [late, steps, whole], Axis("update"), Axis("learning rate"))
    assert words.numbers(panel).cells == [
        ["1", "-", "1", "0"],
        ["2", "-", "1", "0.25"],
        ["5", "0.2", "0.5", "1"],
        ["7", "0.4", "0.5", "1"],
        ["9", "0.6", "0.1", "1"],
    ]


def test_a_table_of_marks_has_each_of_them() -> None:
    mark, place = Mark("#000000", CIRCLE, ()), ["plan: 72.20"]
    seeds = Series("plan", mark, [42.5, 82.33], place * 2, size=7, hover_text=["a", "b"])
    mean = Series("plan", mark, [72.2], place, size=12, bounds=([60.0], [80.0]), hover_text="text")
    panel = Panel("base LR 1", [seeds, mean], Axis("accuracy, %"), Axis(categories=True))
    table = words.numbers(panel)
    assert table.head == ["row", "accuracy, %", "each seed"]
    assert table.cells == [["plan", "text", "42.5, 82.33"]]
