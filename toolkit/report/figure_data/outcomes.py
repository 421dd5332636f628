"""What came out: differences, final metrics, sensitivity to the LR, profiles, cost of tuning."""

from collections.abc import Sequence
from dataclasses import replace

from toolkit.report.figure_data.axes import arrows_said, shared
from toolkit.report.figure_data.panels import (
    Axis,
    Legend,
    Panel,
    Section,
    Series,
    label_of,
    ordered,
    rates_of,
    rounded,
)
from toolkit.report.marks import UNDECIDED, VERDICTS, Mark
from toolkit.report.numbers.aggregate import Overall, Race
from toolkit.report.numbers.analyse import Analysis, ContrastRow, GroupRow
from toolkit.report.numbers.rates import RateRow
from toolkit.report.text import contrast_label, metric_of, pair_label
from toolkit.scales import POINTS
from toolkit.stats import Estimate

TUNING = "cost of tuning"
LEAST_PROBLEMS = 10
"""A performance profile is a share of problems: of fewer it is a staircase of single cases."""


def differences(analysis: Analysis) -> Section:
    """The comparisons of the primary family with their intervals, a panel a pair."""
    panels = []
    for pair in dict.fromkeys(row.pair for row in analysis.family):
        rows = [row for row in analysis.family if row.pair == pair and row.paired]
        if rows:
            sense = "" if rows[0].scale.higher_is_better else " (lower is better)"
            unit = ", points" if rows[0].scale == POINTS else ""
            x = Axis(f"difference in {metric_of(analysis, pair)}{unit}{sense}")
            series, ropes = [_difference(row) for row in rows], [row.rope or 0.0 for row in rows]
            panels.append(Panel(pair_label(pair), series, x, Axis(categories=True), ropes=ropes))
    panels = shared(panels)
    caption = (
        "Candidate minus baseline, and the 95 % interval: right of the line the candidate scores "
        "higher. Dashed: the ROPE, within which a difference does not matter in practice."
    )
    return Section("The differences", arrows_said(caption, panels), panels)


def _difference(row: ContrastRow) -> Series:
    assert row.paired is not None
    paired, verdict = row.paired, row.judged.verdict if row.judged else "no verdict"
    label = f"{contrast_label(row)}, LR {row.lr:g}: {verdict}"
    mean, low, high = (
        f"{x:+.{row.scale.decimals}f}" for x in (paired.mean, paired.low, paired.high)
    )
    mark = VERDICTS.get(verdict, UNDECIDED)
    return Series(
        *("", mark, [paired.mean], [label]),
        size=9,
        filled=mark is not UNDECIDED,
        bounds=([paired.low], [paired.high]),
        hover_text=f"{mean}, {low} to {high}",
    )


def final(rows: Sequence[GroupRow], metric: str, legend: Legend) -> Section:
    """Every seed's test metric, and means with intervals, a panel a base LR.

    Args:
        rows: the groups of a pair.
        metric: the pair's headline metric.
        legend: the entrants of the report.
    """
    panels = []
    for lr in rates_of(rows):
        at = ordered(rows, lr, legend)
        series = [one for row in at for one in _scores(row, legend[row.group.schedule])]
        panels.append(Panel(f"base LR {lr:g}", series, Axis(metric), Axis(categories=True)))
    panels = shared(panels)
    caption = "Each small mark is a seed; the large mark is their mean, the bar its 95 % interval."
    title = f"Final {metric.split(',')[0]} on the test split"
    return Section(title, arrows_said(caption, panels), panels)


def _scores(row: GroupRow, mark: Mark) -> list[Series]:
    """The scores of all seeds, and their mean with its interval."""
    name, (low, high) = label_of(row), row.interval or (row.mean, row.mean)
    digits = f".{row.scale.decimals}f"
    texts = [f"{name}, seed {seed}: {score:{digits}}" for seed, score in row.scores.items()]
    label = f"{name}: {row.mean:{digits}}"
    text = f"{row.mean:{digits}}, {low:{digits}} to {high:{digits}}"
    x, y = rounded(row.scores.values()), [label] * len(row.scores)
    return [
        Series(name, mark, x, y, size=7, filled=False, hover_text=texts),
        Series(name, mark, [row.mean], [label], size=12, bounds=([low], [high]), hover_text=text),
    ]


def sensitivity(
    rows: Sequence[GroupRow], grids: Sequence[RateRow], metric: str, legend: Legend
) -> Section:
    """The test metric against the base LR, and what it costs to tune it.

    Args:
        rows: the groups of a pair.
        grids: its schedules over three base LRs or more.
        metric: the pair's headline metric.
        legend: the entrants of the report.
    """
    rates, panels = rates_of(rows), []
    if len(rates) > 1:
        by_rate = [row for lr in rates for row in ordered(rows, lr, legend)]
        series = []
        for name, mark in legend.items():
            at = [row for row in by_rate if (row.group.schedule, row.group.arm) == (name, 0)]
            scores = [Estimate(r.mean, *(r.interval or (r.mean, r.mean))) for r in at]
            if at:
                series.append(_line(name, mark, [row.group.lr for row in at], scores))
        x = Axis("base LR", log=True, ticks=rates)
        panels.append(Panel(f"{metric.split(',')[0]} by base LR", series, x, Axis(metric)))
    caption = "Left: mean over the seeds and its 95 % interval at each base LR."
    if grids:
        series = [
            _line(grid.schedule, legend[grid.schedule], grid.tuning.tries, grid.tuning.scores)
            for grid in grids
        ]
        tries = sorted({k for grid in grids for k in grid.tuning.tries})
        x = Axis("base LRs tried", log=True, ticks=tries)
        panels.append(Panel(TUNING, series, x, Axis(f"expected {metric}")))
        caption += (
            " Right: expected test score after trying so many base LRs of the grid at random and "
            "keeping the one that is best in validation."
        )
    panels = shared(panels)
    return Section("Sensitivity to the base LR", arrows_said(caption, panels), panels)


def _line(name: str, mark: Mark, x: Sequence[float], scores: Sequence[Estimate]) -> Series:
    """Estimates with their intervals."""
    y, bounds = (
        rounded(s.value for s in scores),
        ([s.low for s in scores], [s.high for s in scores]),
    )
    texts = [
        f"{name} at {at:g}: {s.value:.4g}, {s.low:.4g} to {s.high:.4g}"
        for at, s in zip(x, scores, strict=True)
    ]
    return Series(name, mark, x, y, width=2, size=10, bounds=bounds, hover_text=texts)


def profiles(overall: Overall, legend: Legend) -> Section:
    """The performance profiles, by updates and by training seconds, over enough problems."""
    if len(overall.problems) < LEAST_PROBLEMS:
        return Section("", "", [])
    races = {"in updates": overall.updates, "in training seconds": overall.seconds}
    x, y = Axis("times the least effort"), Axis("share of problems", limits=(-0.03, 1.03))
    panels = [
        Panel(title, _profile(race, overall.schedules, legend), x, y)
        for title, race in races.items()
        if race is not None
    ]
    caption = (
        f"Share of the {len(overall.problems)} problems (pairs at a base LR) on which a schedule "
        "reaches the target within so many times the least effort of all; higher and further left "
        f"is better. The target is the validation score of {overall.reference} at its best base "
        "LR. The bands are 95 % bootstrap intervals."
    )
    title = "Who reaches the target first: performance profile"
    return Section(title, caption, shared(panels), legend=True)


def _profile(race: Race, schedules: Sequence[str], legend: Legend) -> list[Series]:
    """Each schedule's profile, with the area below it as hover text."""
    found, lines = race.profile, []
    for name, shares, low, high, score in zip(
        schedules, found.shares, found.low, found.high, found.scores, strict=True
    ):
        area = f"area {score.value:.2f} ({score.low:.2f} to {score.high:.2f})"
        places = zip(found.taus, shares, strict=True)
        texts = [f"{name}: {share:.2f} within {tau:.2f}; {area}" for tau, share in places]
        line = Series(
            name, legend[name], rounded(found.taus), rounded(shares), width=2, steps="after"
        )
        lines.append(replace(line, bounds=(low.tolist(), high.tolist()), hover_text=texts))
    return lines
