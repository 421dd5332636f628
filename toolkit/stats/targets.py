"""How soon a target is reached: misses are infinite, nothing is left out.

The profile and its score are those of AlgoPerf (Dahl et al. 2023, *Benchmarking neural network
training algorithms*, section 4.5; after Dolan and More 2002), with intervals.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from toolkit.stats.bootstrap import Cells, Estimate, bounds, estimate, resample

WORST_RATIO = 4.0
"""A schedule slower than the fastest by more than this counts like one that never arrives."""
TAUS = np.linspace(1.0, WORST_RATIO, 61)


@dataclass(frozen=True)
class Profile:
    """Performance profile of several schedules.

    Attributes:
        taus: time ratios to the fastest schedule, 1 to 4, shape (taus,).
        shares: share of the problems that each schedule solves within tau times the least time,
            shape (schedules, taus).
        low, high: their pointwise 95 % intervals, same shape.
        scores: for each schedule the area below its profile, 1 at best, 0 at worst; exact.
        times: median time over the seeds, shape (schedules, problems).
    """

    taus: np.ndarray
    shares: np.ndarray
    low: np.ndarray
    high: np.ndarray
    scores: list[Estimate]
    times: np.ndarray


@dataclass(frozen=True)
class Speedup:
    """Geometric mean over problems and seeds of baseline time / candidate time.

    Attributes:
        ratio: with its interval; above 1 is faster.
        candidate_misses, baseline_misses: runs that never reached the target. They count as if
            they had reached it at the end of their budget, so the ratio is too kind to them.
        runs: pairs of runs.
    """

    ratio: Estimate
    candidate_misses: int
    baseline_misses: int
    runs: int


def first_reaching(
    values: Sequence[float], at: Sequence[float], target: float, higher_is_better: bool = True
) -> float:
    """The first place at which a value is the target or better; infinity for a miss.

    Args:
        values: scores over a run, shape (evaluations,).
        at: their places, in any unit of time, ascending, same shape.
        target: the score to reach.
        higher_is_better: the direction of the scores.
    """
    sign = 1 if higher_is_better else -1
    reached = (x for x, v in zip(at, values, strict=True) if sign * v >= sign * target)
    return next(reached, float("inf"))


def profile(cells: Cells) -> Profile:
    """The performance profile: rho_s(tau), the share of problems p with t_sp <= tau * min_s t_sp.

    Args:
        cells: for each problem the times to the target, shape (schedules, seeds), infinite for
            misses. A problem's time is the median over its seeds.
    """
    low, high = bounds(_shares(resample(cells)))
    scores = estimate(_scores, cells)
    return Profile(TAUS, _shares(cells), low, high, scores, _medians(cells))


def speedup(times: Cells, budgets: Cells, candidate: int, baseline: int) -> Speedup:
    """The geometric-mean speed-up: exp(mean(log t_baseline - log t_candidate)) over all runs.

    Args:
        times: for each problem the times to the target, shape (schedules, seeds), infinite for
            misses.
        budgets: the whole time of each run, same shapes: what a miss counts as.
        candidate, baseline: rows of the two schedules.
    """
    two = [candidate, baseline]
    filled = [np.where(np.isfinite(t), t, b) for t, b in zip(times, budgets, strict=True)]
    missed = np.concatenate([np.isinf(cell[two]) for cell in times], axis=-1)

    def ratio(cells: Cells) -> np.ndarray:
        logs = np.log(np.concatenate(cells, axis=-1))
        gain = logs[..., 1, :] - logs[..., 0, :]
        return np.asarray(np.exp(gain.mean(axis=-1, keepdims=True)))

    found = estimate(ratio, [cell[two] for cell in filled])[0]
    return Speedup(found, int(missed[0].sum()), int(missed[1].sum()), missed.shape[-1])


def _medians(cells: Cells) -> np.ndarray:
    """Shape (..., schedules, problems)."""
    return np.stack([np.median(cell, axis=-1) for cell in cells], axis=-1)


def _ratios(cells: Cells) -> np.ndarray:
    """Times relative to the fastest schedule of each problem; infinite where nobody arrives."""
    medians = _medians(cells)
    fastest = medians.min(axis=-2, keepdims=True)
    arrived = np.isfinite(medians)
    ratios = np.full(medians.shape, np.inf)
    np.divide(medians, fastest, out=ratios, where=arrived)
    return ratios


def _shares(cells: Cells) -> np.ndarray:
    """Shape (..., schedules, taus)."""
    ratios = _ratios(cells)
    # One tau at a time: with many problems all of them would not fit into memory.
    return np.stack([(ratios <= tau + 1e-12).mean(axis=-1) for tau in TAUS], axis=-1)


def _scores(cells: Cells) -> np.ndarray:
    """The exact integral of the step function over tau / (4 - 1), shape (..., schedules)."""
    ratios = np.minimum(_ratios(cells), WORST_RATIO)
    scores: np.ndarray = ((WORST_RATIO - ratios) / (WORST_RATIO - 1)).mean(axis=-1)
    return scores
