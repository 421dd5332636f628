"""Figure data for the page: as the JSON that plotly.js draws.

Colours of text and grid are left out: the page sets them, for light and dark.
"""

import math
from collections.abc import Sequence
from typing import Any

from toolkit.report.figure_data.panels import MOST_TICKS, Axis, Panel, Series, rounded
from toolkit.report.marks import UNDECIDED


def figure(panel: Panel) -> dict[str, Any]:
    """Data and layout of a panel."""
    layout: dict[str, Any] = {
        "height": panel.height,
        "margin": {"l": 56, "r": 12, "t": 8, "b": 44},
        "xaxis": {**_axis(panel.x), "nticks": MOST_TICKS},
        "yaxis": {**_axis(panel.y), "automargin": True},
        "hovermode": "closest",
        "showlegend": False,
    }
    if panel.ropes:
        boxes = [_rope(place, rope) for place, rope in enumerate(panel.ropes)]
        layout["shapes"] = [*boxes, ZERO]
    data = [trace for series in panel.series for trace in _traces(series, panel.y.categories)]
    return {"data": data, "layout": layout}


STEPS = {"": "linear", "after": "hv", "before": "vh"}
ZERO = {
    **{"type": "line", "x0": 0.0, "x1": 0.0, "yref": "paper", "y0": 0, "y1": 1},
    **{"layer": "below", "line": {"color": UNDECIDED, "width": 1}},
}


def _rope(place: int, rope: float) -> dict[str, Any]:
    """A box from -rope to rope around a category."""
    box = {"x0": -rope, "x1": rope, "y0": place - 0.4, "y1": place + 0.4}
    filled = {"fillcolor": transparent(UNDECIDED, 0.25), "line": {"width": 0}}
    return {"type": "rect", "layer": "below", **box, **filled}


def _axis(axis: Axis) -> dict[str, Any]:
    found: dict[str, Any] = {"title": {"text": escape(axis.title)}, "zeroline": False}
    if axis.log:
        found["type"] = "log"
    if axis.ticks:
        found |= {"tickvals": list(axis.ticks), "ticktext": [f"{tick:g}" for tick in axis.ticks]}
    if axis.limits:
        limits = map(math.log10, axis.limits) if axis.log else axis.limits
        found["range"] = rounded(limits)
    if axis.categories:
        found |= {"autorange": "reversed", "type": "category"}
    return found


def trace_defaults(series: Series) -> dict[str, Any]:
    """What all traces of a series have; by the group the page's legend switches them."""
    name = series.name
    return {"type": "scatter", "legendgroup": name, "name": name, "showlegend": False}


def _traces(series: Series, horizontal: bool) -> list[dict[str, Any]]:
    """The band, if there is one, and the points."""
    line = {"width": series.width, "color": series.mark.colour, "shape": STEPS[series.steps]}
    if series.mark.dash:
        line["dash"] = ",".join(f"{length}px" for length in series.mark.dash)
    modes = ["lines"] * bool(series.width) + ["markers"] * bool(series.size)
    points = {**trace_defaults(series), "mode": "+".join(modes), **_hover(series)}
    points |= {"x": list(series.x), "y": list(series.y), "line": line, "opacity": series.opacity}
    if series.clocks:
        points["meta"] = series.clocks
    if series.size:
        symbol = series.mark.symbol.plotly + ("" if series.filled else "-open")
        points["marker"] = {"color": series.mark.colour, "size": series.size, "symbol": symbol}
    if series.bounds is None:
        return [points]
    if series.size:
        return [{**points, "error_x" if horizontal else "error_y": _bars(series, horizontal)}]
    return [_band(series), points]


def _bars(series: Series, horizontal: bool) -> dict[str, Any]:
    assert series.bounds is not None
    low, high = series.bounds
    middle = series.x if horizontal else series.y
    style = {"color": series.mark.colour, "thickness": 2, "width": 6}
    above = rounded(b - a for a, b in zip(middle, high, strict=True))
    below = rounded(a - b for a, b in zip(middle, low, strict=True))
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, **style}


def _band(series: Series) -> dict[str, Any]:
    """The area between the bounds as one outline: along the highest, back along the lowest."""
    assert series.bounds is not None
    low, high = map(list, series.bounds)

    def there_and_back(values: Sequence[Any]) -> list[Any]:
        return [*values, *values[::-1]]

    band = {
        **trace_defaults(series),
        "mode": "lines",
        "x": there_and_back(series.x),
        "y": rounded(high + low[::-1]),
        "fill": "toself",
        "fillcolor": transparent(series.mark.colour, 0.08 if series.steps else 0.15),
        "line": {"width": 0, "shape": STEPS[series.steps]},
        "hoverinfo": "skip",
    }
    if series.clocks:
        band["meta"] = {name: there_and_back(values) for name, values in series.clocks.items()}
    return band


def _hover(series: Series) -> dict[str, Any]:
    """The template of the hover text; texts that differ from point to point are data beside it."""
    if not series.hover_text:
        return {"hoverinfo": "skip"}
    if isinstance(series.hover_text, str):
        value = f": %{{y:{series.hover_format}}}" if series.hover_format else ""
        return {"hovertemplate": f"{escape(series.hover_text)}{value}<extra></extra>"}
    texts = [escape(text).replace("\n", "<br>") for text in series.hover_text]
    return {"text": texts, "hovertemplate": "%{text}<extra></extra>"}


def transparent(colour: str, share: float) -> str:
    """A colour with so much of its opacity."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{share:g})"


def escape(text: str) -> str:
    """For plotly, which reads a little HTML in labels and templates."""
    plain = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return plain.replace("%{", "% {")
