"""Figures for a paper: PNG and SVG."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")
from matplotlib import pyplot as plt

from toolkit.report.html import curves, panels
from toolkit.report.numbers.analyse import Analysis, GroupRow
from toolkit.report.numbers.load import Group, RunRecord
from toolkit.report.text import metric_of, pair_label, schedule_label

STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "toolkit",  # equal input, equal bytes
    "savefig.dpi": 200,
}
MARKERS = {"circle": "o", "diamond": "D", "square": "s", "triangle-up": "^", "cross": "P"}
MARKERS |= {"star": "*", "x": "X", "pentagon": "p", "hexagon": "h", "hourglass": "v"}
LABEL_LENGTH = 24
LEAST_WIDTH, PANEL_WIDTH, HEIGHT = 3.2, 2.6, 2.4
"""Inches."""

Members = Mapping[Group, Sequence[RunRecord]]


def write_figures(analysis: Analysis, folder: Path) -> None:
    """Write for each pair, by its number in the report: ``final``, ``curves``, ``sensitivity``.

    ``final`` has every seed's test metric, ``curves`` the validation metric during training,
    ``sensitivity`` the test metric by base LR, if there are several.
    """
    folder.mkdir(exist_ok=True)
    known = panels.schedules(analysis)
    members: dict[Group, list[RunRecord]] = defaultdict(list)
    for run in analysis.study.runs:
        members[run.group].append(run)
    with plt.rc_context(STYLE):
        for number, pair in enumerate(dict.fromkeys(row.group.pair for row in analysis.groups), 1):
            rows = [row for row in analysis.groups if row.group.pair == pair]
            metric = metric_of(analysis, pair)
            drawn = {
                "final": _at_each_rate(pair, rows, known, metric, _dots),
                "curves": _at_each_rate(pair, rows, known, "update", _curves(members, metric)),
            }
            if len(panels.rates_of(rows)) > 1:
                drawn["sensitivity"] = _sensitivity(pair, rows, metric, known)
            for name, figure in drawn.items():
                for suffix in ("png", "svg"):
                    metadata: dict[str, Any] = {"Date": None} if suffix == "svg" else {}
                    figure.savefig(folder / f"{name}-{number}.{suffix}", metadata=metadata)
                plt.close(figure)


def _at_each_rate(
    pair: str,
    rows: Sequence[GroupRow],
    known: Sequence[str],
    x: str,
    draw: Callable[[Any, Sequence[GroupRow], Sequence[str]], None],
) -> Any:
    """One panel a base LR, side by side."""
    rates = panels.rates_of(rows)
    size = (max(LEAST_WIDTH, PANEL_WIDTH * len(rates)), HEIGHT)
    figure, axes = plt.subplots(1, len(rates), figsize=size, layout="constrained", squeeze=False)
    for axis, lr in zip(axes[0], rates, strict=True):
        draw(axis, panels.ordered(rows, lr, known), known)
        axis.set_title(f"base LR {lr:g}", fontsize=9)
        axis.set_xlabel(x)
    figure.suptitle(_plain(pair_label(pair)), fontsize=9)
    return figure


def _dots(axis: Any, rows: Sequence[GroupRow], known: Sequence[str]) -> None:
    at = rows[::-1]
    for place, row in enumerate(at):
        colour, symbol = panels.style_of(row.group.schedule, known)
        scores = list(row.scores.values())
        axis.plot(scores, [place] * len(scores), "o", color=colour, alpha=0.35, markersize=4)
        _with_interval(axis, row, (row.mean, place), "xerr", colour, symbol)
    axis.set_yticks(range(len(at)), [_short(row) for row in at])
    axis.set_ylim(-0.6, len(at) - 0.4)


def _curves(members: Members, metric: str) -> Callable[..., None]:
    def draw(axis: Any, rows: Sequence[GroupRow], known: Sequence[str]) -> None:
        for row in rows:
            found = [run.validation for run in members[row.group]]
            if not all(curve.value for curve in found):
                continue
            table = curves.stack(found, binned=False)
            colour, _ = panels.style_of(row.group.schedule, known)
            x, mean = table["update"].mean(0), table["value"].mean(0)
            spread = table["value"].std(0)
            axis.plot(x, mean, color=colour, label=_short(row), linewidth=1.2)
            axis.fill_between(
                x, mean - spread, mean + spread, color=colour, alpha=0.15, linewidth=0
            )
        axis.set_ylabel(f"validation {metric}")
        if axis.lines:
            axis.legend(fontsize=6, frameon=False)

    return draw


def _sensitivity(pair: str, rows: Sequence[GroupRow], metric: str, known: Sequence[str]) -> Any:
    figure, axis = plt.subplots(figsize=(1.4 * LEAST_WIDTH, HEIGHT), layout="constrained")
    for name in known:
        at = [row for lr in panels.rates_of(rows) for row in panels.ordered(rows, lr, known)]
        at = [row for row in at if (row.group.schedule, row.group.arm) == (name, 0)]
        colour, symbol = panels.style_of(name, known)
        if at:
            x, y = [row.group.lr for row in at], [row.mean for row in at]
            axis.plot(x, y, color=colour, label=_short(at[0]), linewidth=1.2)
        for row in at:
            _with_interval(axis, row, (row.group.lr, row.mean), "yerr", colour, symbol)
    axis.set_xscale("log")
    axis.set_xlabel("base LR")
    axis.set_ylabel(metric)
    axis.legend(fontsize=6, frameon=False)
    axis.set_title(_plain(pair_label(pair)), fontsize=9)
    return figure


def _with_interval(
    axis: Any, row: GroupRow, place: tuple[float, float], side: str, colour: str, symbol: str
) -> None:
    low, high = row.interval or (row.mean, row.mean)
    error = {side: [[row.mean - low], [high - row.mean]]}
    axis.errorbar(*place, **error, color=colour, marker=MARKERS[symbol], markersize=5, capsize=3)


def _short(row: GroupRow) -> str:
    """A label that leaves room for the figure: a user's schedule is named by its path."""
    label = schedule_label(row.group.schedule, row.group.arm)
    return _plain(label if len(label) <= LABEL_LENGTH else f"...{label[-LABEL_LENGTH:]}")


def _plain(text: str) -> str:
    """Text in which matplotlib reads no formula."""
    return text.replace("$", r"\$")
