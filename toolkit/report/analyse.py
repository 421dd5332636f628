"""From records to the numbers of the report."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from toolkit import stats
from toolkit.errors import ConfigError
from toolkit.report.load import Group, RunRecord, StudyRecord

SPANS = ("data", "forward_backward", "optimizer", "reading", "evaluation", "checkpoint")
DEFAULT_ROPE = 0.5


@dataclass(frozen=True)
class GroupRow:
    """A group over its seeds.

    Attributes:
        scores: the test metric by seed; a diverged run scores 0.
        interval: 95 % t-interval of the mean; None for a single seed.
        seconds: mean training seconds of a run.
        actions: fewest and most actions in a run.
    """

    group: Group
    scores: Mapping[int, float]
    interval: tuple[float, float] | None
    diverged: int
    seconds: float
    spans: Mapping[str, float]
    actions: tuple[int, int]

    @property
    def mean(self) -> float:
        """Mean score."""
        return float(np.mean(list(self.scores.values())))


@dataclass(frozen=True)
class ContrastRow:
    """One comparison of the primary family, or why it cannot be made.

    Attributes:
        seconds_ratio: geometric mean of the paired training times, candidate / baseline.
        missing: seeds that only one of the two has.
    """

    pair: str
    lr: float
    candidate: str
    baseline: str
    rope: float
    judged: stats.Judged | None
    seconds_ratio: float
    missing: tuple[int, ...]
    problem: str = ""


@dataclass(frozen=True)
class Analysis:
    """All numbers of a report."""

    study: StudyRecord
    metric: str
    groups: list[GroupRow]
    family: list[ContrastRow]
    versions: list[Mapping[str, str]]


def analyse(study: StudyRecord) -> Analysis:
    """The numbers of a study.

    Raises:
        ConfigError: if two runs that would be paired did not start from the same weights or did not
            see the same batches.
    """
    members: dict[Group, list[RunRecord]] = defaultdict(list)
    for run in study.runs:
        members[run.group].append(run)
    return Analysis(
        study=study,
        metric=_metric(study.runs),
        groups=[_group_row(group, runs) for group, runs in members.items()],
        family=_family(study.plan, members),
        versions=_distinct([run.result["versions"] for run in study.runs]),
    )


def score(run: RunRecord) -> float:
    """The headline metric on the test split at the last update; 0 for a diverged run."""
    if run.diverged:
        return 0.0
    return float(next(iter(run.result["metrics"]["test"].values())))


def _metric(runs: Sequence[RunRecord]) -> str:
    for run in runs:
        for name in run.result["metrics"]["test"]:
            return str(name)
    return "score"


def _group_row(group: Group, runs: Sequence[RunRecord]) -> GroupRow:
    scores = {run.seed: score(run) for run in runs}
    counts = [len(run.actions) for run in runs]
    timing = [run.result["timing"] for run in runs]
    return GroupRow(
        group=group,
        scores=scores,
        interval=stats.t_interval(list(scores.values())) if len(scores) > 1 else None,
        diverged=sum(run.diverged for run in runs),
        seconds=float(np.mean([times["train_seconds"] for times in timing])),
        spans={name: float(np.mean([times.get(name, 0.0) for times in timing])) for name in SPANS},
        actions=(min(counts), max(counts)),
    )


def _family(
    plan: Mapping[str, Any], members: Mapping[Group, Sequence[RunRecord]]
) -> list[ContrastRow]:
    drafts = [
        _contrast(contrast, plan.get("rope", {}), members) for contrast in plan.get("family", [])
    ]
    possible = [paired for _, paired in drafts if paired is not None]
    ropes = [row.rope for row, paired in drafts if paired is not None]
    verdicts = iter(stats.judge(possible, ropes))
    return [row if paired is None else _with_verdict(row, next(verdicts)) for row, paired in drafts]


def _with_verdict(row: ContrastRow, judged: stats.Judged) -> ContrastRow:
    return ContrastRow(**{**row.__dict__, "judged": judged})


def _contrast(
    contrast: Mapping[str, Any],
    ropes: Mapping[str, float],
    members: Mapping[Group, Sequence[RunRecord]],
) -> tuple[ContrastRow, stats.Paired | None]:
    pair, lr = contrast["pair"], contrast["lr"]
    sides = [
        {run.seed: run for run in members.get(Group(pair, lr, contrast[side], 0), [])}
        for side in ("candidate", "baseline")
    ]
    common = sorted(sides[0].keys() & sides[1].keys())
    missing = tuple(sorted(sides[0].keys() ^ sides[1].keys()))
    for seed in common:
        _check_pairing(sides[0][seed], sides[1][seed])
    a, b = ([side[seed] for seed in common] for side in sides)
    ratios = [
        np.log(x.result["timing"]["train_seconds"] / y.result["timing"]["train_seconds"])
        for x, y in zip(a, b, strict=True)
    ]
    problem = "" if len(common) > 1 else f"{len(common)} common seeds: no interval, no verdict"
    row = ContrastRow(
        pair=pair,
        lr=lr,
        candidate=contrast["candidate"],
        baseline=contrast["baseline"],
        rope=ropes.get(pair.partition("/")[0], DEFAULT_ROPE),
        judged=None,
        seconds_ratio=float(np.exp(np.mean(ratios))) if ratios else float("nan"),
        missing=missing,
        problem=problem,
    )
    return row, None if problem else stats.compare(
        [score(run) for run in a], [score(run) for run in b]
    )


def _check_pairing(a: RunRecord, b: RunRecord) -> None:
    if a.diverged or b.diverged:  # a diverged run ends early: its batch order is a shorter one
        keys = ["initial_weights_sha"]
    else:
        keys = ["initial_weights_sha", "batch_order_sha"]
    for key in keys:
        if a.result[key] != b.result[key]:
            raise ConfigError(
                f"{a.folder / 'result.json'} and {b.folder / 'result.json'} have the same seed but "
                f"another {key}: they cannot be paired; repeat both with --fresh in one environment"
            )


def _distinct(items: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    found: list[Mapping[str, str]] = []
    for item in items:
        if item not in found:
            found.append(item)
    return found
