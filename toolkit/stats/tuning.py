"""What the choice of the base LR costs, and what it takes to choose it.

Data are grids: one schedule's scores at several base LRs over the same seeds, shape (rates, seeds).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import comb

import numpy as np

from toolkit.stats.bootstrap import Cells, Estimate, estimate

TRIES = (1, 2, 4, 8)


@dataclass(frozen=True)
class Sensitivity:
    """How a schedule's score depends on the base LR.

    Attributes:
        rates: base LRs, ascending, shape (rates,).
        scores: mean over the seeds at each, with its interval.
        best_rate: where the mean is best.
        average: mean over the whole grid.
        loss: how much better the score at the best rate is than the average: what not tuning costs
            on this grid; never below 0.
        decades: width of the rates around the best whose mean is within the tolerance of it, in
            powers of ten; 0 if only the best is; None without a tolerance.
    """

    rates: tuple[float, ...]
    scores: list[Estimate]
    best_rate: float
    average: Estimate
    loss: Estimate
    decades: float | None


@dataclass(frozen=True)
class TuningCost:
    """Expected score after a number of random tries of the base LR.

    Attributes:
        tries: numbers of different LRs tried: 1, 2, 4, 8 as far as the grid goes, and all of it.
        scores: expected test score of the LR that was best in validation, mean over the seeds.
    """

    tries: tuple[int, ...]
    scores: list[Estimate]


def sensitivity(
    rates: Sequence[float],
    scores: np.ndarray,
    tolerance: float | None,
    higher_is_better: bool = True,
) -> Sensitivity:
    """The summary of an LR-sensitivity curve.

    Args:
        rates: base LRs, ascending, shape (rates,).
        scores: shape (rates, seeds).
        tolerance: the difference that does not matter in practice, in units of the score; None if
            nobody has said.
        higher_is_better: the direction of the score.
    """
    sign = 1 if higher_is_better else -1
    gains = sign * scores.mean(axis=1)
    best = int(gains.argmax())
    average, loss = estimate(partial(_average_and_loss, sign), [scores])
    return Sensitivity(
        rates=tuple(rates),
        scores=estimate(_means, [scores]),
        best_rate=rates[best],
        average=average,
        loss=loss,
        decades=None
        if tolerance is None
        else _decades(rates, gains >= gains[best] - tolerance, best),
    )


def tuning_cost(
    validation: np.ndarray,
    test: np.ndarray,
    tries: Sequence[int] = TRIES,
    higher_is_better: bool = True,
) -> TuningCost:
    """The expected test score after k random tries, exact over the grid.

    Tries are different LRs of the grid, all sets of k equally likely. For each seed the LR with
    the best validation score is taken (of equal ones any, equally likely) and its test score
    counts: the order statistics of Dodge et al. 2019 (*Show your work*), without replacement, as
    drawing with replacement is biased downwards (Tang et al. 2020).

    Args:
        validation, test: shape (rates, seeds).
        tries: numbers of tries; those beyond the number of rates are left out, and all rates are
            added.
        higher_is_better: the direction of both scores.
    """
    gains = validation if higher_is_better else -validation
    possible = tuple(sorted({*(k for k in tries if k < len(validation)), len(validation)}))
    chosen = np.array(
        [[_expected(v, t, k) for v, t in zip(gains.T, test.T, strict=True)] for k in possible]
    )
    return TuningCost(possible, estimate(_means, [chosen]))


def best_rate(
    rates: Sequence[float], validation: np.ndarray, higher_is_better: bool = True
) -> tuple[float, bool]:
    """The base LR with the best mean, and whether it is interior.

    Args:
        rates: base LRs, ascending, shape (rates,).
        validation: scores, shape (rates, seeds).
        higher_is_better: their direction.

    Returns:
        The rate; and whether it lies inside the grid: one at an end asks for a wider grid.
    """
    means = validation.mean(axis=1)
    best = int(means.argmax() if higher_is_better else means.argmin())
    return rates[best], 0 < best < len(rates) - 1


def _decades(rates: Sequence[float], good: np.ndarray, best: int) -> float:
    """Width of the good rates around the best, in powers of ten."""
    left = right = best
    while left > 0 and good[left - 1]:
        left -= 1
    while right < len(rates) - 1 and good[right + 1]:
        right += 1
    return float(np.log10(rates[right] / rates[left]))


def _expected(validation: np.ndarray, test: np.ndarray, k: int) -> float:
    """Mean over all sets of k rates of the test score of the set's best in validation."""
    total, below = 0.0, 0
    for value in np.unique(validation):
        level = validation == value
        upto = below + int(level.sum())
        share = (comb(upto, k) - comb(below, k)) / comb(len(validation), k)
        total += share * float(test[level].mean())
        below = upto
    return total


def _means(cells: Cells) -> np.ndarray:
    means: np.ndarray = cells[0].mean(axis=-1)
    return means


def _average_and_loss(sign: int, cells: Cells) -> np.ndarray:
    gains = sign * _means(cells)
    average = gains.mean(axis=-1)
    return np.stack([sign * average, gains.max(axis=-1) - average], axis=-1)
