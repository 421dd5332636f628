"""How the numbers of a metric are to be read: their direction, their worst, the headline."""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Scale(NamedTuple):
    """How the numbers of a metric are to be read.

    Attributes:
        higher_is_better: its direction; False for an error, a loss or a perplexity.
        diverged: what a run counts with whose weights were lost: as good as no training at all,
            e.g. 0 for an accuracy, the size of the vocabulary for a perplexity.
        decimals: digits after the point in reports.
    """

    higher_is_better: bool = True
    diverged: float = 0.0
    decimals: int = 2

    def best(self, values: Iterable[float]) -> float:
        """The best of one value or more."""
        return max(values) if self.higher_is_better else min(values)

    def worst(self, values: Iterable[float]) -> float:
        """The worst of one value or more."""
        return min(values) if self.higher_is_better else max(values)


POINTS = Scale()
"""A score in per cent. Whatever a task does not declare is read as one, but for a loss."""
LOSS = "loss"
"""The metric that is the mean of the losses of ``Task.predict``."""


def loss_of_classes(classes: int) -> Scale:
    """How a cross-entropy over so many classes is read: no training is as good as guessing."""
    return Scale(False, math.log(classes), 4)


def scale_of(scales: Mapping[str, Scale], metric: str) -> Scale:
    """How a metric is to be read, by what the task declares, if it does."""
    return scales.get(metric, Scale(False, math.inf, 4) if metric == LOSS else POINTS)


def headline_first(
    metrics: Mapping[str, float | None], headline: str | None
) -> dict[str, float | None]:
    """The metrics with this one first; as they are for None.

    Raises:
        ValueError: if they lack it.
    """
    if headline is None:
        return dict(metrics)
    if headline not in metrics:
        raise ValueError(f"{headline}, the headline metric, is not in {', '.join(metrics)}")
    return {headline: metrics[headline], **metrics}
