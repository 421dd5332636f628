"""The report's sentences and tables as plain text."""

import re
from collections.abc import Sequence

from toolkit.report.analyse import Analysis, ContrastRow, GroupRow
from toolkit.task import parse_target

UNITS = {"accuracy": "points of accuracy", "f1": "points of F1", "exact": "points of EM"}


def verdict_sentences(analysis: Analysis) -> list[str]:
    """What was found out, one sentence for each comparison of the primary family."""
    if not analysis.family:
        return [
            "No primary family was declared for these runs, so there is no verdict: everything "
            "below is exploratory."
        ]
    return [_sentence(row, analysis) for row in analysis.family]


def _sentence(row: ContrastRow, analysis: Analysis) -> str:
    place = f"{_pair(row.pair)} at base LR {row.lr:g}"
    if row.judged is None:
        return f"{place}: {row.candidate} against {row.baseline} cannot be judged; {row.problem}."
    paired, unit = row.judged.paired, UNITS.get(analysis.metric, f"points of {analysis.metric}")
    numbers = (
        f"{abs(paired.mean):.2f} {unit} (95 % interval of the difference {paired.low:+.2f} to "
        f"{paired.high:+.2f}, {paired.n} seeds, p = {row.judged.p_adjusted:.3f} after Holm)"
    )
    cost = f"at {row.seconds_ratio:.2f} times the training time"
    match row.judged.verdict:
        case "better" | "worse" as verdict:
            return (
                f"{place}: {row.candidate} is {verdict} than {row.baseline} by {numbers}, {cost}."
            )
        case "equivalent":
            return (
                f"{place}: {row.candidate} and {row.baseline} are equivalent: they differ by "
                f"{numbers}, and {row.rope:g} is too little to matter; {cost}."
            )
        case _:
            return (
                f"{place}: undecided between {row.candidate} and {row.baseline}; they differ by "
                f"{numbers}, {cost}. It would take about {row.judged.seeds_needed} seeds to decide."
            )


FAMILY_HEAD = ["pair", "base LR", "comparison", "difference", "95 % interval", "p (Holm)"]
FAMILY_HEAD += ["verdict"]


def verdict_table(analysis: Analysis) -> str:
    """The verdicts, and every schedule's mean, as aligned text for a terminal."""
    tables = [family_rows(analysis)] if analysis.family else []
    return "\n\n".join(_aligned(rows) for rows in [*tables, group_rows(analysis)])


def family_rows(analysis: Analysis) -> list[list[str]]:
    """The primary family as cells, the heads of the columns first."""
    return [FAMILY_HEAD, *(_family_cells(row) for row in analysis.family)]


def group_rows(analysis: Analysis) -> list[list[str]]:
    """Every schedule's mean as cells, the heads of the columns first."""
    head = ["pair", "base LR", "schedule", "seeds", analysis.metric, "95 % interval", "s / run"]
    return [head, *(_group_cells(row) for row in analysis.groups)]


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Cells as a table in markdown; what markdown or HTML would read in them is escaped."""
    head, *body = (
        "| " + " | ".join(re.sub(r"([\\`*_<>|\[\]])", r"\\\1", cell) for cell in row) + " |"
        for row in rows
    )
    return "\n".join([head, "|" + " --- |" * len(rows[0]), *body])


def _family_cells(row: ContrastRow) -> list[str]:
    cells = [_pair(row.pair), f"{row.lr:g}", f"{row.candidate} - {row.baseline}"]
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
