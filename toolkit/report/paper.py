"""Figures for a paper: PNG and SVG."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")
from matplotlib import pyplot as plt

from toolkit.report import panels
from toolkit.report.analyse import Analysis, GroupRow
from toolkit.report.words import schedule_label

STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "toolkit",  # equal input, equal bytes
    "savefig.dpi": 200,
}
MARKERS = {"circle": "o", "diamond": "D", "square": "s", "triangle-up": "^", "cross": "P"}
MARKERS |= {"star": "*", "x": "X", "pentagon": "p", "hexagon": "h", "bowtie": "v"}
LABEL_LENGTH = 24


def write_figures(analysis: Analysis, folder: Path) -> None:
    """Write the final metric of every group, one figure a pair."""
    folder.mkdir(exist_ok=True)
    known = panels.schedules(analysis)
    with plt.rc_context(STYLE):
        for number, pair in enumerate(dict.fromkeys(row.group.pair for row in analysis.groups), 1):
            rows = [row for row in analysis.groups if row.group.pair == pair]
            figure = _final(pair, rows, analysis.metric, known)
            for suffix in ("png", "svg"):
                metadata: dict[str, Any] = {"Date": None} if suffix == "svg" else {}
                figure.savefig(folder / f"final-{number}.{suffix}", metadata=metadata)
            plt.close(figure)


def _final(pair: str, rows: Sequence[GroupRow], metric: str, known: Sequence[str]) -> Any:
    rates = sorted({row.group.lr for row in rows})
    figure, axes = plt.subplots(
        1,
        len(rates),
        figsize=(max(3.2, 2.6 * len(rates)), 2.4),
        layout="constrained",
        squeeze=False,
    )
    for axis, lr in zip(axes[0], rates, strict=True):
        at = [row for row in rows if row.group.lr == lr]
        at.sort(key=lambda row: (known.index(row.group.schedule), row.group.arm), reverse=True)
        for place, row in enumerate(at):
            colour, symbol = panels.style_of(row.group.schedule, known)
            scores = list(row.scores.values())
            axis.plot(scores, [place] * len(scores), "o", color=colour, alpha=0.35, markersize=4)
            low, high = row.interval or (row.mean, row.mean)
            error = [[row.mean - low], [high - row.mean]]
            axis.errorbar(
                row.mean, place, xerr=error, color=colour, marker=MARKERS[symbol], capsize=3
            )
        axis.set_yticks(range(len(at)), [_short(row) for row in at])
        axis.set_ylim(-0.6, len(at) - 0.4)
        axis.set_title(f"base LR {lr:g}", fontsize=9)
        axis.set_xlabel(metric)
    figure.suptitle(pair, fontsize=9)
    return figure


def _short(row: GroupRow) -> str:
    """A label that leaves room for the figure: a user's schedule is named by its path."""
    label = schedule_label(row.group.schedule, row.group.arm)
    return (
        label if len(label) <= LABEL_LENGTH else "\N{HORIZONTAL ELLIPSIS}" + label[-LABEL_LENGTH:]
    )
