"""The report's sentences, as plain text: what was found, in short and at length."""

import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from toolkit.records.result import Result, duration
from toolkit.report.numbers.analyse import Analysis, ContrastRow
from toolkit.report.numbers.rates import TunedRow
from toolkit.report.numbers.runs import RunRecord
from toolkit.scales import POINTS
from toolkit.stats import ALPHA, Verdict
from toolkit.task import parse_target
from toolkit.words import counted

METRIC_NAMES = {"f1": "F1", "exact": "EM"}
"""How papers write a metric, where that is not its name here."""
MOST_PLACES = 6
"""Comparisons of which the summary says where they went which way."""
VERDICTS = ("better", "worse", "equivalent", "undecided")


@dataclass(frozen=True)
class Finding:
    """One thing that was found out.

    Attributes:
        kind: better, worse, equivalent or undecided; empty for what is no verdict.
        headline: one plain sentence.
        details: how sure it is, and at which cost; may be empty.
    """

    kind: str
    headline: str
    details: str = ""

    def __str__(self) -> str:
        return f"{self.headline} {self.details}".rstrip()


def findings(analysis: Analysis) -> list[Finding]:
    """What was found out, one for each comparison of the primary family."""
    if analysis.tuned:
        return [_tuned(row) for row in analysis.tuned]
    if not analysis.family:
        return [
            Finding(
                "",
                "No primary family was declared for these runs, so there is no verdict: everything "
                "below is exploratory.",
            )
        ]
    return [_finding(row, analysis) for row in analysis.family]


def verdict_sentences(analysis: Analysis) -> list[str]:
    """The findings as text."""
    return [str(finding) for finding in findings(analysis)]


def summary(analysis: Analysis) -> list[str]:
    """The whole study in a few sentences: who won how often, and what it cost."""
    return [
        *_answer(analysis),
        *_counts(analysis),
        *_highest(analysis),
        *_idle(analysis),
        _cost(analysis),
    ]


def _answer(analysis: Analysis) -> Iterator[str]:
    """The answer, where it is that there is none."""
    judged = [row.judged for row in analysis.family if row.judged]
    if len(judged) > 1 and all(one.verdict == "undecided" for one in judged):
        yield f"None of the {len(judged)} comparisons is decided."


def _idle(analysis: Analysis) -> Iterator[str]:
    """Schedules that did not do what they are for: their names promise more than they did."""
    runs: dict[str, dict[str, list[RunRecord]]] = {}
    for run in analysis.study.runs:
        runs.setdefault(run.group.schedule, {}).setdefault(run.group.pair, []).append(run)
    for schedule, by_pair in runs.items():
        every = [run for several in by_pair.values() for run in several]
        acted = any(run.actions for run in every)
        flat = not acted and all(len(set(run.lr.value)) == 1 for run in every)
        if flat and schedule != "constant":
            yield (
                f"{schedule} never changed the LR in {counted(len(every), 'run')}: it is a "
                f"constant LR here."
            )
        elif acted:
            for pair, several in by_pair.items():
                if not any(run.actions for run in several):
                    yield (
                        f"{schedule} made no decision on {pair_label(pair)}: its shape alone set "
                        "the LR there."
                    )


def _counts(analysis: Analysis) -> Iterator[str]:
    """How the comparisons of each two schedules went."""
    for candidate, baseline in dict.fromkeys((r.candidate, r.baseline) for r in analysis.family):
        rows = [r for r in analysis.family if (r.candidate, r.baseline) == (candidate, baseline)]
        found: dict[str, list[ContrastRow]] = {}
        for row in rows:
            found.setdefault(row.judged.verdict if row.judged else "not judged", []).append(row)
        parts = [
            _where(name, found[name], rows) for name in (*VERDICTS, "not judged") if name in found
        ]
        many = counted(len(rows), "comparison")
        yield f"{candidate} against {baseline}, {many}: {', '.join(parts)}{_span(rows)}."


def _span(rows: Sequence[ContrastRow]) -> str:
    """From where to where the differences of several comparisons go, if they are of one kind."""
    paired = [(row.paired.mean, row.scale) for row in rows if row.paired]
    means, scales = [mean for mean, _ in paired], {scale for _, scale in paired}
    if len(means) < 2 or len({scale[::2] for scale in scales}) > 1:
        return ""
    scale = scales.pop()
    low, high = (f"{value:+.{scale.decimals}f}" for value in (min(means), max(means)))
    return f"; differences from {low} to {high}{' points' * (scale == POINTS)}"


def _where(verdict: str, rows: Sequence[ContrastRow], all_rows: Sequence[ContrastRow]) -> str:
    """A verdict, how often it was reached, and where, if those are few places."""
    if len(rows) == len(all_rows) > 1:
        return f"{verdict} in all"
    count = f"{verdict} in {len(rows)}"
    if not 1 < len(all_rows) <= MOST_PLACES:
        return count
    pairs = len({row.pair for row in all_rows})
    rates = len({(row.pair, row.lr) for row in all_rows})
    names = [
        f"base LR {row.lr:g}"
        if pairs == 1
        else pair_label(row.pair) + (f" at {row.lr:g}" if rates > pairs else "")
        for row in rows
    ]
    return f"{count} ({', '.join(names)})"


def _highest(analysis: Analysis) -> Iterator[str]:
    """Where each pair scored best: not a verdict, as it is the best of many."""
    for pair in analysis.pairs:
        rows = [row for row in analysis.groups if row.group.pair == pair]
        scale = rows[0].scale
        best = next(row for row in rows if row.mean == scale.best(r.mean for r in rows))
        end = "highest" if scale.higher_is_better else "lowest"
        name = schedule_label(best.group.schedule, best.group.arm)
        yield (
            f"{pair_label(pair)}: the {end} mean {metric_of(analysis, pair)} is "
            f"{best.mean:.{scale.decimals}f}, by {name} at base LR {best.group.lr:g}; chosen "
            f"after looking, as the best of {len(rows)}, it is no verdict."
        )


def _cost(analysis: Analysis) -> str:
    runs = analysis.study.runs
    seconds = sum(run.training_seconds for run in runs)
    diverged = sum(run.diverged for run in runs)
    lost = f"; {diverged} of them diverged" if diverged else "; none diverged"
    return f"{counted(len(runs), 'run')}, {duration(seconds)} of training in all{lost}."


def made(analysis: Analysis) -> str:
    """When and where the runs were made, and how many, as a sentence."""
    runs = analysis.study.runs
    days = sorted(
        {datetime.fromtimestamp(run.begun, UTC).date().isoformat() for run in runs if run.begun}
    )
    when = f" of {' to '.join(dict.fromkeys((days[0], days[-1])))}" if days else ""
    places = dict.fromkeys(
        ", ".join(
            str(machine[name]) + (f" {name}" if name == "cores" else "")
            for name in ("accelerator", "processor", "cores")
            if machine.get(name)
        )
        for machine in (run.result.machine for run in runs)
    )
    where = " and ".join(place for place in places if place)
    return f"{counted(len(runs), 'run')}{when}{f' on {where}' if where else ''}."


def repeat(analysis: Analysis) -> str:
    """The commands that repeat a study, if a sweep made it, and its report, one a line."""
    plan, name = analysis.study.plan, analysis.study.name
    report = f"python -m toolkit.report {shlex.quote(f'runs/{name}')}"
    if all(trained_by(run.result) is not None for run in analysis.study.runs):
        return report
    source = shlex.quote(str(plan.get("source", name)))
    return f"{plan.get('command') or f'python -m toolkit.sweep {source}'}\n{report}"


def trained_by(result: Result) -> list[str] | None:
    """The arguments that ``toolkit.train`` was called with; None for a run of a sweep."""
    program, *arguments = result.argv or ("",)
    if Path(program).name == "toolkit" and arguments[:1] == ["train"]:
        return arguments[1:]
    return arguments if Path(program).name == "train.py" else None


def machines(runs: Sequence[RunRecord]) -> list[str]:
    """The machines of the runs, each with all that is known of it."""
    every = (run.result.machine.items() for run in runs)
    named = (", ".join(f"{name} {value}" for name, value in items) for items in every if items)
    return list(dict.fromkeys(named))


def metric_of(analysis: Analysis, pair: str = "") -> str:
    """What the headline metric is called: that of a pair, or without one that of all."""
    name = analysis.metrics.get(pair, analysis.metric)
    return METRIC_NAMES.get(name, name)


def diverged_of(analysis: Analysis) -> str:
    """What a diverged run counts with, as a sentence."""
    if all(row.scale.diverged == 0 for row in analysis.groups):
        return "A diverged run scores 0."
    return (
        "A diverged run counts with what its metric declares for it, or with the worst of its "
        "pair's other runs if that is worse."
    )


def _tuned(row: TunedRow) -> Finding:
    ends = "" if row.interior else "; that is an end of the grid, which must be widened"
    return Finding(
        "",
        f"{pair_label(row.pair)}: base LR {row.lr:g} is best for {row.schedule}, with "
        f"{row.validation:.{row.scale.decimals}f} on validation{ends}.",
    )


def _finding(row: ContrastRow, analysis: Analysis) -> Finding:
    place = f"{pair_label(row.pair)} at base LR {row.lr:g}"
    a, b = (
        schedule_label(row.candidate, row.candidate_arm),
        schedule_label(row.baseline, row.baseline_arm),
    )
    if row.paired and row.rope is None:
        return _without_verdict(row, analysis, place, f"{a} against {b}")
    if row.judged is None:
        return Finding("", f"{place}: {a} against {b} cannot be judged; {row.problem}.")
    paired, digits = row.judged.paired, f".{row.scale.decimals}f"
    unit = "points of" if row.scale == POINTS else "in"
    apart = f"{abs(paired.mean):{digits}} {unit} {metric_of(analysis, row.pair)}"
    match row.judged.verdict:
        case "better" | "worse" as verdict:
            headline = f"{a} is {verdict} than {b} by {apart}."
        case "equivalent" if math.isnan(row.seconds_ratio):
            headline = f"runs of both {a} and {b} diverged, and their scores are equivalent."
        case "equivalent":
            headline = (
                f"{a} and {b} are equivalent: {apart} apart, and {row.rope:g} is too little to "
                "matter."
            )
        case _:
            side = "ahead of" if paired.gain[0] >= 0 else "behind"
            level = float(f"{paired.mean:{digits}}") == 0
            stands = f"level with {b}" if level else f"{apart} {side} {b}"
            headline = (
                f"undecided. {a} is {stands}, which these {paired.n} seeds do not decide: "
                f"{_open(row.judged, row.rope or 0.0)}."
            )
    details = (
        f"{_interval(row)}, p = {row.judged.p_adjusted:.3f} after Holm, ROPE {row.rope:g}; "
        f"{_time(row)}.{_lacking(row)}{_left_out(row)}"
    )
    return Finding(row.judged.verdict, f"{place}: {headline}", details)


def _without_verdict(row: ContrastRow, analysis: Analysis, place: str, two: str) -> Finding:
    """A difference of which nobody has said how much would matter."""
    assert row.paired is not None
    metric, digits = metric_of(analysis, row.pair), f"+.{row.scale.decimals}f"
    sense = "" if row.scale.higher_is_better else ", of which less is better"
    headline = f"{place}: {two}, a difference of {row.paired.mean:{digits}} in {metric}{sense}."
    details = f"{_interval(row)}; {row.problem}; {_time(row)}.{_left_out(row)}"
    return Finding("", headline, details)


def _interval(row: ContrastRow) -> str:
    assert row.paired is not None
    low, high = (f"{x:+.{row.scale.decimals}f}" for x in (row.paired.low, row.paired.high))
    return f"95 % interval of the difference {low} to {high} from {row.paired.n} seeds"


def _open(judged: Verdict, rope: float) -> str:
    """What a verdict lacks."""
    paired = judged.paired
    lacking = {
        "0 is in the interval": paired.low <= 0 <= paired.high,
        f"p is not below {ALPHA:g}": judged.p_adjusted >= ALPHA,
        "the difference is within the ROPE": abs(paired.mean) <= rope,
    }
    said = ", ".join(words for words, holds in lacking.items() if holds)
    if -rope < paired.low and paired.high < rope:
        said += f"; that they are equivalent has p = {judged.p_equivalent:.3f} after Holm"
    return said


def _time(row: ContrastRow) -> str:
    if not math.isfinite(row.seconds_ratio) or row.seconds_ratio == 0:
        return "no comparison of times, as runs diverged"
    time = f"{row.seconds_ratio:.2f} times the training time"
    if row.several_machines:
        return f"{time}, which is not judged: the runs are of several machines"
    if row.speed:
        time += f" (times {row.speed.verdict}: {row.speed.low:.2f} to {row.speed.high:.2f})"
    return time


def _lacking(row: ContrastRow) -> str:
    """What an undecided comparison lacks, and what it could have found."""
    judged = row.judged
    if judged is None or judged.seeds_needed is None:
        return ""
    would = (
        "decide between the two"
        if may_be_decided(row, judged)
        else "show them to be equivalent, if the difference is as seen"
    )
    needed = f" About {judged.seeds_needed:,} seeds would {would}"
    if judged.detectable is None:
        return f"{needed}; {judged.paired.n} are too few to find any difference in this family."
    return (
        f"{needed}; {judged.paired.n} find a true difference of "
        f"{judged.detectable:.{row.scale.decimals}f} or more in four studies of five."
    )


def may_be_decided(row: ContrastRow, judged: Verdict) -> bool:
    """Whether more seeds would find a winner; else they would show the two to be equivalent."""
    return abs(judged.paired.mean) > (row.rope or 0.0)


def _left_out(row: ContrastRow) -> str:
    """The seeds that cannot be paired."""
    if not row.missing:
        return ""
    seeds = ", ".join(map(str, row.missing))
    return f" Left out, as only one of the two has them: seeds {seeds}."


def schedule_label(schedule: str, arm: int) -> str:
    """A schedule's name, with the arm where it is not the usual one."""
    return schedule if arm == 0 else f"{schedule} (arm {arm})"


def contrast_label(row: ContrastRow) -> str:
    """The two schedules of a comparison."""
    candidate = schedule_label(row.candidate, row.candidate_arm)
    return f"{candidate} - {schedule_label(row.baseline, row.baseline_arm)}"


def pair_label(pair: str) -> str:
    """A pair, with its recipe where that is not the usual one."""
    target = parse_target(pair)
    return f"{target.task}/{target.model}" + (
        f"@{target.recipe}" if target.recipe != "field" else ""
    )
