"""The tables of the page, as cells of plain text."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.report.numbers.analyse import SPANS, Analysis, ContrastRow, GroupRow
from toolkit.report.numbers.load import RunRecord
from toolkit.report.text import contrast_label, metric_of, schedule_label
from toolkit.schedules import SCHEDULES, summary_of

NUMBERS_FROM = 2
"""Tables begin with so many columns of words, unless they say otherwise."""
OF_A_RUN = ("lr", "epochs", "updates", "micro_batch", "eval_batch")
"""Settings of a recipe that are told elsewhere, or change no result."""
FOLD_FROM = 25
"""Longer tables are folded."""


@dataclass(frozen=True)
class Table:
    """A table, or nothing if it has no rows.

    Attributes:
        title: for the reader who opens a folded one.
        caption: what the columns mean.
        head: names of the columns.
        rows: cells.
        words: how many columns at the left are words; the others are aligned as numbers.
    """

    title: str
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = NUMBERS_FROM

    @property
    def folded(self) -> bool:
        """Whether it is too long to be shown at once."""
        return len(self.rows) > FOLD_FROM


def verdicts(analysis: Analysis) -> Table:
    """The primary family."""
    head = ["pair", "comparison", "base LR", "verdict", "seeds", "difference", "95 % interval"]
    head += ["BCa interval", "wins", "p exact", "least p", "p Holm", "ROPE", "time ratio"]
    caption = (
        "Declared before the runs. Differences are candidate minus baseline, paired by seed, of "
        "the test metric at the last update. Wins: share of seeds in which the candidate is ahead. "
        "Least p: the smallest that so many seeds can give."
    )
    rows = [_verdict_cells(row) for row in analysis.family]
    return Table("All numbers of the verdicts", caption, head, rows)


def _verdict_cells(row: ContrastRow) -> list[str]:
    cells = [row.pair, contrast_label(row), f"{row.lr:g}"]
    if row.judged is None:
        return [*cells, row.problem, *[""] * 10]
    paired, judged = row.judged.paired, row.judged
    seeds = str(paired.n) + (f" of about {judged.seeds_needed}" if judged.seeds_needed else "")
    return [
        *(*cells, judged.verdict, seeds, f"{paired.mean:+.2f}"),
        *(_interval(paired.low, paired.high), _interval(*paired.bca)),
        *(f"{paired.superiority:.0%}", f"{paired.p:.4f}", f"{paired.smallest_p:.4f}"),
        *(f"{judged.p_adjusted:.4f}", f"{row.rope:g}", _ratio(row.seconds_ratio)),
    ]


def exploratory(analysis: Analysis) -> Table:
    """Schedules beside the reference that nobody declared."""
    rows = [
        [
            *(row.pair, contrast_label(row), f"{row.lr:g}", str(row.paired.n)),
            *(f"{row.paired.mean:+.2f}", _interval(row.paired.low, row.paired.high)),
            *(_interval(*row.paired.bca), _ratio(row.seconds_ratio)),
        ]
        for row in analysis.exploratory
        if row.paired
    ]
    head = ["pair", "comparison", "base LR", "seeds", "difference", "95 % interval"]
    head += ["BCa interval", "time ratio"]
    caption = "Not declared before the runs: intervals, no verdicts."
    return Table("Other differences", caption, head, rows)


def entrants(analysis: Analysis) -> Table:
    """What each schedule is, and its settings."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for run in analysis.study.runs:
        settings = run.result.get("schedule_config", {})
        told = ", ".join(f"{name} {_plain(value)}" for name, value in settings.items())
        names = (run.group.schedule, run.result["schedule"])
        found.setdefault(names, {}).setdefault(told or "none")
    rows = [
        [entrant, _rule(name), "; or ".join(settings)]
        for (entrant, name), settings in found.items()
    ]
    caption = "Shares are of the budget of updates; warmup 0 is none."
    return Table("The schedules", caption, ["schedule", "rule", "settings"], rows, words=3)


def recipes(analysis: Analysis) -> Table:
    """What all schedules of a pair share."""
    found: dict[tuple[str, str], None] = {}
    for run in analysis.study.runs:
        if run.diverged:
            continue
        settings = run.result["recipe_settings"]
        told = ", ".join(
            f"{name.replace('_', ' ')} {_plain(value)}"
            for name, value in settings.items()
            if value is not None and name not in OF_A_RUN
        )
        budget = f"{run.result['updates']:,} updates"
        if epochs := run.result.get("epoch"):
            budget += f", {epochs:.3g} epochs"
        if samples := run.result.get("samples"):
            sizes = (f"{name} {count:,}" for name, count in samples.items())
            budget += f"; samples: {', '.join(sizes)}"
        found[run.group.pair, f"{budget}; {told}"] = None
    caption = "The budget, the splits, and all settings but the base LR."
    return Table("The recipes", caption, ["pair", "recipe"], list(map(list, found)))


def _rule(name: str) -> str:
    kind = SCHEDULES.get(name)
    return "a schedule of the user's own" if kind is None else summary_of(kind)


def _plain(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def schedules(analysis: Analysis) -> Table:
    """Every group."""
    rollbacks = _rollbacks(analysis.study.runs)
    rows = [
        [
            *(*_place(row), str(len(row.scores)), f"{row.mean:.2f}"),
            "one seed" if row.interval is None else _span(*row.interval),
            *(f"{min(row.scores.values()):.2f}", f"{max(row.scores.values()):.2f}"),
            *(str(row.diverged), _range(*row.actions), str(rollbacks[row.group])),
        ]
        for row in analysis.groups
    ]
    head = ["pair", "schedule", "base LR", "seeds", metric_of(analysis), "95 % interval", "worst"]
    head += ["best", "diverged", "decisions a run", "rollbacks"]
    caption = "The test metric at the last update, mean over the seeds. A diverged run scores 0."
    return Table("All schedules", caption, head, rows)


def aggregates(analysis: Analysis) -> Table:
    """Interquartile means and speed-ups over all problems."""
    found = analysis.overall
    head = ["schedule", "interquartile mean", "95 % interval", "minus reference", "95 % interval"]
    head += ["speed-up in updates", "95 % interval", "misses", "profile area"]
    if found is None:
        return Table("Over all problems", "", head, [])
    rows = []
    for i, name in enumerate(found.schedules):
        cells = [name, f"{found.iqm[i].value:.2f}", _span(found.iqm[i].low, found.iqm[i].high)]
        gain = found.iqm_difference[i]
        cells += [f"{gain.value:+.2f}", _interval(gain.low, gain.high)] if gain else ["", ""]
        race = found.updates
        speed = race.speedups[i] if race else None
        if speed:
            ratio = speed.ratio
            cells += [f"{ratio.value:.2f}", _span(ratio.low, ratio.high)]
            cells += [f"{speed.candidate_misses} of {speed.runs}"]
        else:
            cells += ["", "", ""]
        rows.append([*cells, f"{race.profile.scores[i].value:.2f}" if race else ""])
    caption = (
        f"Over {len(found.problems)} problems (pairs at a base LR); intervals by the bootstrap "
        f"over seeds. None of it was declared before the runs: no verdicts. The interquartile mean "
        "is that of the middle half of all scores, whatever their metric. The reference is "
        f"{found.reference}. In the speed-up a run that misses the target counts with its whole "
        "budget, which is too kind to it."
    )
    return Table("Over all problems", caption, head, rows, words=1)


def targets(analysis: Analysis) -> Table:
    """How soon the target is reached."""
    rows = [
        [
            *(row.group.pair, schedule_label(row.group.schedule, row.group.arm)),
            *(f"{row.group.lr:g}", f"{row.target:.2f}", f"{row.reached} of {len(row.updates)}"),
            *(_time(row.median_updates, ".0f"), _time(row.median_seconds, ".1f")),
        ]
        for row in analysis.targets
    ]
    head = ["pair", "schedule", "base LR", "target", "seeds that reach it", "median update"]
    caption = (
        "The target is the validation score that the reference reaches at its best base LR; times "
        "to the first evaluation at or above it."
    )
    return Table("Time to the target", caption, [*head, "median seconds"], rows)


def rates(analysis: Analysis) -> Table:
    """The base LR's part in the result."""
    rows = []
    for row in analysis.rates:
        found = row.sensitivity
        cells = [row.pair, row.schedule, f"{found.best_rate:g}"]
        cells += [f"{each.value:.2f}" for each in (found.average, found.loss)]
        cells += [_span(found.loss.low, found.loss.high), f"{found.decades:.1f}"]
        rows.append(cells)
    head = ["pair", "schedule", "best LR", "mean of the grid", "lost by not tuning"]
    caption = (
        "Lost by not tuning: score at the best base LR minus the mean of the grid. Decades: width "
        "of the range of base LRs around the best that is within the ROPE of it."
    )
    return Table("The base LR", caption, [*head, "95 % interval", "decades"], rows)


def times(analysis: Analysis) -> Table:
    """Where the seconds went."""
    updates = _updates(analysis.study.runs)
    rows = [
        [
            *(*_place(row), f"{row.seconds:.2f}"),
            f"{1000 * row.seconds / updates[row.group]:.2f}",
            *(f"{row.spans[name]:.2f}" for name in SPANS),
        ]
        for row in analysis.groups
    ]
    spans = [name.replace("_", "/") for name in SPANS]
    head = ["pair", "schedule", "base LR", "training", "ms an update", *spans]
    caption = (
        "Seconds a run, mean over the seeds; the ratios of the verdicts are geometric means of the "
        "ratios seed by seed. Training is without evaluation and checkpoints. On an accelerator "
        "the spans are what the host waited."
    )
    return Table("Time", caption, head, rows)


def seeds(analysis: Analysis) -> Table:
    """Every run."""
    rows = [
        [
            *(row.group.pair, schedule_label(row.group.schedule, row.group.arm)),
            *(f"{row.group.lr:g}", str(row.seed), f"{row.test:.2f}"),
            *(_number(row.last_validation), _number(row.best_validation)),
            *("diverged" if row.diverged else "", f"{row.seconds:.1f}"),
        ]
        for row in analysis.seeds
    ]
    head = ["pair", "schedule", "base LR", "seed", "test", "last validation", "best validation"]
    caption = "The best validation score is shown, never judged."
    return Table("Every run", caption, [*head, "diverged", "training, s"], rows)


def coverage(analysis: Analysis) -> Table:
    """How much of what was asked for was run."""
    rows = [
        [row.pair, row.scale, row.note, f"{row.finished} of {row.planned}"]
        for row in analysis.coverage
    ]
    return Table("What was run", "", ["pair", "scale", "note", "runs"], rows, words=3)


def trouble(analysis: Analysis) -> Table:
    """Runs that diverged, by group; runs without a result; runs that rolled back."""
    rows = []
    for row in analysis.groups:
        runs = [run for run in analysis.study.runs if run.group == row.group]
        for what, found in (
            ("diverged", [run for run in runs if run.diverged]),
            ("rolled back", [run for run in runs if run.result.get("rollbacks", 0)]),
        ):
            if found:
                names = ", ".join(run.folder.name for run in found)
                cells = [what, f"{len(found)} of {len(runs)}", *_place(row), names]
                rows.append(cells)
    for folder, state in analysis.study.unfinished:
        rows.append(["no result", "", "", "", "", f"{folder.name} ({state})"])
    head = ["what", "runs", "pair", "schedule", "base LR", "folders"]
    return Table("Runs that did not go well", "", head, rows, words=6)


def _place(row: GroupRow) -> list[str]:
    group = row.group
    return [group.pair, schedule_label(group.schedule, group.arm), f"{group.lr:g}"]


def _rollbacks(runs: Iterable[RunRecord]) -> dict[Any, int]:
    total: dict[Any, int] = {}
    for run in runs:
        total[run.group] = total.get(run.group, 0) + run.result.get("rollbacks", 0)
    return total


def _updates(runs: Iterable[RunRecord]) -> dict[Any, float]:
    """Mean number of updates of a run, by group."""
    made: dict[Any, list[int]] = {}
    for run in runs:
        made.setdefault(run.group, []).append(run.result["updates"])
    return {group: max(1.0, sum(updates) / len(updates)) for group, updates in made.items()}


def _interval(low: float, high: float) -> str:
    return f"{low:+.2f} to {high:+.2f}"


def _span(low: float, high: float) -> str:
    return f"{low:.2f} to {high:.2f}"


def _range(least: int, most: int) -> str:
    return str(least) if least == most else f"{least} to {most}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _time(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "missed"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) and value else "diverged"
