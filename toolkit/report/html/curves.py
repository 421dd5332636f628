"""What happened during training: metrics, losses, learning rates and decisions over the run."""

import math
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

import numpy as np

from toolkit.report.html.panels import (
    Panel,
    Section,
    escape,
    layout,
    ordered,
    rates_of,
    rounded,
    shared,
    style_of,
    transparent,
)
from toolkit.report.numbers.analyse import GroupRow
from toolkit.report.numbers.load import Action, Curve, Group, RunRecord

BINS = 120
"""A curve is drawn through so many points or fewer."""
MOST_LINES = 6
"""LR lines of a schedule in one panel."""
LEAST_SHARE = 1e-4
"""Of the highest LR trained with, down to which LRs are drawn: the last updates of a cosine."""
MOST_SHARE = 10
"""Of the same, up to which the trials of a search are drawn."""
MOST_MARKS = 150
"""Decisions of a schedule in one panel."""
MOST_REASONS = 3
"""Reasons in the hover text of decisions that lie on each other."""
HOVER_WIDTH = 30
"""Characters of a line of hover text: what fits beside a point of a narrow panel."""
AXES = ("update", "epoch", "seconds")
SYMBOLS = {"raise": "triangle-up", "cut": "triangle-down", "rollback": "x", "restore": "square"}

Members = Mapping[Group, Sequence[RunRecord]]


def metric_curves(
    rows: Sequence[GroupRow], members: Members, metric: str, known: Sequence[str]
) -> Section:
    """The validation metric, a panel a base LR."""
    caption = (
        "Mean over the seeds; the band is one standard deviation. A curve ends, in a cross, where "
        "the first of its runs diverged; there is none if that was before the first evaluation."
    )
    panels = _panels("validation", rows, members, metric, known)
    return Section(f"Validation {metric} during training", caption, panels)


def loss_curves(rows: Sequence[GroupRow], members: Members, known: Sequence[str]) -> Section:
    """The training loss, a panel a base LR."""
    caption = (
        "Mean over the seeds; the band is one standard deviation. Every point is the mean of a "
        f"stretch of the run, of which there are {BINS} or fewer."
    )
    return Section("Training loss", caption, _panels("loss", rows, members, "training loss", known))


def rate_curves(rows: Sequence[GroupRow], members: Members, known: Sequence[str]) -> Section:
    """The LR with the decisions marked, a panel a base LR."""
    panels, runs, drawn = [], 0, 0
    for lr in rates_of(rows):
        traces: list[Any] = []
        for row in ordered(rows, lr, known):
            traces += _rate_traces(members[row.group], row, known)
            counts = _drawn(members[row.group])
            runs, drawn = runs + counts[0], drawn + counts[1]
        here = [run for row in ordered(rows, lr, known) for run in members[row.group]]
        figure = {"data": _marks_on_top(traces), "layout": _rate_axes(traces, here)}
        panels.append(Panel(f"base LR {lr:g}", figure, True))
    caption = (
        "The LR used; one line where all seeds have the same, else one for each of the first "
        f"{MOST_LINES}. A triangle up is a raise, down a cut, a cross a rollback, a circle any "
        "other decision, such as a trial of a search, and a square its end, where the untouched "
        "model is restored: hover over one, or tap it, for its reason. The axis goes from a "
        "ten-thousandth of the highest LR trained with to ten times it at most: what is beyond, "
        "such as a trial, is not drawn."
    )
    if drawn < runs:
        caption += (
            f" {drawn:,} of {runs:,} decisions are marked: those of the first seeds; all are in "
            "events.jsonl of each run."
        )
    return Section("Learning rate and decisions", caption, panels)


def _rate_axes(traces: Sequence[Any], runs: Sequence[RunRecord]) -> dict[str, Any]:
    """The layout of a panel of LRs: an axis over what was trained with, not over all trials."""
    values = [value for trace in traces for value in trace["y"] if value]
    if not values:
        return layout("update", "learning rate")
    top = max(map(_highest, runs))
    shown = [min(max(value, top * LEAST_SHARE), top * MOST_SHARE) for value in values]
    axes = layout("update", "learning rate", log_y=shown)
    axes["yaxis"]["range"] = rounded((math.log10(min(shown) * 0.8), math.log10(max(shown) * 1.25)))
    return axes


def _marks_on_top(traces: Sequence[Any]) -> list[Any]:
    """The traces, so that no line hides a mark or takes the hover from it."""
    lines = [trace for trace in traces if trace["mode"] == "lines"]
    marks = [trace for trace in traces if trace["mode"] == "markers"]
    if marks:
        lines = [{**line, "hovertemplate": None, "hoverinfo": "skip"} for line in lines]
    return [*lines, *marks]


def _panels(
    kind: str, rows: Sequence[GroupRow], members: Members, title: str, known: Sequence[str]
) -> list[Panel]:
    panels = []
    for lr in rates_of(rows):
        traces: list[Any] = []
        for row in ordered(rows, lr, known):
            traces += _mean_and_band(members[row.group], kind, row, known)
        values = [value for trace in traces for value in trace["y"]] if kind == "loss" else None
        if traces:
            figure = {"data": traces, "layout": layout("update", title, log_y=values)}
            panels.append(Panel(f"base LR {lr:g}", figure, True))
    return panels


def _mean_and_band(
    runs: Sequence[RunRecord], kind: str, row: GroupRow, known: Sequence[str]
) -> list[Any]:
    curves = [getattr(run, kind) for run in runs]
    if not all(curve.value for curve in curves):
        return []
    table = stack(curves, binned=kind == "loss")
    colour, _ = style_of(row.group.schedule, known)
    common = shared(row.group.schedule, row.group.arm)
    mean, spread = table["value"].mean(0), table["value"].std(0)
    axes = {name: rounded(table[name].mean(0)) for name in AXES}
    line = {
        **common,
        "mode": "lines",
        "x": axes["update"],
        "y": rounded(mean),
        "meta": axes,
        "line": {"color": colour, "width": 2},
        "hovertemplate": f"{escape(common['name'])}: %{{y:.4g}}<extra></extra>",
    }
    traces = [line]
    if len(curves) > 1:
        low, high = mean - spread, mean + spread
        if kind == "loss":  # on a logarithmic axis
            low = np.maximum(low, table["value"].min(0))
        band = {
            **common,
            "mode": "lines",
            "x": axes["update"] + axes["update"][::-1],
            "y": rounded(high) + rounded(low)[::-1],
            "meta": {name: values + values[::-1] for name, values in axes.items()},
            "fill": "toself",
            "fillcolor": transparent(colour),
            "line": {"width": 0},
            "hoverinfo": "skip",
        }
        traces = [band, line]
    if row.diverged:
        traces.append(_end_mark(line, row, colour))
    return traces


def _end_mark(line: Mapping[str, Any], row: GroupRow, colour: str) -> Any:
    """A cross where the curve ends because a run diverged."""
    said = f"{escape(line['name'])}: {row.diverged} of {len(row.scores)} runs diverged"
    return {
        **shared(row.group.schedule, row.group.arm),
        "mode": "markers",
        "x": line["x"][-1:],
        "y": line["y"][-1:],
        "meta": {name: values[-1:] for name, values in line["meta"].items()},
        "marker": {"symbol": "x-thin", "size": 11, "line": {"width": 3, "color": colour}},
        "hovertemplate": f"{said}<extra></extra>",
    }


def stack(curves: Sequence[Curve], binned: bool) -> dict[str, np.ndarray]:
    """Curves of one length as arrays of shape (runs, points), cut to the shortest.

    More than ``BINS`` points are reduced: to means over stretches, or to every k-th point and the
    last.
    """
    names = (*AXES, "value")
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


def _highest(run: RunRecord) -> float:
    """The highest LR of a run outside its search, if that has come to its end."""
    ends = [action.update for action in run.actions if action.action == "restore"]
    begin = ends[-1] if ends else 0
    used = [lr for update, lr in zip(run.lr.update, run.lr.value, strict=True) if update > begin]
    return max(used, default=0.0) or max(run.lr.value, default=0.0)


def _drawn(runs: Sequence[RunRecord]) -> tuple[int, int]:
    """How many decisions the runs have, and how many are marked."""
    total = sum(len(run.actions) for run in runs)
    return total, min(total, MOST_MARKS)


def _rate_traces(runs: Sequence[RunRecord], row: GroupRow, known: Sequence[str]) -> list[Any]:
    colour, _ = style_of(row.group.schedule, known)
    common = shared(row.group.schedule, row.group.arm)
    same = all(run.lr.value == runs[0].lr.value for run in runs)
    traces: list[Any] = []
    for run in runs[:1] if same else runs[:MOST_LINES]:
        kept = corners(run.lr)
        axes = {name: rounded(getattr(kept, name)) for name in AXES}
        traces.append(
            {
                **common,
                "mode": "lines",
                "x": axes["update"],
                "y": rounded([value or None for value in kept.value]),
                "meta": axes,
                "line": {"color": colour, "width": 2 if same else 1},
                "opacity": 1 if same else 0.6,
                "hovertemplate": f"{escape(common['name'])}: %{{y:.3g}}<extra></extra>",
            }
        )
    marks = [(run, action) for run in runs for action in run.actions][:MOST_MARKS]
    return traces + ([_marks(marks, common, colour)] if marks else [])


def _marks(
    marks: Sequence[tuple[RunRecord, Action]], common: Mapping[str, Any], colour: str
) -> Any:
    """Decisions, those that lie on each other as one mark with the reasons of the first seeds."""
    stacks: dict[tuple[int, float | None], list[tuple[RunRecord, Action]]] = {}
    for run, action in marks:
        stacks.setdefault((action.update, rounded([action.lr])[0]), []).append((run, action))
    tops = [stack[0][1] for stack in stacks.values()]
    axes = {
        "update": [action.update for action in tops],
        "epoch": rounded([action.epoch for action in tops]),
        "seconds": rounded([action.seconds for action in tops]),
    }
    return {
        **common,
        "mode": "markers",
        "x": axes["update"],
        "y": [lr for _, lr in stacks],
        "meta": axes,
        "marker": {
            "color": colour,
            "size": 8,
            "symbol": [SYMBOLS.get(action.action, "circle") for action in tops],
            "line": {"width": 1, "color": colour},
        },
        "text": [_told(stack, escape(common["name"])) for stack in stacks.values()],
        "hovertemplate": "%{text}<extra></extra>",
    }


def _told(stack: Sequence[tuple[RunRecord, Action]], name: str) -> str:
    """The words of a mark. Plotly breaks no lines, and a reason may be long."""
    _, first = stack[0]
    lines = [f"{name}, update {first.update}, LR {first.lr:.3g}"]
    for run, action in stack[:MOST_REASONS]:
        what = action.action if action.pattern == "none" else f"{action.pattern}, {action.action}"
        lines += wrap(f"seed {run.seed}: {what}. {action.reason}", HOVER_WIDTH)
    if (more := len(stack) - MOST_REASONS) > 0:
        lines.append(f"and {more} more {'seeds' if more > 1 else 'seed'}")
    return "<br>".join(escape(line) if number else line for number, line in enumerate(lines))


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
    return Curve(*([getattr(curve, name)[i] for i in chosen] for name in (*AXES, "value")))
