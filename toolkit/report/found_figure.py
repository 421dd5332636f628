"""The picture of a search for an LR: the loss after each trial over its LR."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")
from matplotlib import pyplot as plt

from toolkit.report.figures import STYLE
from toolkit.schedules.reading import Trial

BLUE, RED, GREEN = "#0072b2", "#c33c2d", "#009669"


def write_figure(file: Path, trials: Sequence[Trial], edge: float, lr: float, title: str) -> None:
    """Write the picture, in the format that the file's name ends in.

    Args:
        file: where to.
        trials: at least one.
        edge: the smallest LR that does harm.
        lr: the one that is recommended.
        title: what stands above it.
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(5.5, 3.2), layout="constrained")
        _draw(axes, trials)
        axes.axvline(edge, color=RED, linewidth=1, label=f"edge {edge:.3g}")
        axes.axvline(lr, color=GREEN, linewidth=1.6, label=f"cosine, linear: {lr:.3g}")
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss after the trial")
        axes.legend(fontsize=7, frameon=False)
        axes.set_title(title.replace("$", r"\$"), fontsize=9)
        metadata: dict[str, Any] = {} if file.suffix == ".png" else {"CreationDate": None}
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else metadata)
        plt.close(figure)


def _draw(axes: Any, trials: Sequence[Trial]) -> None:
    """The trials; where a loss was not finite, or far above, a mark stands at the upper end."""
    first = next((t.first_loss for t in trials if t.first_loss is not None), 0.0)
    known = [t.last_loss for t in trials if t.last_loss is not None]
    low = min([first, *known])
    top = first + max(2 * abs(first), first - low)
    for harmful, colour, mark in ((False, BLUE, "o"), (True, RED, "x")):
        some = [t for t in trials if t.harmful == harmful]
        losses = [top if t.last_loss is None else min(top, t.last_loss) for t in some]
        label = "harmful" if harmful else "harmless"
        axes.plot([t.lr for t in some], losses, mark, color=colour, label=label)
    axes.axhline(first, color="0.6", linewidth=0.8, linestyle=":", label="loss before")
    if any(t.last_loss is None or t.last_loss >= top for t in trials):
        axes.set_ylabel("loss after the trial; top: more, or not finite")
