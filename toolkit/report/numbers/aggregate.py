"""Numbers over several pairs: targets, profiles, speed-ups and interquartile means.

A *problem* is a pair at a base LR. Its target is the median over the seeds of the last validation
score of the study's reference schedule, at the base LR that suits it best. Times come from updates:
the seconds to an update are the run's training seconds times its share of the updates, so that
evaluations and interruptions count for nobody.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from toolkit import stats
from toolkit.report.numbers.runs import Group, RunRecord, scale_of_all
from toolkit.scales import POINTS, Scale

Members = Mapping[Group, Sequence[RunRecord]]
"""The runs of every group, by seed."""
Problem = tuple[str, float]
"""Pair and base LR."""


@dataclass(frozen=True)
class TargetRow:
    """How soon a schedule reaches the target of its pair.

    Attributes:
        target: the validation score to reach.
        updates, seconds: by seed, to the first evaluation as good or better; infinite for a miss.
        update_budgets, budgets: updates and training seconds of the whole run by seed.
    """

    group: Group
    target: float
    updates: Mapping[int, float]
    seconds: Mapping[int, float]
    budgets: Mapping[int, float]
    update_budgets: Mapping[int, float]
    scale: Scale = POINTS

    @property
    def reached(self) -> int:
        """Seeds that reach it."""
        return sum(math.isfinite(updates) for updates in self.updates.values())

    @property
    def median_updates(self) -> float:
        """Median over the seeds, infinite if half of them miss."""
        return float(np.median(list(self.updates.values())))

    @property
    def median_seconds(self) -> float:
        """Median over the seeds, infinite if half of them miss."""
        return float(np.median(list(self.seconds.values())))


@dataclass(frozen=True)
class Race:
    """Who reaches the targets first.

    Attributes:
        profile: the performance profile of all schedules.
        speedups: of each over the reference; None for the reference itself.
    """

    profile: stats.Profile
    speedups: list[stats.Speedup | None]


@dataclass(frozen=True)
class Overall:
    """Schedules over all problems that have all of them, on the seeds that all of them have.

    Attributes:
        schedules: their names; all lists below follow this order.
        problems: pairs and base LRs.
        reference: the schedule that set the targets, or None if the study has none.
        iqm: interquartile mean of the test metric over problems and seeds.
        iqm_difference: minus that of the reference, paired; None for the reference itself.
        updates, seconds: the race in updates and in training seconds; None without a reference.
        scale: how the scores are to be read; None where those of some problems rise and of others
            fall: then there is no mean over them.
    """

    schedules: list[str]
    problems: list[Problem]
    reference: str | None
    iqm: list[stats.Estimate | None]
    iqm_difference: list[stats.Estimate | None]
    updates: Race | None
    seconds: Race | None
    scale: Scale | None = POINTS


def target_rows(members: Members, reference: str) -> list[TargetRow]:
    """How soon every group of the usual arm reaches the target of its pair.

    Args:
        members: the runs of every group.
        reference: the schedule whose validation scores set the targets.

    Returns:
        One row a group; none for groups of pairs that lack the reference.
    """
    targets = _targets(members, reference)
    return [
        _target_row(group, runs, targets[group.pair])
        for group, runs in members.items()
        if group.arm == 0 and group.pair in targets
    ]


def overall(members: Members, rows: Sequence[TargetRow], reference: str) -> Overall | None:
    """The aggregates over all problems.

    Args:
        members: the runs of every group.
        rows: from ``target_rows``.
        reference: the schedule that the others are compared to.

    Returns:
        None if no two schedules share a problem and a seed.
    """
    layout = _layout(members)
    if layout is None:
        return None
    base = layout.schedules.index(reference) if reference in layout.schedules else None
    others = [None if i == base else base for i in range(len(layout.schedules))]
    points = layout.cells(
        {group: {run.seed: run.score for run in runs} for group, runs in members.items()}
    )
    timed, scale = rows if base is not None else [], _shared_scale(members)
    return Overall(
        schedules=layout.schedules,
        problems=list(layout.seeds),
        reference=reference if base is not None else None,
        iqm=[None] * len(others) if scale is None else [*stats.iqms(points)],
        iqm_difference=[
            None if other is None or scale is None else stats.iqm_difference(points, i, other)
            for i, other in enumerate(others)
        ],
        scale=scale,
        updates=_race(layout, timed, others, "updates", "update_budgets"),
        seconds=_race(layout, timed, others, "seconds", "budgets"),
    )


def _shared_scale(members: Members) -> Scale | None:
    """How the scores of all problems are to be read; None if they differ in their direction."""
    scales = [scale_of_all(runs) for runs in members.values() if any(run.metric for run in runs)]
    if len({scale.higher_is_better for scale in scales}) > 1:
        return None
    return max(scales, key=lambda scale: scale.decimals, default=POINTS)


@dataclass(frozen=True)
class _Layout:
    """Schedules, and the seeds of each problem that all of them have."""

    schedules: list[str]
    seeds: Mapping[Problem, list[int]]

    def cells(self, values: Mapping[Group, Mapping[int, float]]) -> list[np.ndarray]:
        """One array a problem, shape (schedules, seeds), from values by group and seed."""
        return [
            np.array(
                [[values[Group(*place, name, 0)][s] for s in seeds] for name in self.schedules]
            )
            for place, seeds in self.seeds.items()
        ]


def _layout(members: Members) -> _Layout | None:
    by_problem: dict[Problem, dict[str, set[int]]] = defaultdict(dict)
    for group, runs in members.items():
        if group.arm == 0:
            by_problem[group.pair, group.lr][group.schedule] = {run.seed for run in runs}
    schedules = list(dict.fromkeys(name for some in by_problem.values() for name in some))
    common = {
        problem: sorted(set.intersection(*some.values()))
        for problem, some in by_problem.items()
        if len(some) == len(schedules)
    }
    seeds = {problem: some for problem, some in common.items() if some}
    return _Layout(schedules, seeds) if len(schedules) > 1 and seeds else None


def _race(
    layout: _Layout,
    rows: Sequence[TargetRow],
    others: Sequence[int | None],
    clock: str,
    budget: str,
) -> Race | None:
    if not rows:
        return None
    times, budgets = (
        layout.cells({row.group: getattr(row, name) for row in rows}) for name in (clock, budget)
    )
    speedups = [
        None if other is None else stats.speedup(times, budgets, i, other)
        for i, other in enumerate(others)
    ]
    return Race(stats.profile(times), speedups)


def _targets(members: Members, reference: str) -> dict[str, float]:
    """Pair -> median last validation score of the reference at its best base LR."""
    found: dict[str, list[float]] = defaultdict(list)
    scales: dict[str, Scale] = {}
    for group, runs in members.items():
        if group.schedule == reference and group.arm == 0:
            found[group.pair].append(float(np.median([run.validation_score for run in runs])))
            scales[group.pair] = scale_of_all(runs)
    return {pair: scales[pair].best(medians) for pair, medians in found.items()}


def _target_row(group: Group, runs: Sequence[RunRecord], target: float) -> TargetRow:
    scale = scale_of_all(runs)
    updates = {
        run.seed: stats.first_reaching(
            run.validation.value, run.validation.update, target, scale.higher_is_better
        )
        for run in runs
    }
    each = {run.seed: run.training_seconds / run.result.updates for run in runs}
    return TargetRow(
        group=group,
        target=target,
        updates=updates,
        seconds={seed: count * each[seed] for seed, count in updates.items()},
        budgets={run.seed: run.training_seconds for run in runs},
        update_budgets={run.seed: float(run.result.updates) for run in runs},
        scale=scale,
    )
