"""How schedules depend on the base LR: sensitivity, cost of tuning, choice of a tuning half."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from toolkit import stats
from toolkit.report.numbers.aggregate import Members
from toolkit.report.numbers.runs import RunRecord, scale_of_all
from toolkit.scales import POINTS, Scale

LEAST_RATES = 3


@dataclass(frozen=True)
class RateRow:
    """A schedule on a pair over a grid of base LRs.

    Attributes:
        pair, schedule: which.
        seeds: the seeds that all its base LRs have.
        sensitivity: the curve and its summary; the tolerance is the ROPE.
        tuning: expected test score after so many random tries, chosen by validation.
        scale: how the scores are to be read.
    """

    pair: str
    schedule: str
    seeds: tuple[int, ...]
    sensitivity: stats.Sensitivity
    tuning: stats.TuningCost
    scale: Scale = POINTS


@dataclass(frozen=True)
class TunedRow:
    """The base LR that a tuning half chose.

    Attributes:
        lr: the one with the best mean validation score at the last update.
        validation: that mean.
        interior: whether it lies inside the grid; if not, the grid must be widened.
        scale: how the scores are to be read.
    """

    pair: str
    schedule: str
    lr: float
    validation: float
    interior: bool
    scale: Scale = POINTS


def rate_rows(members: Members, ropes: Mapping[str, float | None]) -> list[RateRow]:
    """How the test metric of every schedule depends on the base LR.

    Args:
        members: the runs of every group.
        ropes: the ROPE of each pair, in units of the metric; None if nobody declared one.

    Returns:
        One row for each schedule and pair with three base LRs or more and a seed in common.
    """
    rows = []
    for (pair, schedule), by_rate in _grids(members).items():
        seeds = _common(by_rate)
        if len(by_rate) < LEAST_RATES or not seeds:
            continue
        rates = sorted(by_rate)
        test, validation = (
            np.array([[getattr(by_rate[lr][seed], name) for seed in seeds] for lr in rates])
            for name in ("score", "validation_score")
        )
        scale = _scale_of(by_rate)
        rises = scale.higher_is_better
        sensitivity = stats.sensitivity(rates, test, ropes[pair], rises)
        tuning = stats.tuning_cost(validation, test, higher_is_better=rises)
        rows.append(RateRow(pair, schedule, seeds, sensitivity, tuning, scale))
    return rows


def tuned_rows(members: Members) -> list[TunedRow]:
    """One row for each schedule and pair of a tuning half."""
    rows = []
    for (pair, schedule), by_rate in _grids(members).items():
        seeds = _common(by_rate)
        if not seeds:
            continue
        rates = sorted(by_rate)
        validation = np.array([[by_rate[lr][s].validation_score for s in seeds] for lr in rates])
        scale = _scale_of(by_rate)
        lr, interior = stats.best_rate(rates, validation, scale.higher_is_better)
        best = float(validation[rates.index(lr)].mean())
        rows.append(TunedRow(pair, schedule, lr, best, interior, scale))
    return rows


def _scale_of(by_rate: Mapping[float, Mapping[int, RunRecord]]) -> Scale:
    return scale_of_all(run for runs in by_rate.values() for run in runs.values())


def _grids(members: Members) -> dict[tuple[str, str], dict[float, dict[int, RunRecord]]]:
    grids: dict[tuple[str, str], dict[float, dict[int, RunRecord]]] = defaultdict(dict)
    for group, runs in members.items():
        if group.arm == 0:
            grids[group.pair, group.schedule][group.lr] = {run.seed: run for run in runs}
    return grids


def _common(by_rate: Mapping[float, Mapping[int, RunRecord]]) -> tuple[int, ...]:
    return tuple(sorted(set.intersection(*(set(runs) for runs in by_rate.values()))))
