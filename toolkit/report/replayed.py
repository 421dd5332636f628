"""The figure of a replay: losses and, below them, the LR with the decisions."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")
from matplotlib import pyplot as plt

from toolkit.report.figure_data.panels import Axis, Panel, Series
from toolkit.report.figures import STYLE, draw
from toolkit.report.marks import CIRCLE, CROSS, DECISIONS, DIAMOND, TALL, Mark, X

COLOURS = {"raise": "#009669", "cut": "#c33c2d", "rollback": "#961eff", "restore": "#787878"}
COLOURS |= {"trial": "#5a87ff", "snapshot": "#787878", "anneal": "#0072b2"}
"""Of each action but hold."""
SYMBOLS = {**DECISIONS, "snapshot": TALL, "anneal": DIAMOND, "judge": CROSS}


def write_figure(
    file: Path, events: Sequence[Mapping[str, Any]], title: str, hypothetical: int | None
) -> None:
    """Write the figure, in the format that the file's name ends in.

    Args:
        file: where to.
        events: lines of ``events.jsonl``, at least one.
        title: what stands above it.
        hypothetical: the update from which on the decisions are; None if they are real.
    """
    with plt.rc_context(STYLE):
        figure, (above, below) = plt.subplots(
            2, 1, sharex=True, figsize=(7, 4.6), layout="constrained"
        )
        draw(above, _losses(events))
        draw(below, _rates(events))
        if hypothetical is not None:
            for axes in (above, below):
                axes.axvspan(hypothetical, events[-1]["update"], color="0.93", zorder=0)
            above.set_title("hypothetical where grey", fontsize=8, loc="right", color="0.4")
        figure.suptitle(title, fontsize=9)
        metadata: dict[str, Any] = {} if file.suffix == ".png" else {"CreationDate": None}
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else metadata)
        plt.close(figure)


def _losses(events: Sequence[Mapping[str, Any]]) -> Panel:
    """The training loss; readings with values that are not finite are marked at its lowest."""
    events = [event for event in events if "kind" not in event] or events
    updates = [event["update"] for event in events]
    losses = [math.nan if event["loss"] is None else event["loss"] for event in events]
    finite = [loss for loss in losses if math.isfinite(loss)]
    series = [Series("", Mark("#0072b2", CIRCLE, ()), updates, losses, width=1.3)]
    if lost := [event["update"] for event in events if event["nonfinite"]]:
        level = [min(finite, default=1.0)] * len(lost)
        series.append(Series("not finite", Mark("#c33c2d", X, ()), lost, level, size=9))
    return Panel("", series, Axis(), Axis("training loss", log=all(loss > 0 for loss in finite)))


def _rates(events: Sequence[Mapping[str, Any]]) -> Panel:
    """The LR used up to each reading, and the decisions by action."""
    by_action: dict[str, list[Mapping[str, Any]]] = {action: [] for action in COLOURS}
    for event in events:
        by_action.setdefault(event["action"], []).append(event)
    by_action.pop("hold", None)
    x, y = _places(events)
    series = [Series("", Mark("#333333", CIRCLE, ()), x, y, width=1.7, steps="before")]
    for action, some in by_action.items():
        if some:
            mark = Mark(COLOURS.get(action, "#787878"), SYMBOLS.get(action, CIRCLE), ())
            series.append(Series(f"{action} ({len(some)})", mark, *_places(some), size=11))
    return Panel("", series, Axis("update"), Axis("learning rate", log=any(y)))


def _places(events: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[float]]:
    return [event["update"] for event in events], [event["lr"] for event in events]
