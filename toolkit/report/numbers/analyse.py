"""From records to the numbers of the report."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from toolkit import stats
from toolkit.errors import ConfigError
from toolkit.records.result import RESULT, SPANS
from toolkit.report.numbers.aggregate import Members, Overall, TargetRow, overall, target_rows
from toolkit.report.numbers.caveats import warnings
from toolkit.report.numbers.rates import RateRow, TunedRow, rate_rows, tuned_rows
from toolkit.report.numbers.runs import Group, RunRecord, StudyRecord, scale_of_all
from toolkit.scales import POINTS, Scale
from toolkit.task import parse_target
from toolkit.words import counted

DEFAULT_ROPE = 0.5
"""Of plans that state none at all, as those of older versions do."""
NO_ROPE = (
    "no ROPE is declared, so there is no verdict: what difference would matter in practice is for "
    "the task or the study to say"
)
SHARES = ("accuracy", "exact")
"""Metrics that are shares of right answers, in per cent."""
EQUAL_SHARE = 0.05
"""Two arms of one schedule of which more pairs are the same run prove nothing."""


@dataclass(frozen=True)
class GroupRow:
    """A group over its seeds.

    Attributes:
        scores: the test metric by seed; what a diverged run counts with, its metric declares.
        interval: 95 % t-interval of the mean; None for a single seed.
        seconds: mean training seconds of a run.
        actions: fewest and most actions in a run.
        scale: how the scores are to be read.
        metric: the headline metric.
        items: size of the test split; 0 where runs of older versions do not say.
    """

    group: Group
    scores: Mapping[int, float]
    interval: tuple[float, float] | None
    diverged: int
    seconds: float
    spans: Mapping[str, float]
    actions: tuple[int, int]
    scale: Scale = POINTS
    metric: str = ""
    items: int = 0

    @property
    def mean(self) -> float:
        """Mean score."""
        return float(np.mean(list(self.scores.values())))

    @property
    def seed_error(self) -> float | None:
        """Standard error of the mean over the seeds; None for a single seed."""
        scores = list(self.scores.values())
        return float(np.std(scores, ddof=1) / math.sqrt(len(scores))) if len(scores) > 1 else None

    @property
    def test_error(self) -> float | None:
        """Standard error of a score at the mean, as the test split is a sample: the binomial's.

        All seeds are scored on the same items, so that more of them do not make it smaller. None
        for a metric that is no share of right answers, and without a known size.
        """
        if self.metric not in SHARES or not self.items:
            return None
        share = min(1.0, max(0.0, self.mean / 100))
        return 100 * math.sqrt(share * (1 - share) / self.items)


@dataclass(frozen=True)
class ContrastRow:
    """One comparison, paired by seed, or why it cannot be made.

    Attributes:
        candidate_arm, baseline_arm: the arms of the two.
        rope: the difference that does not matter in practice; None if nobody declared one.
        paired: the comparison of the test metric alone; None with a problem.
        judged: its verdict; None outside the primary family, and without a ROPE.
        speed: training seconds judged like a metric, Holm over the same family; None outside it,
            where a run diverged, as its time is infinite, and over several machines.
        several_machines: whether the runs were made on machines that differ.
        seconds_ratio: geometric mean of the paired training times, candidate / baseline; infinite
            or 0 where runs of one of the two diverged, NaN where of both.
        missing: seeds that only one of the two has.
        same_run: pairs whose final weights are equal to the bit.
        problem: why there is no comparison, or no verdict.
        scale: how the scores are to be read.
    """

    pair: str
    lr: float
    candidate: str
    baseline: str
    rope: float | None
    judged: stats.Verdict | None
    seconds_ratio: float
    missing: tuple[int, ...]
    problem: str = ""
    candidate_arm: int = 0
    baseline_arm: int = 0
    paired: stats.Paired | None = None
    paired_seconds: stats.Paired | None = None
    speed: stats.Speed | None = None
    same_run: int = 0
    several_machines: bool = False
    scale: Scale = POINTS


@dataclass(frozen=True)
class CoverageRow:
    """How much of what the study asks for was run.

    Attributes:
        scale: full, reduced, or not run.
        note: what was made smaller, or why it was not run.
        finished, planned: runs.
    """

    pair: str
    scale: str
    note: str
    finished: int
    planned: int


@dataclass(frozen=True)
class Analysis:
    """All numbers of a report.

    Attributes:
        study: what was read.
        members: its runs by group.
        metric: the headline metric; ``score`` if pairs differ in it.
        metrics: the headline metric of each pair.
        groups: every group over its seeds.
        family: the primary family, with verdicts.
        versions: the distinct sets of versions.
        exploratory: every other schedule against the study's reference, at the same base LR:
            intervals, no verdicts.
        targets: how soon each schedule reaches the target of a pair at a base LR.
        overall: aggregates over all pairs and base LRs; None with fewer than two schedules.
        rates: how each schedule depends on the base LR, and what tuning it costs.
        tuned: of a tuning half, the base LR that it chose for each pair.
        coverage: which pairs were run in full, reduced, or not.
        warnings: what a reader must know, one sentence each.
    """

    study: StudyRecord
    members: Members
    metric: str
    metrics: Mapping[str, str]
    groups: list[GroupRow]
    family: list[ContrastRow]
    versions: list[Mapping[str, str]]
    exploratory: list[ContrastRow]
    targets: list[TargetRow]
    overall: Overall | None
    rates: list[RateRow]
    tuned: list[TunedRow]
    coverage: list[CoverageRow]
    warnings: list[str]

    @property
    def pairs(self) -> list[str]:
        """The pairs of the report, in its order."""
        return list(dict.fromkeys(row.group.pair for row in self.groups))


def analyse(study: StudyRecord) -> Analysis:
    """The numbers of a study.

    Raises:
        ConfigError: if two runs that would be paired did not start from the same weights or did not
            see the same batches.
    """
    members: dict[Group, list[RunRecord]] = defaultdict(list)
    for run in study.runs:
        members[run.group].append(run)
    whole_last = sorted(study.runs, key=lambda run: not run.diverged)
    metrics = {run.group.pair: run.metric for run in whole_last if run.metric}
    reference = study.plan.get("reference", "cosine")
    ropes = {group.pair: _rope(study.plan, group.pair) for group in members}
    targets = target_rows(members, reference)
    return Analysis(
        study=study,
        members=members,
        metric=_the_one(list(metrics.values())),
        metrics=metrics,
        groups=[_group_row(group, runs) for group, runs in members.items()],
        family=_family(study.plan, members),
        versions=_distinct([run.result.versions for run in study.runs]),
        exploratory=_exploratory(study.plan, members, reference),
        targets=targets,
        overall=overall(members, targets, reference),
        rates=rate_rows(members, ropes),
        tuned=tuned_rows(members) if study.plan.get("tuning") else [],
        coverage=_coverage(study),
        warnings=warnings(study),
    )


def _the_one(names: Sequence[str]) -> str:
    return names[0] if len(set(names)) == 1 else "score"


def _rope(plan: Mapping[str, Any], pair: str) -> float | None:
    if "rope" not in plan:
        return DEFAULT_ROPE
    rope = plan["rope"].get(parse_target(pair).task)
    return None if rope is None else float(rope)


def _group_row(group: Group, runs: Sequence[RunRecord]) -> GroupRow:
    scores = {run.seed: run.score for run in runs}
    counts = [len(run.actions) for run in runs]
    timing = [run.result.timing.spans for run in runs]
    return GroupRow(
        group=group,
        scores=scores,
        interval=stats.t_interval(list(scores.values())) if len(scores) > 1 else None,
        diverged=sum(run.diverged for run in runs),
        seconds=float(np.mean([run.training_seconds for run in runs])),
        spans={name: float(np.mean([times.get(name, 0.0) for times in timing])) for name in SPANS},
        actions=(min(counts), max(counts)),
        scale=scale_of_all(runs),
        metric=next((run.metric for run in runs if run.metric), ""),
        items=min(run.result.samples.get("test", 0) for run in runs),
    )


def _family(plan: Mapping[str, Any], members: Members) -> list[ContrastRow]:
    rows = [_contrast(contrast, plan, members) for contrast in plan.get("family", [])]
    whole = [(row.paired, row.rope) for row in rows if row.paired and row.rope is not None]
    timed = [row.paired_seconds for row in rows if row.paired_seconds]
    judged = iter(stats.judge([one for one, _ in whole], [rope for _, rope in whole], len(rows)))
    speeds = iter(stats.judge_seconds(timed, len(rows)))
    return [
        replace(
            row,
            judged=next(judged) if row.paired and row.rope is not None else None,
            speed=next(speeds) if row.paired_seconds else None,
        )
        for row in rows
    ]


def _exploratory(plan: Mapping[str, Any], members: Members, reference: str) -> list[ContrastRow]:
    declared = {
        (one["pair"], one["lr"], frozenset((one["candidate"], one["baseline"])))
        for one in plan.get("family", [])
    }
    rows = []
    for group in members:
        place = (group.pair, group.lr)
        two = frozenset((group.schedule, reference))
        beside = Group(*place, reference, 0)
        if (
            beside in members
            and group.arm == 0
            and group != beside
            and (*place, two) not in declared
        ):
            contrast = {**group._asdict(), "candidate": group.schedule, "baseline": reference}
            rows.append(_contrast(contrast, plan, members))
    return rows


def _contrast(
    contrast: Mapping[str, Any], plan: Mapping[str, Any], members: Members
) -> ContrastRow:
    pair, lr = contrast["pair"], contrast["lr"]
    arms = [contrast.get(f"{side}_arm", 0) for side in ("candidate", "baseline")]
    sides = [
        {run.seed: run for run in members.get(Group(pair, lr, contrast[side], arm), [])}
        for side, arm in zip(("candidate", "baseline"), arms, strict=True)
    ]
    common = sorted(sides[0].keys() & sides[1].keys())
    for seed in common:
        _check_pairing(sides[0][seed], sides[1][seed])
    a, b = ([side[seed] for seed in common] for side in sides)
    same = sum(_is_same_run(x, y) for x, y in zip(a, b, strict=True))
    arms_differ = contrast["candidate"] == contrast["baseline"]
    problem, rope = _problem(len(common), same if arms_differ else 0), _rope(plan, pair)
    scale = scale_of_all((*a, *b))
    mixed = len({run.speed_class for run in (*a, *b)}) > 1
    timed = not problem and not mixed and not any(run.diverged for run in (*a, *b))
    return ContrastRow(
        pair=pair,
        lr=lr,
        candidate=contrast["candidate"],
        baseline=contrast["baseline"],
        rope=rope,
        judged=None,
        seconds_ratio=_seconds_ratio(a, b),
        missing=tuple(sorted(sides[0].keys() ^ sides[1].keys())),
        problem=problem or ("" if rope is not None else NO_ROPE),
        candidate_arm=arms[0],
        baseline_arm=arms[1],
        paired=None
        if problem
        else stats.compare([r.score for r in a], [r.score for r in b], scale.higher_is_better),
        paired_seconds=stats.compare_seconds([r.seconds for r in a], [r.seconds for r in b])
        if timed
        else None,
        same_run=same,
        several_machines=mixed,
        scale=scale,
    )


def _problem(pairs: int, same: int) -> str:
    if pairs < 2:
        return f"{counted(pairs, 'common seed')}: no interval, no verdict"
    if same > EQUAL_SHARE * pairs:
        return (
            f"invalid: {same} of {pairs} pairs are the same run to the bit, so the arms change "
            "nothing; the model needs dropout, or the data augmentation"
        )
    return ""


def _is_same_run(a: RunRecord, b: RunRecord) -> bool:
    return bool(a.result.final_weights_sha == b.result.final_weights_sha)


def _seconds_ratio(a: Sequence[RunRecord], b: Sequence[RunRecord]) -> float:
    if not a:
        return math.nan
    lost = [any(run.diverged for run in side) for side in (a, b)]
    if any(lost):
        return math.nan if all(lost) else math.inf if lost[0] else 0.0
    logs = [math.log(x.seconds / y.seconds) for x, y in zip(a, b, strict=True)]
    return math.exp(sum(logs) / len(logs))


def _check_pairing(a: RunRecord, b: RunRecord) -> None:
    if a.diverged or b.diverged:  # a diverged run ends early: its batch order is a shorter one
        keys = ["initial_weights_sha"]
    else:
        keys = ["initial_weights_sha", "batch_order_sha"]
    for key in keys:
        if getattr(a.result, key) != getattr(b.result, key):
            raise ConfigError(
                f"{a.folder / RESULT} and {b.folder / RESULT} have the same seed but "
                f"another {key}: they cannot be paired; repeat both with --fresh in one environment"
            )


def _coverage(study: StudyRecord) -> list[CoverageRow]:
    finished: dict[str, int] = defaultdict(int)
    for run in study.runs:
        finished[run.group.pair] += 1
    reduced, rows = study.plan.get("reduced", {}), []
    for pair, planned in study.plan.get("pairs", {}).items():
        scale = "reduced" if pair in reduced else "full"
        rows.append(CoverageRow(pair, scale, reduced.get(pair, ""), finished[pair], planned))
    for pair, why in study.plan.get("left_out", {}).items():
        rows.append(CoverageRow(pair, "not run", why, 0, 0))
    return rows


def _distinct(items: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    found: list[Mapping[str, str]] = []
    for item in items:
        if item not in found:
            found.append(item)
    return found
