"""What came out: differences, final metrics, sensitivity to the LR, profiles, cost of tuning."""

from collections.abc import Sequence
from typing import Any

from toolkit.report.html.panels import (
    Figure,
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
from toolkit.report.numbers.aggregate import Overall, Race
from toolkit.report.numbers.analyse import Analysis, ContrastRow, GroupRow
from toolkit.report.numbers.rates import RateRow
from toolkit.report.text import contrast_label, metric_of, pair_label
from toolkit.stats import Estimate

VERDICT_COLOURS = {"better": "#1a7f37", "worse": "#b42318", "equivalent": "#0072b2"}
UNDECIDED = "#7f8a94"
ROW = 26
"""Pixels of a row of the differences."""


def differences(analysis: Analysis) -> Section:
    """The primary family with its intervals, a panel a pair."""
    panels = []
    for pair in dict.fromkeys(row.pair for row in analysis.family):
        rows = [row for row in analysis.family if row.pair == pair and row.judged]
        if not rows:
            continue
        title = f"difference in {metric_of(analysis, pair)}"
        figure = layout(title, "", height=90 + ROW * len(rows), horizontal=True)
        figure["shapes"] = [_rope(i, row.rope) for i, row in enumerate(rows)] + [
            {**_vertical(0.0), "line": {"color": UNDECIDED, "width": 1}}
        ]
        traces = [_difference(row) for row in rows]
        panels.append(Panel(pair_label(pair), {"data": traces, "layout": figure}))
    caption = (
        "Candidate minus baseline with its 95 % interval: right of the line the candidate scores "
        "higher. The grey box is the ROPE: differences inside do not matter in practice."
    )
    return Section("The differences", caption, panels)


def _difference(row: ContrastRow) -> Any:
    assert row.judged is not None
    paired, verdict = row.judged.paired, row.judged.verdict
    colour = VERDICT_COLOURS.get(verdict, UNDECIDED)
    label = f"{contrast_label(row)}, LR {row.lr:g}"
    said = f"{paired.mean:+.2f}, {paired.low:+.2f} to {paired.high:+.2f}: {verdict}"
    return {
        **{"type": "scatter", "mode": "markers", "legendgroup": "", "showlegend": False},
        "x": rounded([paired.mean]),
        "y": [label],
        "marker": {"color": colour, "size": 9},
        "error_x": _error(paired.mean, paired.low, paired.high, colour),
        "hovertemplate": f"{escape(label)}: {said}<extra></extra>",
    }


def _rope(place: int, rope: float) -> Figure:
    box = {"x0": -rope, "x1": rope, "y0": place - 0.4, "y1": place + 0.4}
    filled = {"fillcolor": "rgba(127,138,148,0.25)", "line": {"width": 0}}
    return {"type": "rect", "layer": "below", **box, **filled}


def _vertical(x: float) -> Figure:
    return {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "layer": "below"}


def final(rows: Sequence[GroupRow], metric: str, known: Sequence[str]) -> Section:
    """Every seed's test metric, and means with intervals, a panel a base LR."""
    panels = []
    for lr in rates_of(rows):
        traces: list[Any] = []
        for row in ordered(rows, lr, known):
            traces += _dots(row, known)
        figure = layout(metric, "", height=100 + 34 * len(traces) // 2, horizontal=True)
        panels.append(Panel(f"base LR {lr:g}", {"data": traces, "layout": figure}))
    caption = "Each small mark is a seed; the large mark is their mean, the bar its 95 % interval."
    return Section(f"Final {metric} on the test split", caption, panels)


def _dots(row: GroupRow, known: Sequence[str]) -> list[Any]:
    colour, symbol = style_of(row.group.schedule, known)
    common = {**shared(row.group.schedule, row.group.arm), "mode": "markers"}
    label = common["name"]
    low, high = row.interval or (row.mean, row.mean)
    return [
        {
            **common,
            "x": rounded(row.scores.values()),
            "y": [label] * len(row.scores),
            "customdata": list(row.scores),
            "hovertemplate": f"{escape(label)}, seed %{{customdata}}: %{{x:.2f}}<extra></extra>",
            "marker": {"color": colour, "symbol": f"{symbol}-open", "size": 8, "opacity": 0.75},
        },
        {
            **common,
            "x": rounded([row.mean]),
            "y": [label],
            "hovertemplate": (
                f"{escape(label)}: mean %{{x:.2f}}, {low:.2f} to {high:.2f}<extra></extra>"
            ),
            "marker": {"color": colour, "symbol": symbol, "size": 13},
            "error_x": _error(row.mean, low, high, colour),
        },
    ]


def sensitivity(
    rows: Sequence[GroupRow], grids: Sequence[RateRow], metric: str, known: Sequence[str]
) -> Section:
    """The test metric against the base LR, and what it costs to tune it.

    Args:
        rows: the groups of a pair.
        grids: its schedules over three base LRs or more.
        metric: its headline metric.
        known: the schedules of the report.
    """
    rates = rates_of(rows)
    panels = []
    if len(rates) > 1:
        at = {
            name: [r for lr in rates for r in ordered(rows, lr, known) if r.group[2:] == (name, 0)]
            for name in known
        }
        traces = [_sensitivity_trace(name, found, known) for name, found in at.items() if found]
        figure = layout("base LR", metric, height=340)
        figure["xaxis"] |= {"type": "log", "tickvals": rates, "ticktext": [f"{r:g}" for r in rates]}
        panels.append(Panel(f"{metric} by base LR", {"data": traces, "layout": figure}))
    if grids:
        traces = [_tuning_trace(grid, known) for grid in grids]
        figure = layout("base LRs tried", f"expected {metric}", height=340)
        tries = sorted({k for grid in grids for k in grid.tuning.tries})
        figure["xaxis"] |= {"type": "log", "tickvals": tries, "ticktext": list(map(str, tries))}
        panels.append(Panel("cost of tuning", {"data": traces, "layout": figure}))
    caption = "Left: mean over the seeds and its 95 % interval at each base LR."
    if grids:
        caption += (
            " Right: expected test score after trying so many base LRs of the grid at random and "
            "keeping the one that is best in validation."
        )
    return Section("Sensitivity to the base LR", caption, panels)


def _sensitivity_trace(name: str, at: Sequence[GroupRow], known: Sequence[str]) -> Any:
    means = [row.mean for row in at]
    bounds = [row.interval or (row.mean, row.mean) for row in at]
    estimates = [Estimate(m, *b) for m, b in zip(means, bounds, strict=True)]
    return _line(name, [row.group.lr for row in at], estimates, known)


def _tuning_trace(grid: RateRow, known: Sequence[str]) -> Any:
    return _line(grid.schedule, list(grid.tuning.tries), grid.tuning.scores, known)


def _line(
    name: str, x: Sequence[float], estimates: Sequence[Estimate], known: Sequence[str]
) -> Any:
    colour, symbol = style_of(name, known)
    return {
        **shared(name),
        "mode": "lines+markers",
        "x": list(x),
        "y": rounded([each.value for each in estimates]),
        "line": {"color": colour, "width": 2},
        "marker": {"symbol": symbol, "size": 10},
        "error_y": {
            **{"type": "data", "symmetric": False, "color": colour},
            "array": rounded([each.high - each.value for each in estimates]),
            "arrayminus": rounded([each.value - each.low for each in estimates]),
        },
        "hovertemplate": f"{escape(name)} at %{{x}}: %{{y:.2f}}<extra></extra>",
    }


def profiles(overall: Overall, known: Sequence[str]) -> Section:
    """The performance profiles, by updates and by training seconds."""
    races = {"in updates": overall.updates, "in training seconds": overall.seconds}
    panels = [
        Panel(title, _profile(race, overall.schedules, known))
        for title, race in races.items()
        if race is not None
    ]
    caption = (
        f"Share of the {len(overall.problems)} problems (pairs at a base LR) on which a schedule "
        "reaches the target within so many times the least effort of all; higher and further left "
        f"is better. The target is the validation score of {overall.reference} at its best base "
        "LR. The bands are 95 % bootstrap intervals."
    )
    return Section(
        "Who reaches the target first: performance profile", caption, panels, legend=True
    )


def _profile(race: Race, schedules: Sequence[str], known: Sequence[str]) -> Figure:
    found, traces = race.profile, []
    for i, name in enumerate(schedules):
        colour, _ = style_of(name, known)
        taus, score = rounded(found.taus), found.scores[i]
        low, high = rounded(found.low[i]), rounded(found.high[i])
        said = f"area {score.value:.2f} ({score.low:.2f} to {score.high:.2f})"
        step = {"shape": "hv"}
        traces += [
            {
                **shared(name),
                **{"mode": "lines", "x": taus + taus[::-1], "y": high + low[::-1]},
                **{"fill": "toself", "fillcolor": transparent(colour, 0.08)},
                **{"line": {"width": 0, **step}, "hoverinfo": "skip"},
            },
            {
                **shared(name),
                **{"mode": "lines", "x": taus, "y": rounded(found.shares[i])},
                "line": {"color": colour, "width": 2, **step},
                "hovertemplate": f"{escape(name)}: %{{y:.2f}} within %{{x:.2f}}; {said}"
                "<extra></extra>",
            },
        ]
    figure = layout("times the least effort", "share of problems", height=320)
    figure["yaxis"]["range"] = [-0.03, 1.03]
    return {"data": traces, "layout": figure}


def _error(mean: float, low: float, high: float, colour: str) -> Figure:
    return {
        **{"type": "data", "symmetric": False, "color": colour, "thickness": 2, "width": 6},
        "array": rounded([high - mean]),
        "arrayminus": rounded([mean - low]),
    }
