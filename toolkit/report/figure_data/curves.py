"""What happened during training: metrics, losses, learning rates and decisions over the run."""

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np

from toolkit.report.figure_data.axes import shared
from toolkit.report.figure_data.panels import (
    CLOCKS,
    Axis,
    Legend,
    Panel,
    Section,
    Series,
    label_of,
    ordered,
    rates_of,
    rounded,
)
from toolkit.report.marks import CIRCLE, DECISIONS, Symbol, X
from toolkit.report.numbers.aggregate import Members
from toolkit.report.numbers.analyse import GroupRow
from toolkit.report.numbers.runs import Action, Curve, RunRecord

BINS = 100
"""A curve is drawn through so many points or fewer."""
MOST_LINES = 6
"""LR lines of a schedule in one panel."""
LEAST_SHARE, MOST_SHARE = 1e-4, 10
"""Of the highest LR trained with: down to where LRs are drawn (the last updates of a cosine), and
up to where (the trials of a search)."""
MOST_MARKS = 150
"""Decisions of a schedule in one panel."""
MOST_REASONS = 3
"""Reasons in the hover text of decisions that lie on each other."""


def metric_curves(
    rows: Sequence[GroupRow], members: Members, metric: str, legend: Legend, clock: str = "update"
) -> Section:
    """The validation metric, a panel a base LR.

    Args:
        rows: the groups of a pair.
        members: the runs of every group.
        metric: the pair's headline metric, with its unit.
        legend: the entrants of the report.
        clock: what it is drawn over, of ``CLOCKS``.
    """
    panels = [
        Panel(f"base LR {lr:g}", series, Axis(CLOCKS[clock]), Axis(f"validation {metric}"))
        for lr in rates_of(rows)
        if (series := _mean_series("validation", ordered(rows, lr, legend), members, legend, clock))
    ]
    caption = (
        "Mean over the seeds; the band is one standard deviation. A curve ends, in a cross, where "
        "the first of its runs diverged; there is none if that was before the first evaluation."
    )
    over = {"update": "updates", "seconds": "wall-clock time"}[clock]
    return Section(f"Validation {metric.split(',')[0]} over {over}", caption, shared(panels))


def loss_curves(rows: Sequence[GroupRow], members: Members, legend: Legend) -> Section:
    """The training loss, a panel a base LR. Arguments as of ``metric_curves``."""
    panels = []
    for lr in rates_of(rows):
        series = _mean_series("loss", ordered(rows, lr, legend), members, legend, "update")
        if series:
            y = Axis("training loss", log=True)
            panels.append(Panel(f"base LR {lr:g}", series, Axis("update"), y))
    caption = (
        "Mean over the seeds; the band is one standard deviation. Every point is the mean of a "
        f"stretch of the run, of which there are {BINS} or fewer."
    )
    return Section("Training loss", caption, shared(panels))


def rate_curves(rows: Sequence[GroupRow], members: Members, legend: Legend) -> Section:
    """The LR with the decisions marked, a panel a base LR. Arguments as of ``metric_curves``."""
    panels, decisions, drawn = [], 0, 0
    for lr in rates_of(rows):
        at = ordered(rows, lr, legend)
        lines = [line for row in at for line in _rate_lines(row, members, legend)]
        marks = [mark for row in at for mark in _decisions(row, members, legend)]
        for row in at:
            count = sum(len(run.actions) for run in members[row.group])
            decisions, drawn = decisions + count, drawn + min(count, MOST_MARKS)
        if marks:  # no line hides a mark or takes the mouse from it
            lines = [replace(line, hover_text="") for line in lines]
        runs = [run for row in at for run in members[row.group]]
        y = _rate_axis([*lines, *marks], runs)
        panels.append(Panel(f"base LR {lr:g}", [*lines, *marks], Axis("update"), y))
    caption = (
        "The LR used; one line where all seeds have the same, else one for each of the first "
        f"{MOST_LINES}. A triangle up is a raise, down a cut, a cross a rollback, a circle any "
        "other decision, such as a trial of a search, and a square its end, where the untouched "
        "model is restored: point at one, tap it, or go to it with Tab and the arrow keys, for its "
        "reason. The axis goes from a ten-thousandth of the highest LR trained with to ten times "
        "it at most: what is beyond, such as a trial, is in the list of decisions alone."
    )
    if drawn < decisions:
        caption += (
            f" {drawn:,} of {decisions:,} decisions are marked: those of the first seeds; all are "
            "in events.jsonl of each run."
        )
    return Section("Learning rate and decisions", caption, shared(panels))


def _mean_series(
    kind: str, rows: Sequence[GroupRow], members: Members, legend: Legend, clock: str
) -> list[Series]:
    """Mean over the seeds with a band of one standard deviation, and a cross where runs diverged.

    Args:
        kind: the curve of a run, ``loss`` or ``validation``.
        rows: groups at one base LR.
        members: the runs of every group.
        legend: the entrants of the report.
        clock: of ``CLOCKS``.
    """
    found = []
    for row in rows:
        curves = [getattr(run, kind) for run in members[row.group]]
        if not all(curve.value for curve in curves):
            continue
        table = stack(curves, binned=kind == "loss")
        mean, spread = table["value"].mean(0), table["value"].std(0)
        low, high = mean - spread, mean + spread
        if kind == "loss":  # on a logarithmic axis
            low = np.maximum(low, table["value"].min(0))
        name, mark = label_of(row), legend[row.group.schedule]
        x, y = rounded(table[clock].mean(0)), rounded(mean)
        bounds = (low.tolist(), high.tolist()) if len(curves) > 1 else None
        text = f"{name}: {y[-1]:.4g} at the end"
        found.append(Series(name, mark, x, y, width=2, bounds=bounds, hover_text=text))
        if row.diverged:  # a cross where the curve ends
            text = f"{name}: {row.diverged} of {len(row.scores)} runs diverged"
            cross = mark._replace(symbol=X)
            found.append(Series(name, cross, x[-1:], y[-1:], size=11, hover_text=text))
    return found


def stack(curves: Sequence[Curve], binned: bool) -> dict[str, np.ndarray]:
    """Curves as arrays of shape (runs, points), cut to the shortest, by clock and ``value``.

    More than ``BINS`` points are reduced to as many: to means over equal parts of the run if
    ``binned``, else to every k-th point and the last.
    """
    names = (*CLOCKS, "value")
    length = min(len(curve.value) for curve in curves)
    table = {
        name: np.array([getattr(curve, name)[:length] for curve in curves], float) for name in names
    }
    if length <= BINS:
        return table
    edges = np.linspace(0, length, BINS + 1).astype(int)
    if not binned:
        return {name: values[:, edges[1:] - 1] for name, values in table.items()}
    widths = np.diff(edges)
    return {name: np.add.reduceat(table[name], edges[:-1], axis=1) / widths for name in names}


def _rate_axis(series: Sequence[Series], runs: Sequence[RunRecord]) -> Axis:
    """A logarithmic axis over what was trained with, not over all trials."""
    values = [value for one in series for value in one.y if value]
    if not values:
        return Axis("learning rate")
    top = max(map(_highest, runs))
    shown = [min(max(value, top * LEAST_SHARE), top * MOST_SHARE) for value in values]
    return Axis("learning rate", log=True, limits=(min(shown) * 0.8, max(shown) * 1.25))


def _highest(run: RunRecord) -> float:
    """The highest LR of a run outside its search, if that has come to its end."""
    ends = [action.update for action in run.actions if action.action == "restore"]
    begin = ends[-1] if ends else 0
    used = [lr for update, lr in zip(run.lr.update, run.lr.value, strict=True) if update > begin]
    return max(used, default=0.0) or max(run.lr.value, default=0.0)


def _rate_lines(row: GroupRow, members: Members, legend: Legend) -> list[Series]:
    """The LR of a group: one line where all seeds have the same."""
    runs, name, mark = members[row.group], label_of(row), legend[row.group.schedule]
    same = all(run.lr.value == runs[0].lr.value for run in runs)
    lines = []
    for run in runs[:1] if same else runs[:MOST_LINES]:
        kept = corners(run.lr)
        y = rounded(value or None for value in kept.value)
        width, text = (2, name) if same else (1, f"{name}, seed {run.seed}")
        lines.append(Series(name, mark, rounded(kept.update), y, width=width, hover_text=text))
    return lines


def _decisions(row: GroupRow, members: Members, legend: Legend) -> list[Series]:
    """The decisions of a group, a series a symbol; those that lie on each other are one mark."""
    found = [(run, action) for run in members[row.group] for action in run.actions][:MOST_MARKS]
    stacks: dict[tuple[int, float | None], list[tuple[RunRecord, Action]]] = {}
    for run, action in found:
        stacks.setdefault((action.update, rounded([action.lr])[0]), []).append((run, action))
    by_symbol: dict[Symbol, list[list[tuple[RunRecord, Action]]]] = {}
    for place in sorted(stacks, key=lambda place: (place[0], place[1] or 0.0)):
        stack = stacks[place]
        by_symbol.setdefault(DECISIONS.get(stack[0][1].action, CIRCLE), []).append(stack)
    name, marks = label_of(row), []
    for symbol, some in by_symbol.items():
        tops = [stack[0][1] for stack in some]
        mark = legend[row.group.schedule]._replace(symbol=symbol)
        x, y = rounded(top.update for top in tops), rounded(top.lr for top in tops)
        texts = [_decision_text(stack, name) for stack in some]
        marks.append(Series(name, mark, x, y, size=8, hover_text=texts, decides=True))
    return marks


def _decision_text(stack: Sequence[tuple[RunRecord, Action]], name: str) -> str:
    """The hover text of decisions on one place."""
    _, first = stack[0]
    lines = [f"{name}, update {first.update}, LR {first.lr:.3g}"]
    for run, action in stack[:MOST_REASONS]:
        what = action.action if action.pattern == "none" else f"{action.pattern}, {action.action}"
        lines.append(f"seed {run.seed}: {what}. {action.reason}")
    if (more := len(stack) - MOST_REASONS) > 0:
        lines.append(f"and {more} more {'seeds' if more > 1 else 'seed'}")
    return "\n".join(lines)


def corners(curve: Curve) -> Curve:
    """The points between which the curve is straight, or is drawn as good as straight."""
    values = np.array(curve.value)
    keep = np.zeros(len(values), bool)
    keep[[0, -1]] = True
    keep[:: max(1, len(values) // BINS)] = True
    jumps = np.flatnonzero(np.abs(np.diff(values)) > 1e-3 * np.abs(values[:-1]).max())
    if len(jumps) <= BINS:
        keep[jumps] = keep[jumps + 1] = True
    chosen = np.flatnonzero(keep)
    return Curve(*([getattr(curve, item.name)[i] for i in chosen] for item in fields(Curve)))
