"""Figure data for a paper: as PNG, SVG and PDF files, by matplotlib."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("agg")
from matplotlib import pyplot as plt

from toolkit.report.figure_data.axes import clip
from toolkit.report.figure_data.outcomes import TUNING
from toolkit.report.figure_data.panels import Axis, Panel, Series
from toolkit.report.figure_data.sections import of_pair, of_study
from toolkit.report.marks import UNDECIDED
from toolkit.report.numbers.analyse import Analysis
from toolkit.report.text import pair_label

STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "toolkit",  # equal input, equal bytes
    "savefig.dpi": 200,
    "pdf.fonttype": 42,  # text that stays text
}
NO_DATE: dict[str, Any] = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
"""Format -> metadata without the time of writing: equal input, equal bytes."""
LABEL_LENGTH = 44
NARROW, WIDE, PANEL_WIDTH, HEIGHT, ROW = 3.2, 4.5, 2.6, 2.4, 0.3
"""Inches: the least width, that of a wide and of another panel, the least height, a row of many."""
LINE_SCALE, MARK_SCALE = 0.6, 0.45
"""Points in a file for each pixel on the page."""
STEPS = {"": "default", "after": "steps-post", "before": "steps-pre"}


def write_figures(analysis: Analysis, folder: Path) -> None:
    """Write ``differences``, and for each pair, by its number in the report, three figures more.

    ``differences`` has the comparisons of the primary family with their intervals, also as PDF;
    ``final`` every seed's test metric, ``curves`` the validation metric during training,
    ``sensitivity`` the test metric by base LR, if there are several.
    """
    folder.mkdir(exist_ok=True)
    with plt.rc_context(STYLE):
        differences = of_study(analysis)["differences"].panels
        if differences:
            _write(differences, "", folder / "differences", WIDE, (".png", ".svg", ".pdf"))
        for number, pair in enumerate(analysis.pairs, 1):
            sections = of_pair(analysis, pair)
            for name in ("final", "curves", "sensitivity"):
                panels = [panel for panel in sections[name].panels if panel.title != TUNING]
                least = WIDE if name in ("sensitivity", "final") else PANEL_WIDTH
                if panels:
                    _write(panels, pair_label(pair), folder / f"{name}-{number}", least)


def _write(
    panels: Sequence[Panel],
    title: str,
    file: Path,
    width: float,
    formats: Sequence[str] = (".png", ".svg"),
) -> None:
    """Panels side by side, each so many inches wide, in some formats."""
    rows = max(len({*panel_rows(panel)}) for panel in panels)
    size = (max(NARROW, width * len(panels)), max(HEIGHT, 0.9 + ROW * rows))
    figure, axes = plt.subplots(1, len(panels), figsize=size, layout="constrained", squeeze=False)
    for axis, panel in zip(axes[0], panels, strict=True):
        draw(axis, panel)
        axis.set_title(_plain(panel.title), fontsize=9)
    figure.suptitle(_plain(title), fontsize=9)
    for suffix in formats:
        figure.savefig(f"{file}{suffix}", metadata=NO_DATE[suffix])
    plt.close(figure)


def panel_rows(panel: Panel) -> list[str]:
    """The categories of a panel, from top to bottom; none if its axes are numeric."""
    every = (name for series in panel.series for name in series.y if panel.y.categories)
    return list(dict.fromkeys(every))


def draw(axes: Any, panel: Panel) -> None:
    """Draw all of a panel but its title on matplotlib's axes."""
    panel = clip(panel)
    names = panel_rows(panel)
    in_legend: set[str] = set()
    for series in panel.series:
        y = [names.index(name) for name in series.y] if panel.y.categories else series.y
        label = "_" if series.name in in_legend else _short(series.name)
        in_legend.add(series.name)
        _draw_series(axes, series, y, label, "xerr" if panel.y.categories else "yerr")
    _set_axis(axes, "x", panel.x)
    _set_axis(axes, "y", panel.y)
    if panel.y.categories:
        axes.set_yticks(range(len(names)), map(_short, names))
        axes.set_ylim(len(names) - 0.4, -0.6)
        _draw_ropes(axes, panel.ropes)
    elif any(in_legend):
        axes.legend(fontsize=6, frameon=False)


def _draw_ropes(axes: Any, ropes: Sequence[float]) -> None:
    """The ROPE in the row of each comparison, and the line of no difference."""
    for row, rope in enumerate(ropes):
        style = {"facecolor": "0.93", "edgecolor": UNDECIDED.colour, "linestyle": ":"}
        axes.barh(row, 2 * rope, left=-rope, height=0.6, zorder=0, **style)
    if ropes:
        axes.axvline(0, color=UNDECIDED.colour, linewidth=0.8, zorder=0)


def _draw_series(axes: Any, series: Series, y: Sequence[Any], label: str, bars: str) -> None:
    """Draw one series.

    Args:
        axes: matplotlib's.
        series: what to draw.
        y: its y values, as numbers.
        label: its name in the legend; an underscore for none.
        bars: which argument of ``errorbar`` its bounds are, where there are markers.
    """
    mark, error = series.mark, {}
    style: dict[str, Any] = {"color": mark.colour, "label": label}
    style |= {"linestyle": "none", "marker": "", "drawstyle": STEPS[series.steps]}
    if series.width:  # matplotlib multiplies the lengths of a dash by the width of the line
        dash = (0, [length / series.width for length in mark.dash]) if mark.dash else "-"
        style |= {"linestyle": dash, "linewidth": series.width * LINE_SCALE}
    if series.size:
        face = mark.colour if series.filled else "none"
        style |= {"marker": mark.symbol.matplotlib, "markerfacecolor": face}
        style["markersize"] = series.size * MARK_SCALE
    if series.bounds and series.size:
        middle = series.x if bars == "xerr" else y
        low, high = series.bounds
        # The middle is rounded for the page, and may lie outside of an interval of no length.
        sides = np.subtract(middle, low), np.subtract(high, middle)
        error = {bars: [np.maximum(0, side) for side in sides]}
    elif series.bounds:
        step = {"after": "post", "before": "pre"}.get(series.steps)
        axes.fill_between(
            series.x, *series.bounds, step=step, color=mark.colour, alpha=0.15, linewidth=0
        )
    axes.errorbar(series.x, y, **error, capsize=3, elinewidth=1.2, **style)


def _set_axis(axes: Any, side: str, axis: Axis) -> None:
    """Set the label, scale, ticks and limits of the x or y side."""
    axes.set(
        **{f"{side}label": _plain(axis.title), f"{side}scale": "log" if axis.log else "linear"}
    )
    if axis.ticks:
        ticks = [f"{tick:g}" for tick in axis.ticks]
        axes.set(**{f"{side}ticks": axis.ticks, f"{side}ticklabels": ticks})
        getattr(axes, f"{side}axis").set_ticks([], minor=True)
    if axis.limits:
        axes.set(**{f"{side}lim": axis.limits})


def _short(label: str) -> str:
    """A label that leaves room for the figure: a user's schedule is named by its path."""
    return _plain(label if len(label) <= LABEL_LENGTH else f"...{label[-LABEL_LENGTH:]}")


def _plain(text: str) -> str:
    """Text in which matplotlib reads no formula."""
    return text.replace("$", r"\$")
