"""Intervals by resampling seeds, the same for all schedules: the pairing is kept.

Data are *cells*: for each problem (a pair of model and data set) one array of shape (schedules,
seeds). Problems may have different numbers of seeds. A resample draws seeds with replacement
within each problem and takes the drawn column for every schedule.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from toolkit.stats.paired import ALPHA, RESAMPLES, SEED

Cells = Sequence[np.ndarray]
Statistic = Callable[[Cells], np.ndarray]
"""Of cells with shapes (..., schedules, seeds), over the last two axes and all problems."""


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % percentile interval by the paired bootstrap."""

    value: float
    low: float
    high: float


def estimate(statistic: Statistic, cells: Cells) -> list[Estimate]:
    """A statistic with its 95 % percentile intervals.

    Args:
        statistic: of cells with shapes (..., schedules, seeds); returns shape (..., k).
        cells: the data, each of shape (schedules, seeds). Infinite values are allowed: quantiles
            are order statistics, nothing is interpolated.

    Returns:
        k estimates.
    """
    values = np.atleast_1d(statistic(cells))
    low, high = bounds(statistic(resample(cells)))
    return [Estimate(*map(float, one)) for one in zip(values, low, high, strict=True)]


def bounds(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % percentile interval over the first axis."""
    low, high = np.quantile(draws, [ALPHA / 2, 1 - ALPHA / 2], axis=0, method="inverted_cdf")
    return low, high


def resample(cells: Cells, resamples: int = RESAMPLES) -> list[np.ndarray]:
    """Each cell with drawn seeds, shape (resamples, schedules, seeds); equal on every call."""
    generator = np.random.default_rng(SEED)
    drawn = []
    for cell in cells:
        seeds = cell.shape[-1]
        chosen = generator.integers(seeds, size=(resamples, seeds))
        drawn.append(np.moveaxis(cell[:, chosen], 1, 0))
    return drawn


def iqm(cells: Cells) -> np.ndarray:
    """Interquartile mean over all runs of each schedule.

    The mean without the lowest and the highest quarter (Agarwal et al. 2021, *Deep reinforcement
    learning at the edge of the statistical precipice*), in units of the score.

    Args:
        cells: for each problem the scores, shape (..., schedules, seeds).

    Returns:
        Shape (..., schedules).
    """
    mean: np.ndarray = stats.trim_mean(np.concatenate(cells, axis=-1), 0.25, axis=-1)
    return mean


def iqms(cells: Cells) -> list[Estimate]:
    """The interquartile mean of every schedule."""
    return estimate(iqm, cells)


def iqm_difference(cells: Cells, candidate: int, baseline: int) -> Estimate:
    """Interquartile mean of one schedule minus that of another, both of each resample.

    Resampling the two apart, as is common, would lose the pairing and widen the interval.

    Args:
        cells: for each problem the scores, shape (schedules, seeds).
        candidate, baseline: rows of the two schedules.
    """

    def difference(drawn: Cells) -> np.ndarray:
        means = iqm(drawn)
        gap: np.ndarray = means[..., [candidate]] - means[..., [baseline]]
        return gap

    return estimate(difference, cells)[0]
