"""The report's sentences and tables as plain text."""

from collections.abc import Sequence

from toolkit.report.analyse import Analysis, ContrastRow, GroupRow
from toolkit.report.rates import TunedRow
from toolkit.stats import Judged
from toolkit.task import parse_target

UNITS = {"accuracy": "points of accuracy", "f1": "points of F1", "exact": "points of EM"}


def verdict_sentences(analysis: Analysis) -> list[str]:
    """What was found out, one sentence for each comparison of the primary family."""
    if analysis.tuned:
        return [_tuned(row) for row in analysis.tuned]
    if not analysis.family:
        return [
            "No primary family was declared for these runs, so there is no verdict: everything "
            "below is exploratory."
        ]
    return [_sentence(row, analysis) for row in analysis.family]


def _tuned(row: TunedRow) -> str:
    ends = "" if row.interior else "; that is an end of the grid, which must be widened"
    return (
        f"{_pair(row.pair)}: base LR {row.lr:g} is best for {row.schedule}, with "
        f"{row.validation:.2f} on validation{ends}."
    )


def _sentence(row: ContrastRow, analysis: Analysis) -> str:
    place = f"{_pair(row.pair)} at base LR {row.lr:g}"
    candidate = schedule_label(row.candidate, row.candidate_arm)
    baseline = schedule_label(row.baseline, row.baseline_arm)
    if row.judged is None:
        return f"{place}: {candidate} against {baseline} cannot be judged; {row.problem}."
    paired, metric = row.judged.paired, analysis.metrics.get(row.pair, analysis.metric)
    unit = UNITS.get(metric, f"points of {metric}")
    numbers = (
        f"{abs(paired.mean):.2f} {unit} (95 % interval of the difference {paired.low:+.2f} to "
        f"{paired.high:+.2f}, {paired.n} seeds, p = {row.judged.p_adjusted:.3f} after Holm)"
    )
    cost = f"at {row.seconds_ratio:.2f} times the training time"
    if row.speed:
        cost += f" ({row.speed.verdict}, {row.speed.low:.2f} to {row.speed.high:.2f})"
    match row.judged.verdict:
        case "better" | "worse" as verdict:
            return f"{place}: {candidate} is {verdict} than {baseline} by {numbers}, {cost}."
        case "equivalent":
            return (
                f"{place}: {candidate} and {baseline} are equivalent: they differ by "
                f"{numbers}, and {row.rope:g} is too little to matter; {cost}."
            )
        case _:
            return (
                f"{place}: undecided between {candidate} and {baseline}; they differ by "
                f"{numbers}, {cost}. It would take about {row.judged.seeds_needed} seeds to decide"
                f"{_power(row.judged, unit)}."
            )


def _power(judged: Judged, unit: str) -> str:
    """What an undecided comparison could have found."""
    if judged.detectable is None:
        return f"; {judged.paired.n} seeds are too few to find any difference in this family"
    return f"; these seeds find {judged.detectable:.2f} {unit} or more with a power of 80 %"


def verdict_table(analysis: Analysis) -> str:
    """The verdicts, and every schedule's mean, as aligned text for a terminal."""
    blocks = []
    if analysis.family:
        head = [
            "pair",
            "base LR",
            "comparison",
            "difference",
            "95 % interval",
            "p (Holm)",
            "verdict",
        ]
        rows = [_family_cells(row) for row in analysis.family]
        blocks.append(_aligned([head, *rows]))
    head = ["pair", "base LR", "schedule", "seeds", analysis.metric, "95 % interval", "s / run"]
    rows = [_group_cells(row) for row in analysis.groups]
    blocks.append(_aligned([head, *rows]))
    return "\n\n".join(blocks)


def _family_cells(row: ContrastRow) -> list[str]:
    sides = (row.candidate, row.candidate_arm), (row.baseline, row.baseline_arm)
    cells = [_pair(row.pair), f"{row.lr:g}", " - ".join(schedule_label(*side) for side in sides)]
    if row.judged is None:
        return [*cells, "", "", "", row.problem]
    paired = row.judged.paired
    verdict: str = row.judged.verdict
    if row.judged.seeds_needed:
        verdict += f" (about {row.judged.seeds_needed} seeds)"
    interval = f"{paired.low:+.2f} to {paired.high:+.2f}"
    return [*cells, f"{paired.mean:+.2f}", interval, f"{row.judged.p_adjusted:.4f}", verdict]


def _group_cells(row: GroupRow) -> list[str]:
    group = row.group
    interval = "one seed" if row.interval is None else "{:.2f} to {:.2f}".format(*row.interval)
    seeds = str(len(row.scores)) + (f" ({row.diverged} diverged)" if row.diverged else "")
    return [
        *(_pair(group.pair), f"{group.lr:g}", schedule_label(group.schedule, group.arm), seeds),
        *(f"{row.mean:.2f}", interval, f"{row.seconds:.1f}"),
    ]


def schedule_label(schedule: str, arm: int) -> str:
    """A schedule's name, with the arm where it is not the usual one."""
    return schedule if arm == 0 else f"{schedule} (arm {arm})"


def _pair(pair: str) -> str:
    target = parse_target(pair)
    return f"{target.task}/{target.model}" + (
        f"@{target.recipe}" if target.recipe != "field" else ""
    )


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)
