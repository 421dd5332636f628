"""Figure data for a paper: as PNG and SVG files, by matplotlib."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("agg")
from matplotlib import pyplot as plt

from toolkit.report.figure_data.outcomes import TUNING
from toolkit.report.figure_data.panels import Axis, Panel, Series
from toolkit.report.figure_data.sections import of_pair
from toolkit.report.numbers.analyse import Analysis
from toolkit.report.text import pair_label

STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "toolkit",  # equal input, equal bytes
    "savefig.dpi": 200,
}
LABEL_LENGTH = 26
NARROW, WIDE, PANEL_WIDTH, HEIGHT = 3.2, 4.5, 2.6, 2.4
"""Inches: a narrow and a wide figure of one panel, each panel of several, and all."""
LINE_SCALE, MARK_SCALE = 0.6, 0.45
"""Points in a file for each pixel on the page."""
STEPS = {"": "default", "after": "steps-post", "before": "steps-pre"}


def write_figures(analysis: Analysis, folder: Path) -> None:
    """Write for each pair, by its number in the report: ``final``, ``curves``, ``sensitivity``.

    ``final`` has every seed's test metric, ``curves`` the validation metric during training,
    ``sensitivity`` the test metric by base LR, if there are several.
    """
    folder.mkdir(exist_ok=True)
    with plt.rc_context(STYLE):
        for number, pair in enumerate(analysis.pairs, 1):
            sections = of_pair(analysis, pair)
            for name in ("final", "curves", "sensitivity"):
                panels = [panel for panel in sections[name].panels if panel.title != TUNING]
                least = WIDE if name == "sensitivity" else NARROW
                if panels:
                    _write(panels, pair_label(pair), least, folder / f"{name}-{number}")


def _write(panels: Sequence[Panel], title: str, least: float, file: Path) -> None:
    """Panels side by side, at least so many inches wide, as PNG and as SVG."""
    size = (max(least, PANEL_WIDTH * len(panels)), HEIGHT)
    figure, axes = plt.subplots(1, len(panels), figsize=size, layout="constrained", squeeze=False)
    for axis, panel in zip(axes[0], panels, strict=True):
        draw(axis, panel)
        axis.set_title(panel.title, fontsize=9)
    figure.suptitle(_plain(title), fontsize=9)
    figure.savefig(f"{file}.png")
    figure.savefig(f"{file}.svg", metadata={"Date": None})
    plt.close(figure)


def draw(axes: Any, panel: Panel) -> None:
    """Draw all of a panel but its title and ROPEs on matplotlib's axes."""
    names = list(dict.fromkeys(name for series in panel.series for name in series.y))
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
    elif any(in_legend):
        axes.legend(fontsize=6, frameon=False)


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
    style: dict[str, Any] = {"color": mark.colour, "alpha": series.opacity, "label": label}
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
