"""The picture of docs/explanation/adaptive.md: LR and loss of one run, from its events.

usage: adaptive_run.py RUN [docs/images/adaptive-run.png], e.g. after
    toolkit train digits/vit_micro adaptive --lr 1e-5 --updates 400
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

BLUE, ORANGE, GREY = "#1f5fa8", "#b3540b", "#6b6b6b"
WINDOW = 15
"""Updates over which the loss after the search is averaged."""


def main(run: Path, picture: Path) -> None:
    """Draw ``events.jsonl`` of a run."""
    mpl.use("agg")
    readings = [
        event
        for event in map(json.loads, (run / "events.jsonl").read_text().splitlines())
        if "loss" in event and "kind" not in event
    ]
    ended = next(event["update"] for event in readings if event["action"] == "restore")
    figure, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(9, 5.6), height_ratios=(3, 2))
    _draw_rates(above, readings, ended)
    _draw_losses(below, readings, ended)
    figure.tight_layout()
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=130)


def _draw_rates(axes: Any, readings: list[dict[str, Any]], ended: int) -> None:
    """The LR of each update; the trials apart from the run."""
    search = [event for event in readings if event["update"] <= ended]
    rest = [event for event in readings if event["update"] > ended]
    axes.scatter(_of(search, "update"), _of(search, "lr"), s=9, color=ORANGE, label="trials")
    axes.plot(_of(rest, "update"), _of(rest, "lr"), color=BLUE, label="the run")
    grown = [event for event in rest if event["action"] == "raise"]
    axes.scatter(
        _of(grown, "update"), _of(grown, "lr"), s=16, marker="^", color=BLUE, label="the LR grows"
    )
    axes.set_yscale("log")
    axes.set_ylabel("learning rate")
    axes.legend(loc="lower right", frameon=False)
    axes.axvline(ended, color=GREY, linewidth=0.8, linestyle=":")
    axes.annotate(
        f"{ended} updates of search",
        (ended, axes.get_ylim()[1]),
        xytext=(6, -14),
        textcoords="offset points",
        color=GREY,
    )


def _draw_losses(axes: Any, readings: list[dict[str, Any]], ended: int) -> None:
    """The loss of each update, and its mean over the last few."""
    search = [event for event in readings if event["update"] <= ended]
    rest = [event for event in readings if event["update"] > ended]
    losses = _of(rest, "loss")
    means = [
        sum(losses[max(0, i - WINDOW) : i + 1]) / len(losses[max(0, i - WINDOW) : i + 1])
        for i in range(len(losses))
    ]
    highest = 1.5 * max(losses[:WINDOW])
    shown = [min(loss, highest) for loss in _of(search, "loss")]
    axes.scatter(_of(search, "update"), shown, s=9, color=ORANGE)
    axes.plot(_of(rest, "update"), losses, color=BLUE, alpha=0.25, linewidth=0.8)
    axes.plot(_of(rest, "update"), means, color=BLUE)
    axes.set_ylim(0, highest * 1.05)
    axes.set_ylabel("training loss")
    axes.set_xlabel("update")
    axes.axvline(ended, color=GREY, linewidth=0.8, linestyle=":")


def _of(events: list[dict[str, Any]], field: str) -> list[float]:
    return [event[field] for event in events]


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        Path(sys.argv[2] if len(sys.argv) > 2 else "docs/images/adaptive-run.png"),
    )
