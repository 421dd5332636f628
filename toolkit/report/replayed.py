"""The figure of a replay: losses and, below them, the LR with the decisions."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")
from matplotlib import pyplot as plt

from toolkit.report.figures import STYLE

MARKS = {
    "raise": ("^", "#009e73"),
    "cut": ("v", "#d55e00"),
    "rollback": ("<", "#b2182b"),
    "restore": ("<", "#7f7f7f"),
    "trial": ("x", "#56b4e9"),
    "snapshot": (".", "#7f7f7f"),
    "anneal": ("s", "#0072b2"),
}
"""Marker and colour of each action but hold."""


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
        _losses(above, events)
        _rates(below, events)
        if hypothetical is not None:
            for axis in (above, below):
                axis.axvspan(hypothetical, events[-1]["update"], color="0.93", zorder=0)
            above.set_title("hypothetical where grey", fontsize=8, loc="right", color="0.4")
        figure.suptitle(title, fontsize=9)
        metadata: dict[str, Any] = {} if file.suffix == ".png" else {"CreationDate": None}
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else metadata)
        plt.close(figure)


def _losses(axis: Any, events: Sequence[Mapping[str, Any]]) -> None:
    updates = [event["update"] for event in events]
    losses = [math.nan if event["loss"] is None else event["loss"] for event in events]
    axis.plot(updates, losses, color="#0072b2", linewidth=0.8)
    lost = [event["update"] for event in events if event["nonfinite"]]
    if lost:
        axis.plot(
            lost,
            [0.02] * len(lost),
            "x",
            color="#b2182b",
            markersize=4,
            transform=axis.get_xaxis_transform(),
            label="not finite",
        )
        axis.legend(frameon=False, fontsize=8)
    if all(loss > 0 for loss in losses if loss == loss):
        axis.set_yscale("log")
    axis.set_ylabel("training loss")


def _rates(axis: Any, events: Sequence[Mapping[str, Any]]) -> None:
    axis.plot(
        [event["update"] for event in events],
        [event["lr"] for event in events],
        color="0.2",
        linewidth=1,
        drawstyle="steps-pre",
    )
    for action, (marker, colour) in MARKS.items():
        at = [event for event in events if event["action"] == action]
        if at:
            axis.plot(
                [event["update"] for event in at],
                [event["lr"] for event in at],
                marker,
                color=colour,
                markersize=5,
                label=f"{action} ({len(at)})",
            )
    if axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False, fontsize=8)
    if any(event["lr"] > 0 for event in events):
        axis.set_yscale("log")
    axis.set_ylabel("learning rate")
    axis.set_xlabel("update")
