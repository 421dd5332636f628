"""The tables of a report, for the page, a terminal and W&B."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from toolkit.records.result import SPANS
from toolkit.report.columns import Column, Table, aligned
from toolkit.report.numbers.analyse import NO_ROPE, Analysis, ContrastRow
from toolkit.report.numbers.runs import Group, RunRecord
from toolkit.report.text import (
    contrast_label,
    diverged_of,
    may_be_decided,
    metric_of,
    pair_label,
    schedule_label,
)
from toolkit.scales import POINTS, Scale
from toolkit.schedules import SCHEDULES, summary_of
from toolkit.words import counted

HIDDEN_SETTINGS = ("lr", "epochs", "updates", "micro_batch", "eval_batch")
"""Settings of a recipe that the table of recipes leaves out: they stand in other columns, or change
no result."""


def verdict_table(analysis: Analysis) -> str:
    """The verdicts, and every schedule's mean, for a terminal."""
    tables = (family(analysis), groups(analysis))
    return "\n\n".join(aligned(table) for table in tables if table.rows)


def number(value: float | None, scale: Scale = POINTS) -> str:
    return "" if value is None else f"{value:.{scale.decimals}f}"


def _time(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "missed"


def _ratio(row: ContrastRow) -> str:
    value = row.seconds_ratio
    return f"{value:.2f}" if math.isfinite(value) and value else "diverged"


def _plain(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _label(row: Any) -> str:
    return schedule_label(row.group.schedule, row.group.arm)


def _interval(row: Any) -> str:
    if row.interval is None:
        return "one seed"
    return " to ".join(number(end, row.scale) for end in row.interval)


def _if_judged(form: str) -> Callable[[ContrastRow], str]:
    """A format of ``row``, for comparisons with a verdict; else nothing."""
    return lambda row: form.format(row=row) if row.judged else ""


def _if_paired(form: str) -> Callable[[ContrastRow], str]:
    """A format of ``row``, for comparisons that can be made; else nothing."""
    return lambda row: form.format(row=row) if row.paired else ""


def _seeds(row: ContrastRow) -> str:
    """How many seeds a comparison has, and about how many it needs."""
    if row.paired is None:
        return ""
    needed = row.judged.seeds_needed if row.judged else None
    return str(row.paired.n) + (f" of about {needed:,}" if needed else "")


def _verdict(row: ContrastRow) -> str:
    if row.judged:
        return row.judged.verdict
    return "none: no ROPE is declared" if row.problem == NO_ROPE else row.problem


def _verdict_and_seeds(row: ContrastRow) -> str:
    """A verdict, or why there is none, and about how many seeds would decide."""
    if row.judged is None or not row.judged.seeds_needed:
        return _verdict(row)
    end = "" if may_be_decided(row, row.judged) else " to equivalence"
    return f"{row.judged.verdict} (about {row.judged.seeds_needed:,} seeds{end})"


def of_pairs(analysis: Analysis, columns: list[Column]) -> list[Column]:
    """Columns of which the first has the pair; without it where there is one pair alone."""
    return columns[len(analysis.pairs) == 1 :]


GROUP = [
    Column("pair", lambda row: pair_label(row.group.pair)),
    Column("schedule", _label),
    Column("base LR", "{row.group.lr:g}"),
]
CONTRAST = [
    Column("pair", lambda row: pair_label(row.pair)),
    Column("comparison", contrast_label),
    Column("base LR", "{row.lr:g}"),
]
DIFFERENCE = [
    Column("difference", "{row.paired.mean:+.{row.scale.decimals}f}"),
    Column(
        "95 % interval",
        "{row.paired.low:+.{row.scale.decimals}f} to {row.paired.high:+.{row.scale.decimals}f}",
    ),
    Column(
        "BCa interval",
        "{row.paired.bca[0]:+.{row.scale.decimals}f} to "
        "{row.paired.bca[1]:+.{row.scale.decimals}f}",
    ),
]
MEAN = "{row.mean:.{row.scale.decimals}f}"
TIME_RATIO = "training seconds, candidate / baseline: geometric mean over the seeds"


def verdicts(analysis: Analysis) -> Table:
    """The primary family with all numbers, for the page."""
    columns = [
        *CONTRAST,
        Column("verdict", _verdict),
        Column("seeds", _seeds),
        *(Column(title, _if_paired(str(cell))) for title, cell, _ in DIFFERENCE),
        Column("wins", _if_paired("{row.paired.superiority:.0%}")),
        Column("p exact", _if_judged("{row.paired.p:.4f}")),
        Column("least p", _if_judged("{row.paired.smallest_p:.4f}")),
        Column("p Holm", _if_judged("{row.judged.p_adjusted:.4f}")),
        Column("ROPE", _if_judged("{row.rope:g}")),
        Column("time ratio", lambda row: _ratio(row) if row.paired else "", TIME_RATIO),
    ]
    caption = (
        "Declared before the runs. Differences are candidate minus baseline, paired by seed, of "
        "the test metric at the last update. Wins: share of seeds in which the candidate is ahead, "
        "a tie counted half. BCa: the bootstrap's interval, which does not judge. "
        "Least p: the smallest that so many seeds can give."
    )
    return Table("All numbers of the verdicts", caption, columns, analysis.family)


def family(analysis: Analysis) -> Table:
    """The primary family in short, for the page's answer, a terminal and W&B."""
    columns = [
        *CONTRAST[:1],
        *CONTRAST[:0:-1],
        *(Column(title, _if_paired(str(cell))) for title, cell, _ in DIFFERENCE[:2]),
        Column("p (Holm)", _if_judged("{row.judged.p_adjusted:.4f}")),
        Column("verdict", _verdict_and_seeds),
    ]
    caption = "Candidate minus baseline, paired by seed: the test metric at the last update."
    shown = of_pairs(analysis, columns)  # the last four are numbers and the verdict
    return Table("The verdicts", caption, shown, analysis.family, words=len(shown) - 4)


def exploratory(analysis: Analysis) -> Table:
    """Schedules beside the reference that nobody declared."""
    seeds, ratio = Column("seeds", "{row.paired.n}"), Column("time ratio", _ratio, TIME_RATIO)
    caption = "Not declared before the runs: intervals, no verdicts."
    rows = [row for row in analysis.exploratory if row.paired]
    return Table("Other differences", caption, [*CONTRAST, seeds, *DIFFERENCE, ratio], rows)


def entrants(analysis: Analysis) -> Table:
    """What each schedule is, and its settings. A row is (entrant, schedule) and its settings."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for run in analysis.study.runs:
        settings = run.result.schedule_config
        settings_text = ", ".join(f"{name} {_plain(value)}" for name, value in settings.items())
        names = (run.group.schedule, run.result.schedule)
        found.setdefault(names, {}).setdefault(settings_text or "none")
    columns = [
        Column("schedule", "{row[0][0]}"),
        Column("rule", lambda row: _rule(row[0][1])),
        Column("settings", lambda row: "; or ".join(row[1])),
    ]
    caption = "Shares are of the budget of updates; warmup 0 is none."
    return Table("The schedules", caption, columns, [*found.items()], words=3)


def _rule(name: str) -> str:
    kind = SCHEDULES.get(name)
    return "a schedule of the user's own" if kind is None else summary_of(kind)


def recipes(analysis: Analysis) -> Table:
    """What all schedules of a pair share. A row is a pair and its recipe."""
    found: dict[tuple[str, str], None] = {}
    for run in analysis.study.runs:
        if run.diverged:
            continue
        settings = run.result.recipe_settings
        settings_text = ", ".join(
            f"{name.replace('_', ' ')} {_plain(value)}"
            for name, value in settings.items()
            if value is not None and name not in HIDDEN_SETTINGS
        )
        budget = counted(run.result.updates, "update")
        if epochs := run.result.epoch:
            budget += f", {epochs:.3g} epochs"
        if samples := run.result.samples:
            sizes = (f"{name} {count:,}" for name, count in samples.items())
            budget += f"; samples: {', '.join(sizes)}"
        found[run.group.pair, f"{budget}; {settings_text}"] = None
    columns = [Column("pair", "{row[0]}"), Column("recipe", "{row[1]}")]
    caption = "The budget, the splits, and all settings but the base LR."
    return Table("The recipes", caption, columns, [*found])


def schedules(analysis: Analysis) -> Table:
    """Every group with its scores and what its runs did, for the page."""
    rollbacks: Counter[Group] = Counter()
    for run in analysis.study.runs:
        rollbacks[run.group] += run.result.rollbacks
    columns = [
        *GROUP,
        Column("seeds", lambda row: str(len(row.scores))),
        Column(metric_of(analysis), MEAN),
        Column("95 % interval", _interval),
        Column("s.e., seeds", lambda row: number(row.seed_error, row.scale)),
        Column("s.e., test split", lambda row: number(row.test_error, row.scale)),
        Column("test items", lambda row: f"{row.items:,}" if row.items else ""),
        Column("worst", lambda row: number(row.scale.worst(row.scores.values()), row.scale)),
        Column("best", lambda row: number(row.scale.best(row.scores.values()), row.scale)),
        Column("diverged", "{row.diverged}"),
        Column("decisions a run", lambda row: " to ".join(map(str, dict.fromkeys(row.actions)))),
        Column("rollbacks", lambda row: str(rollbacks[row.group])),
    ]
    caption = (
        f"The test metric at the last update, mean over the seeds. {diverged_of(analysis)} s.e.: "
        "standard errors; that of the test split, binomial, is that of one score, and is in no "
        "interval, as all schedules are scored on the same items."
    )
    return Table("All schedules", caption + _beyond(analysis), columns, analysis.groups)


def _beyond(analysis: Analysis) -> str:
    """What an interval means that reaches beyond the scores there can be; it is not cut off."""
    ends = [x for row in analysis.groups if row.scale == POINTS for x in row.interval or ()]
    if all(0 <= end <= 100 for end in ends):
        return ""
    return (
        " Intervals are t-intervals of the mean, which know no bounds: one that reaches above 100 "
        "or below 0 is of few seeds or uneven ones, and no such score can be expected."
    )


def groups(analysis: Analysis) -> Table:
    """Every group in short, for a terminal and W&B."""

    def seeds(row: Any) -> str:
        return str(len(row.scores)) + (f" ({row.diverged} diverged)" if row.diverged else "")

    columns = [
        *GROUP[:1],
        *GROUP[:0:-1],
        Column("seeds", seeds),
        Column(metric_of(analysis), MEAN),
        Column("95 % interval", _interval),
        Column("s / run", "{row.seconds:.1f}"),
    ]
    return Table("All schedules", "", of_pairs(analysis, columns), analysis.groups)


def aggregates(analysis: Analysis) -> Table:
    """Interquartile means and speed-ups over all problems. A row is the place of a schedule."""
    found = analysis.overall
    if found is None:
        return Table("Over all problems", "", [], [])

    def each(values: Sequence[Any], form: str) -> Callable[[int], str]:
        """A format of the schedule's value, or nothing if that is None."""
        return lambda i: "" if values[i] is None else form.format(values[i])

    nothing: list[Any] = [None] * len(found.schedules)
    speedups = found.updates.speedups if found.updates else nothing
    digits = f".{(found.scale or POINTS).decimals}f"
    areas = found.updates.profile.scores if found.updates else nothing
    columns = [
        Column("schedule", each(found.schedules, "{0}")),
        Column("interquartile mean", each(found.iqm, f"{{0.value:{digits}}}")),
        Column("95 % interval", each(found.iqm, f"{{0.low:{digits}}} to {{0.high:{digits}}}")),
        Column("minus reference", each(found.iqm_difference, f"{{0.value:+{digits}}}")),
        Column(
            "95 % interval",
            each(found.iqm_difference, f"{{0.low:+{digits}}} to {{0.high:+{digits}}}"),
        ),
        Column("speed-up in updates", each(speedups, "{0.ratio.value:.2f}")),
        Column("95 % interval", each(speedups, "{0.ratio.low:.2f} to {0.ratio.high:.2f}")),
        Column("misses", each(speedups, "{0.candidate_misses} of {0.runs}")),
        Column("profile area", each(areas, "{0.value:.2f}")),
    ]
    caption = (
        f"Over {len(found.problems)} problems (pairs at a base LR); intervals by the bootstrap "
        f"over seeds. None of it was declared before the runs: no verdicts. The interquartile mean "
        "is that of the middle half of all scores, whatever their metric; there is none where some "
        "metrics are better the higher and others the lower they are. The reference is "
        f"{found.reference}. In the speed-up a run that misses the target counts with its whole "
        "budget, which is too kind to it."
    )
    rows = range(len(found.schedules))
    return Table("Over all problems", caption, columns, rows, words=1)


def targets(analysis: Analysis) -> Table:
    """How soon the target is reached."""
    columns = [
        *GROUP,
        Column("target", "{row.target:.{row.scale.decimals}f}"),
        Column("seeds that reach it", lambda row: f"{row.reached} of {len(row.updates)}"),
        Column("median update", lambda row: _time(row.median_updates, ".0f")),
        Column("median seconds", lambda row: _time(row.median_seconds, ".1f")),
    ]
    caption = (
        "The target is the median over the seeds of the reference's last validation score at its "
        "best base LR; times to the first evaluation that is as good."
    )
    return Table("Time to the target", caption, columns, analysis.targets)


def times(analysis: Analysis) -> Table:
    """Where the seconds went."""

    def milliseconds(row: Any) -> str:
        """Of an update: mean seconds of a run over its mean number of updates."""
        made = [run.result.updates for run in analysis.members[row.group]]
        return f"{1000 * row.seconds / max(1.0, sum(made) / len(made)):.2f}"

    columns = [
        *GROUP,
        Column("training", "{row.seconds:.2f}"),
        Column("ms an update", milliseconds),
        *(Column(name.replace("_", "/"), f"{{row.spans[{name}]:.2f}}") for name in SPANS),
    ]
    caption = (
        "Seconds a run, mean over the seeds; the ratios of the verdicts are geometric means of the "
        "ratios seed by seed. Training is without evaluation and checkpoints. On an accelerator "
        "the spans are what the host waited."
    )
    return Table("Time", caption, columns, analysis.groups)


def seeds(analysis: Analysis) -> Table:
    """Every run."""
    columns = [
        *GROUP,
        Column("seed", "{row.seed}"),
        Column("test", "{row.score:.{row.scale.decimals}f}"),
        Column("last validation", _last_validation),
        Column("best validation", _best_validation),
        Column("diverged", lambda row: "diverged" if row.diverged else ""),
        Column("training, s", "{row.training_seconds:.1f}"),
    ]
    caption = "The best validation score is shown, never judged."
    return Table("Every run", caption, columns, analysis.study.runs)


def _last_validation(run: RunRecord) -> str:
    return number(run.validation.value[-1] if run.validation.value else None, run.scale)


def _best_validation(run: RunRecord) -> str:
    values = run.validation.value
    return number(run.scale.best(values) if values else None, run.scale)


def coverage(analysis: Analysis) -> Table:
    """How much of what was asked for was run."""
    columns = [Column(name, f"{{row.{name}}}") for name in ("pair", "scale", "note")]
    columns.append(Column("runs", "{row.finished} of {row.planned}"))
    return Table("What was run", "", columns, analysis.coverage, words=3)


def trouble(analysis: Analysis) -> Table:
    """Runs that diverged, by group; runs without a result; runs that rolled back."""
    rows = []
    for group, runs in analysis.members.items():
        for what, found in (
            ("diverged", [run for run in runs if run.diverged]),
            ("rolled back", [run for run in runs if run.result.rollbacks]),
        ):
            if found:
                names = ", ".join(run.folder.name for run in found)
                place = (group.pair, schedule_label(group.schedule, group.arm), f"{group.lr:g}")
                rows.append((what, f"{len(found)} of {len(runs)}", *place, names))
    for folder, state in analysis.study.unfinished:
        rows.append(("no result", "", "", "", "", f"{folder.name} ({state})"))
    head = ("what", "runs", "pair", "schedule", "base LR", "folders")
    columns = [Column(title, f"{{row[{i}]}}") for i, title in enumerate(head)]
    return Table("Runs that did not go well", "", columns, rows, words=6)
