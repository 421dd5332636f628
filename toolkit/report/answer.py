"""The answer of a report, a pair at a time: which schedule, by how much, how sure, at which cost.

It says no more than the verdicts do: what was declared is judged, all else is called no verdict.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from statistics import median
from typing import NamedTuple

from toolkit.report.numbers.analyse import Analysis, ContrastRow, GroupRow
from toolkit.report.numbers.runs import RunRecord
from toolkit.report.text import (
    contrast_label,
    findings,
    may_be_decided,
    metric_of,
    pair_label,
    schedule_label,
)
from toolkit.scales import POINTS, Scale
from toolkit.stats import ALPHA, Verdict
from toolkit.words import agreeing, counted

MOST = 3
"""Comparisons that are told one by one; of more, how many and the range."""


class Answer(NamedTuple):
    """What a study says of a pair.

    Attributes:
        pair: its label.
        decided: whether a comparison has found a winner.
        headline: which schedule to use.
        facts: question -> what is known, in whole sentences; several points are a line each.
    """

    pair: str
    decided: bool
    headline: str
    facts: Mapping[str, str]


class Won(NamedTuple):
    """A comparison that found a winner."""

    winner: str
    loser: str
    row: ContrastRow


def answers(analysis: Analysis) -> list[Answer]:
    """One answer for each pair."""
    return [_answer(analysis, pair) for pair in analysis.pairs]


def _answer(analysis: Analysis, pair: str) -> Answer:
    rows = [row for row in analysis.family if row.pair == pair]
    judged = [row for row in rows if row.judged]
    groups = [row for row in analysis.groups if row.group.pair == pair]
    won = list(_won(judged))
    if analysis.tuned:
        tuned = zip(analysis.tuned, findings(analysis), strict=True)
        headline = " ".join(str(finding) for row, finding in tuned if row.pair == pair)
    elif judged:
        headline = _headline(analysis, rows, won, groups)
    else:
        headline = _best_mean(analysis, groups)
    facts = {
        "By how much": _by_how_much(analysis, rows),
        "How sure": "\n".join(_how_sure(judged, groups)),
        "At which cost": " ".join(_cost(rows, groups, analysis)),
        "If the LR is unknown": _unknown_lr(analysis, groups),
        "What was trained": _trained([r for r in analysis.study.runs if r.group.pair == pair]),
    }
    told = {question: fact for question, fact in facts.items() if fact}
    return Answer(pair_label(pair), bool(won), headline, told)


def _won(judged: Iterable[ContrastRow]) -> Iterator[Won]:
    for row in judged:
        sides = _names(row)
        verdict = row.judged.verdict if row.judged else ""
        if verdict in ("better", "worse"):
            yield Won(*(sides if verdict == "better" else sides[::-1]), row)


def _headline(
    analysis: Analysis,
    rows: Sequence[ContrastRow],
    won: Sequence[Won],
    groups: Sequence[GroupRow],
) -> str:
    """Which schedule to use, by the verdicts of a pair, and which comparisons have none."""
    judged = [row for row in rows if row.judged]
    if unbeaten := {one.winner for one in won} - {one.loser for one in won}:
        means = {name: _grid_mean(name, groups) for name in sorted(unbeaten)}
        best = groups[0].scale.best(means.values())
        use = next(name for name, mean in means.items() if mean == best)
        own = [one for one in won if one.winner == use]
        rest = [row for row in rows if use in _names(row) and row not in [w.row for w in own]]
        told = " ".join(_elsewhere(rest, rows))
        return f"Use {use}: it is better than {_victories(own, analysis)}. {told}".strip()
    unjudged = " ".join(_elsewhere([row for row in rows if not row.judged], rows))
    return f"{_without_one_winner(analysis, judged, won)} {unjudged}".strip()


def _without_one_winner(
    analysis: Analysis, judged: Sequence[ContrastRow], won: Sequence[Won]
) -> str:
    """What the verdicts of a pair say where no schedule is better and nowhere worse."""
    if won:
        by_winner: dict[str, list[str]] = defaultdict(list)
        for one in won:
            by_winner[one.winner].append(f"{one.loser} at base LR {one.row.lr:g}")
        told = "; ".join(f"{name} is better than {_and(some)}" for name, some in by_winner.items())
        return f"It depends on the base LR: {told}."
    names = _and(dict.fromkeys(name for row in judged for name in _names(row)))
    if all(row.judged and row.judged.verdict == "equivalent" for row in judged):
        lost = dict.fromkeys(
            name for row in judged if math.isnan(row.seconds_ratio) for name in _names(row)
        )
        if lost:
            return f"No winner: {names} are equivalent here, and runs of {_and(lost)} diverged."
        return f"Use the cheaper one: {names} are equivalent here."
    reference, baselines = analysis.study.plan.get("reference"), [row.baseline for row in judged]
    stay = reference if reference in baselines else baselines[0]
    at = _and(f"{lr:g}" for lr in dict.fromkeys(row.lr for row in judged))
    return f"No winner is shown among {names} at base LR {at}: no reason here to leave {stay}."


def _names(row: ContrastRow) -> tuple[str, str]:
    return (
        schedule_label(row.candidate, row.candidate_arm),
        schedule_label(row.baseline, row.baseline_arm),
    )


def _grid_mean(name: str, groups: Sequence[GroupRow]) -> float:
    """Mean score of an entrant over its base LRs."""
    means = [row.mean for row in groups if _label(row) == name]
    return sum(means) / len(means)


def _label(row: GroupRow) -> str:
    return schedule_label(row.group.schedule, row.group.arm)


def _victories(won: Sequence[Won], analysis: Analysis) -> str:
    """Whom a schedule beat, by how much and where."""
    metric = metric_of(analysis, won[0].row.pair)
    if len(won) > MOST:
        names = _and(dict.fromkeys(one.loser for one in won))
        apart = [abs(one.row.paired.mean) for one in won if one.row.paired]
        return f"{names} in {len(won)} comparisons, by {_range(apart, won[0].row.scale, '')}"
    units = [f" points of {metric}" if one.row.scale == POINTS else f" in {metric}" for one in won]
    return _and(
        f"{one.loser} by {abs(one.row.paired.mean):.{one.row.scale.decimals}f}{unit} at base LR "
        f"{one.row.lr:g}"
        for one, unit in zip(won, units, strict=True)
        if one.row.paired
    )


def _elsewhere(rows: Sequence[ContrastRow], of: Sequence[ContrastRow]) -> Iterator[str]:
    """The comparisons of a schedule that it did not win, by verdict."""
    by_verdict: dict[str, list[ContrastRow]] = defaultdict(list)
    for row in rows:
        by_verdict[row.judged.verdict if row.judged else "not judged"].append(row)
    for verdict, some in by_verdict.items():
        many = f"{len(some)} other comparisons"
        yield f"{verdict.capitalize()}: {many if len(some) > MOST else _and(_places(some, of))}."


def _places(rows: Sequence[ContrastRow], of: Sequence[ContrastRow]) -> list[str]:
    """What tells comparisons of a pair apart: the base LR, the two schedules, or both."""
    labels = [contrast_label(row) for row in rows]
    if len({contrast_label(row) for row in of}) == 1:
        return [f"base LR {row.lr:g}" for row in rows]
    if len({row.lr for row in of}) == 1:
        return labels
    return [f"{label} at {row.lr:g}" for label, row in zip(labels, rows, strict=True)]


def _by_how_much(analysis: Analysis, rows: Sequence[ContrastRow]) -> str:
    """The differences with the interval of the verdict."""
    paired = [row for row in rows if row.paired]
    if not paired:
        return ""
    metric = metric_of(analysis, rows[0].pair)
    sense = "" if paired[0].scale.higher_is_better else ", of which less is better,"
    if len(paired) > MOST:
        found = _range([row.paired.mean for row in paired if row.paired], paired[0].scale, "+")
        return f"Differences in {metric}{sense} of {found}; the table has them all."
    unit = " points" if paired[0].scale == POINTS else ""
    told = [
        f"{place}: {_signed(row.paired.mean, row.scale)}{unit} (95 % interval "
        f"{_signed(row.paired.low, row.scale)} to {_signed(row.paired.high, row.scale)})"
        for place, row in zip(_places(paired, rows), paired, strict=True)
        if row.paired
    ]
    one_lr = len({row.lr for row in rows}) == 1
    of = f"At base LR {rows[0].lr:g}: " if one_lr else ""
    of = f"{contrast_label(rows[0])} at " if len({*map(_names, rows)}) == 1 else of
    less = "" if paired[0].scale.higher_is_better else f" Of {metric} less is better."
    lines = ".\n".join(told)
    return f"{of}{lines}.{less}"


def _signed(value: float, scale: Scale) -> str:
    return f"{value:+.{scale.decimals}f}"


def _range(values: Sequence[float], scale: Scale, sign: str) -> str:
    span = _span(values, f"{sign}.{scale.decimals}f")
    return f"{span}{' points' * (scale == POINTS)}"


def _how_sure(judged: Sequence[ContrastRow], groups: Sequence[GroupRow]) -> Iterator[str]:
    """p-values and seeds, and what another test split would have changed: a point at a time."""
    for place, row in zip(_places(judged[:MOST], judged), judged, strict=False):
        assert row.judged is not None
        judged_by = f"{row.judged.verdict}, p = {row.judged.p_adjusted:.3f}"
        yield f"{place}: {judged_by}{_lacking(row, row.judged)}."
    if len(judged) > MOST:
        yield f"{len(judged) - MOST} more in the table."
    if judged:
        rope, scale = judged[0].rope, judged[0].scale
        unit = " points" if scale == POINTS else ""
        than = f", and a difference above {rope:g}{unit} (the ROPE)" if rope else ""
        yield (
            f"Better or worse takes all of these: p below {ALPHA:g}, an interval without 0{than}."
        )
        yield (
            "p is that of a permutation test paired by seed, corrected for the number of "
            "comparisons (Holm)."
        )
    seeds = sorted({len(row.scores) for row in groups})
    counts = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    spread = [row.seed_error for row in groups if row.seed_error is not None]
    errors = [row.test_error for row in groups if row.test_error is not None]
    scale = groups[0].scale
    text = f"{counts} {agreeing(seeds[-1], 'seed', 'seeds')} a schedule and base LR"
    if spread:
        text += f", whose means have standard errors of {_range(spread, scale, '')}"
    yield f"{text}."
    if items := min(row.items for row in groups):
        text = f"{items:,} test items, the same for all schedules"
        if errors:
            error = _range([median(errors)], scale, "")
            text += (
                f". Which items they are gives a score a standard error of about {error}: most of "
                "it is common to all schedules, none of it is in the intervals"
            )
        yield f"{text}."


def _lacking(row: ContrastRow, judged: Verdict) -> str:
    """Why a comparison is undecided, where its p alone would not say so, and what would decide."""
    if not judged.seeds_needed:
        return ""
    seeds = f"about {judged.seeds_needed:,} seeds"
    if not may_be_decided(row, judged):
        return f"; {seeds} would show the two to be equivalent"
    open_end = judged.p_adjusted < ALPHA and judged.paired.low <= 0 <= judged.paired.high
    return f"{' but 0 in the interval' if open_end else ''}; {seeds} would decide"


def _cost(
    rows: Sequence[ContrastRow], groups: Sequence[GroupRow], analysis: Analysis
) -> Iterator[str]:
    """Training time beside the other's, and the share of the budget that a search took."""
    ratios: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if math.isfinite(row.seconds_ratio) and row.seconds_ratio and not row.several_machines:
            candidate, baseline = _names(row)
            ratios[candidate][baseline].append(row.seconds_ratio)
    for candidate, by_baseline in ratios.items():
        told = _and(
            f"{_span(found, '.2f')} times that of {name}" for name, found in by_baseline.items()
        )
        at = len({row.lr for row in rows}) > 1
        yield f"The training time of {candidate} is {told}{', by base LR' if at else ''}."
    if rows and not ratios:
        yield f"Training times are not compared, because {_why_no_times(rows, groups)}."
    shares: dict[str, list[float]] = defaultdict(list)
    for group in groups:
        for run in analysis.members[group.group]:
            if run.result.found is not None:
                shares[_label(group)].append(run.result.found.updates / run.result.updates)
    for name, some in shares.items():
        share = f"{100 * median(some):.0f} % of a run's updates"
        yield f"The search of {name} takes {share}, which are part of its budget."


def _why_no_times(rows: Sequence[ContrastRow], groups: Sequence[GroupRow]) -> str:
    if any(row.several_machines for row in rows):
        return "the runs are of several machines"
    if any(row.diverged for row in groups):
        return "runs diverged"
    return "no two schedules have a seed in common"


def _unknown_lr(analysis: Analysis, groups: Sequence[GroupRow]) -> str:
    """Which schedule is least hurt by a wrong base LR, if several were tried."""
    by_name: dict[str, dict[float, float]] = defaultdict(dict)
    for row in groups:
        by_name[_label(row)][row.group.lr] = row.mean
    reference = analysis.study.plan.get("reference", "cosine")
    known = reference if reference in by_name else max(by_name, key=lambda n: len(by_name[n]))
    rates = sorted(by_name[known])
    if len(rates) == 1:
        return (
            f"This study cannot say: {known} was tried at base LR {rates[0]:g} alone. "
            "toolkit compare --lrs tries several."
        )
    scale, metric = groups[0].scale, metric_of(analysis, groups[0].group.pair)
    worst = {
        name: scale.worst(means[lr] for lr in rates)
        for name, means in by_name.items()
        if means.keys() >= {*rates}
    }
    if len(worst) < 2:
        return f"This study cannot say: {_and(worst)} alone was tried at several base LRs."
    unit, digits = " %" if scale == POINTS else "", f".{scale.decimals}f"
    shown = {name: f"{value:{digits}}{unit}" for name, value in worst.items()}
    best = scale.best(worst.values())
    least = next(shown[name] for name, value in worst.items() if value == best)
    equal = [name for name in worst if shown[name] == least]
    others = [name for name in worst if name not in equal]
    limit, verb = ("below", "falls") if scale.higher_is_better else ("above", "rises")
    over = f"over base LRs {rates[0]:g} to {rates[-1]:g}"
    if len(equal) > 1:
        more = f", which that of {_and(others)} is" if others else ""
        return (
            f"No single schedule stands out: {over} the mean {metric} of {_and(equal)} is never "
            f"{limit} {least}{more}. These are means, no verdict."
        )
    rival = reference if reference in others else others[0]
    return (
        f"Use {equal[0]}: {over} its mean {metric} is never {limit} {least}, while that of {rival} "
        f"{verb} to {shown[rival]}. These are means, no verdict."
    )


def _best_mean(analysis: Analysis, groups: Sequence[GroupRow]) -> str:
    """What stands out where nothing was declared, or nothing could be judged."""
    scale = groups[0].scale
    best = scale.best(row.mean for row in groups)
    where = _and(f"{_label(r)} at base LR {r.group.lr:g}" for r in groups if r.mean == best)
    why = "nothing was declared before the runs" if not analysis.family else "nothing can be judged"
    unit = " %" if scale == POINTS else ""
    return (
        f"No verdict: {why}. The best mean {metric_of(analysis, groups[0].group.pair)}, "
        f"{best:.{scale.decimals}f}{unit}, is that of {where}."
    )


def _trained(runs: Sequence[RunRecord]) -> str:
    """How long the runs of a pair are, on how much, and what they have in common beside."""
    results = [run.result for run in runs if not run.diverged]
    if not results:
        return ""
    recipes = [result.recipe_settings for result in results]
    batches = {recipe["global_batch"] for recipe in recipes if "global_batch" in recipe}
    samples = {result.samples["train"] for result in results if "train" in result.samples}
    words = f"Runs of {_many({result.updates for result in results}, 'update')}"
    words += f" of {_many(batches, 'sample')}" if batches else ""
    words += f" ({_span({result.epoch for result in results}, '.3g')} epochs)"
    words += f" on {_many(samples, 'training sample')}" if samples else ""
    optimizers = dict.fromkeys(recipe.get("optimizer") for recipe in recipes)
    words += f", by {_and(map(str, optimizers))}" if None not in optimizers else ""
    return f"{words}, from {_and(dict.fromkeys(result.init for result in results))} weights."


def _span(values: Collection[float], form: str) -> str:
    """The values, or the least and the greatest of several."""
    low, high = (f"{value:{form}}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def _many(values: Collection[int], noun: str) -> str:
    """How many things, or from how many to how many."""
    return counted(min(values), noun) if len(values) == 1 else f"{_span(values, ',')} {noun}s"


def _and(words: Iterable[str]) -> str:
    """Words in a row: a, b and c."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
