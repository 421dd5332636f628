"""The interactive figures, as plain data for plotly.js.

Colours of text and grid are left out: the page sets them, for light and dark.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from toolkit.report.analyse import Analysis, GroupRow
from toolkit.report.load import Curve, Group, RunRecord
from toolkit.report.words import schedule_label

BINS = 120
"""Loss curves are means over so many stretches of a run."""
PALETTE = {
    "cosine": ("#0072b2", "circle"),
    "plan": ("#cc5a9b", "diamond"),
    "constant": ("#7f7f7f", "square"),
    "step": ("#d55e00", "triangle-up"),
    "linear": ("#009e73", "cross"),
    "adaptive": ("#e69f00", "star"),
}
SPARE = [
    ("#56b4e9", "x"),
    ("#8c6d31", "pentagon"),
    ("#6a51a3", "hexagon"),
    ("#b2182b", "hourglass"),
]
AXES = ("update", "epoch", "seconds")

Figure = dict[str, Any]


@dataclass(frozen=True)
class Panel:
    """A figure with the words around it.

    Attributes:
        title: a few words above it.
        figure: data and layout for plotly.js.
        switchable: whether its x axis can show update, epoch or seconds.
    """

    title: str
    figure: Figure
    switchable: bool = False


@dataclass(frozen=True)
class Section:
    """Figures of one kind for one pair, one panel a base LR."""

    title: str
    caption: str
    panels: list[Panel]


def style_of(schedule: str, known: Sequence[str]) -> tuple[str, str]:
    """Colour and marker of a schedule, the same in every figure of a report."""
    if schedule in PALETTE:
        return PALETTE[schedule]
    others = [name for name in known if name not in PALETTE]
    return SPARE[others.index(schedule) % len(SPARE)]


def sections(analysis: Analysis) -> dict[str, list[Section]]:
    """The sections of every pair."""
    known = schedules(analysis)
    members: dict[Group, list[RunRecord]] = defaultdict(list)
    for run in analysis.study.runs:
        members[run.group].append(run)
    by_pair: dict[str, list[GroupRow]] = defaultdict(list)
    for row in analysis.groups:
        by_pair[row.group.pair].append(row)
    return {
        pair: [
            section
            for section in (
                _final(rows, analysis.metric, known),
                _curves("validation", rows, members, analysis.metric, known),
                _curves("loss", rows, members, "training loss", known),
                _rates(rows, members, known),
                _sensitivity(rows, analysis.metric, known),
            )
            if section.panels
        ]
        for pair, rows in by_pair.items()
    }


def schedules(analysis: Analysis) -> list[str]:
    """The schedules of a report, in a fixed order: those of the palette first."""
    found = {row.group.schedule for row in analysis.groups}
    return [name for name in PALETTE if name in found] + sorted(found - PALETTE.keys())


def _rates_of(rows: Iterable[GroupRow]) -> list[float]:
    return sorted({row.group.lr for row in rows})


def _ordered(rows: Iterable[GroupRow], lr: float, known: Sequence[str]) -> list[GroupRow]:
    at = [row for row in rows if row.group.lr == lr]
    return sorted(at, key=lambda row: (known.index(row.group.schedule), row.group.arm))


def _final(rows: Sequence[GroupRow], metric: str, known: Sequence[str]) -> Section:
    panels = []
    for lr in _rates_of(rows):
        traces: list[Any] = []
        for row in _ordered(rows, lr, known):
            traces += _dots(row, known)
        layout = _layout(metric, "", height=120 + 44 * len(traces) // 2, horizontal=True)
        panels.append(Panel(f"base LR {lr:g}", {"data": traces, "layout": layout}))
    return Section(
        f"Final {metric} on the test split",
        "Each small mark is a seed; the large mark is their mean, the bar its 95 % interval.",
        panels,
    )


def _dots(row: GroupRow, known: Sequence[str]) -> list[Any]:
    colour, symbol = style_of(row.group.schedule, known)
    label = schedule_label(row.group.schedule, row.group.arm)
    shared = {"type": "scatter", "legendgroup": label, "name": label, "showlegend": False}
    low, high = row.interval or (row.mean, row.mean)
    return [
        {
            **shared,
            "mode": "markers",
            "x": list(row.scores.values()),
            "y": [label] * len(row.scores),
            "customdata": list(row.scores),
            "hovertemplate": f"{_escape(label)}, seed %{{customdata}}: %{{x:.2f}}<extra></extra>",
            "marker": {"color": colour, "symbol": f"{symbol}-open", "size": 8, "opacity": 0.75},
        },
        {
            **shared,
            "mode": "markers",
            "x": [row.mean],
            "y": [label],
            "hovertemplate": (
                f"{_escape(label)}: mean %{{x:.2f}}, {low:.2f} to {high:.2f}<extra></extra>"
            ),
            "marker": {"color": colour, "symbol": symbol, "size": 13},
            "error_x": {
                "type": "data",
                "symmetric": False,
                "array": [high - row.mean],
                "arrayminus": [row.mean - low],
                "color": colour,
                "thickness": 2,
                "width": 6,
            },
        },
    ]


def _curves(
    kind: str,
    rows: Sequence[GroupRow],
    members: dict[Group, list[RunRecord]],
    title: str,
    known: Sequence[str],
) -> Section:
    panels = []
    for lr in _rates_of(rows):
        traces: list[Any] = []
        for row in _ordered(rows, lr, known):
            curves = [getattr(run, kind) for run in members[row.group]]
            traces += _mean_and_band(curves, row, known, kind == "loss")
        layout = _layout("update", title, log_y=kind == "loss")
        if traces:
            panels.append(Panel(f"base LR {lr:g}", {"data": traces, "layout": layout}, True))
    caption = "Mean over the seeds; the band is one standard deviation."
    if kind == "loss":
        caption += f" Each curve is averaged over {BINS} stretches of the run or fewer."
    name = "Training loss" if kind == "loss" else f"Validation {title} during training"
    return Section(name, caption, panels)


def _mean_and_band(
    curves: Sequence[Curve], row: GroupRow, known: Sequence[str], binned: bool
) -> list[Any]:
    table = _stack([curve for curve in curves if curve.value], binned)
    if table is None:
        return []
    colour, _ = style_of(row.group.schedule, known)
    label = schedule_label(row.group.schedule, row.group.arm)
    mean, spread = table["value"].mean(0), table["value"].std(0)
    axes = {name: _rounded(table[name].mean(0)) for name in AXES}
    shared = {"type": "scatter", "legendgroup": label, "name": label, "showlegend": False}
    line = {
        **shared,
        "mode": "lines",
        "x": axes["update"],
        "y": _rounded(mean),
        "meta": axes,
        "line": {"color": colour, "width": 2},
        "hovertemplate": f"{_escape(label)}: %{{y:.4g}}<extra></extra>",
    }
    if len(curves) == 1:
        return [line]
    low, high = mean - spread, mean + spread
    if binned:  # on a logarithmic axis
        low = np.maximum(low, table["value"].min(0))
    band = {
        **shared,
        "mode": "lines",
        "x": axes["update"] + axes["update"][::-1],
        "y": _rounded(high) + _rounded(low)[::-1],
        "meta": {name: values + values[::-1] for name, values in axes.items()},
        "fill": "toself",
        "fillcolor": _transparent(colour),
        "line": {"width": 0},
        "hoverinfo": "skip",
    }
    return [band, line]


def _stack(curves: Sequence[Curve], binned: bool) -> dict[str, np.ndarray] | None:
    """Curves of one length as arrays of shape (runs, points), cut to the shortest."""
    if not curves:
        return None
    names = (*AXES, "value")
    length = min(len(curve.value) for curve in curves)
    table = {
        name: np.array([getattr(curve, name)[:length] for curve in curves], float) for name in names
    }
    if not binned or length <= BINS:
        return table
    edges = np.linspace(0, length, BINS + 1).astype(int)[:-1]
    widths = np.diff(np.append(edges, length))
    return {name: np.add.reduceat(table[name], edges, axis=1) / widths for name in names}


def _rates(
    rows: Sequence[GroupRow], members: dict[Group, list[RunRecord]], known: Sequence[str]
) -> Section:
    panels = []
    for lr in _rates_of(rows):
        traces: list[Any] = []
        for row in _ordered(rows, lr, known):
            traces += _rate_traces(members[row.group], row, known)
        figure = {"data": traces, "layout": _layout("update", "learning rate", log_y=True)}
        panels.append(Panel(f"base LR {lr:g}", figure, True))
    caption = (
        "The LR used. A line for each seed; one line where all seeds have the same. Marks are "
        "decisions: a triangle up is a raise, down a cut; hover over one for its reason."
    )
    return Section("Learning rate and decisions", caption, panels)


def _rate_traces(runs: Sequence[RunRecord], row: GroupRow, known: Sequence[str]) -> list[Any]:
    colour, _ = style_of(row.group.schedule, known)
    label = schedule_label(row.group.schedule, row.group.arm)
    same = all(run.lr.value == runs[0].lr.value for run in runs)
    traces: list[Any] = []
    for run in runs[:1] if same else runs:
        corners = _corners(run.lr)
        axes = {name: _rounded(getattr(corners, name)) for name in AXES}
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "legendgroup": label,
                "name": label,
                "showlegend": False,
                "x": axes["update"],
                "y": _rounded([value or None for value in corners.value]),
                "meta": axes,
                "line": {"color": colour, "width": 2 if same else 1},
                "opacity": 1 if same else 0.6,
                "hovertemplate": f"{_escape(label)}: %{{y:.3g}}<extra></extra>",
            }
        )
    marks = [(run, action) for run in runs for action in run.actions]
    return traces + ([_marks(marks, label, colour)] if marks else [])


def _marks(marks: Sequence[tuple[RunRecord, Any]], label: str, colour: str) -> Any:
    symbols = {"raise": "triangle-up", "cut": "triangle-down"}
    axes = {
        "update": [action.update for _, action in marks],
        "epoch": _rounded([action.epoch for _, action in marks]),
        "seconds": _rounded([action.seconds for _, action in marks]),
    }
    return {
        "type": "scatter",
        "mode": "markers",
        "legendgroup": label,
        "name": label,
        "showlegend": False,
        "x": axes["update"],
        "y": _rounded([action.lr for _, action in marks]),
        "meta": axes,
        "marker": {
            "color": colour,
            "size": 8,
            "symbol": [symbols.get(action.action, "circle") for _, action in marks],
            "line": {"width": 1, "color": colour},
        },
        "text": [
            f"seed {run.seed}, update {action.update}: {_escape(action.pattern)}, "
            f"{_escape(action.action)}<br>{_escape(action.reason)}"
            for run, action in marks
        ],
        "hovertemplate": "%{text}<extra></extra>",
    }


def _corners(curve: Curve) -> Curve:
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


def _sensitivity(rows: Sequence[GroupRow], metric: str, known: Sequence[str]) -> Section:
    rates = _rates_of(rows)
    section = Section(
        f"Sensitivity to the base LR: {metric}",
        "Mean over the seeds and its 95 % interval at each base LR.",
        [],
    )
    if len(rates) < 2:
        return section
    traces: list[Any] = []
    for name in known:
        at = sorted((row for row in rows if row.group.schedule == name), key=lambda r: r.group.lr)
        at = [row for row in at if row.group.arm == 0]
        if at:
            traces.append(_sensitivity_trace(name, at, known))
    layout = _layout("base LR", metric, height=340)
    layout["xaxis"] |= {"type": "log", "tickvals": rates, "ticktext": [f"{lr:g}" for lr in rates]}
    section.panels.append(Panel("all base LRs", {"data": traces, "layout": layout}))
    return section


def _sensitivity_trace(name: str, at: Sequence[GroupRow], known: Sequence[str]) -> Any:
    colour, symbol = style_of(name, known)
    bounds = [row.interval or (row.mean, row.mean) for row in at]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "legendgroup": name,
        "name": name,
        "showlegend": False,
        "x": [row.group.lr for row in at],
        "y": _rounded([row.mean for row in at]),
        "line": {"color": colour, "width": 2},
        "marker": {"symbol": symbol, "size": 10},
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": _rounded([b[1] - r.mean for b, r in zip(bounds, at, strict=True)]),
            "arrayminus": _rounded([r.mean - b[0] for b, r in zip(bounds, at, strict=True)]),
            "color": colour,
        },
        "hovertemplate": f"{_escape(name)} at %{{x}}: %{{y:.2f}}<extra></extra>",
    }


def _layout(
    x: str, y: str, *, height: int = 280, log_y: bool = False, horizontal: bool = False
) -> Figure:
    """Axes and margins. ``horizontal`` is for names on the y axis, from top to bottom."""
    y_axis: dict[str, Any] = {"title": {"text": y}, "automargin": True, "zeroline": False}
    if log_y:
        y_axis |= {"type": "log", "exponentformat": "power", "nticks": 6}
    if horizontal:
        y_axis |= {"autorange": "reversed", "type": "category"}
    return {
        "height": height,
        "margin": {"l": 56, "r": 12, "t": 8, "b": 44},
        "xaxis": {"title": {"text": x}, "zeroline": False, "nticks": 6},
        "yaxis": y_axis,
        "hovermode": "closest",
        "showlegend": False,
    }


def _rounded(values: Iterable[float | None]) -> list[float | None]:
    return [None if value is None else float(f"{value:.5g}") for value in values]


def _transparent(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.15)"


def _escape(text: str) -> str:
    """For plotly, which reads a little HTML in labels and templates."""
    plain = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return plain.replace("%{", "% {")
