"""The tables about the base LR: what it matters, and what was found from it."""

from statistics import median
from typing import Any, NamedTuple

from toolkit.records.result import FoundLR
from toolkit.report.columns import Column, Table
from toolkit.report.numbers.analyse import Analysis
from toolkit.report.numbers.runs import Group
from toolkit.report.tables import GROUP, number, of_pairs


class FoundRow(NamedTuple):
    """What the runs of a group have found that have searched for an LR."""

    group: Group
    found: list[FoundLR]


def rates(analysis: Analysis) -> Table:
    """The base LR's part in the result."""
    columns = [
        Column("pair", "{row.pair}"),
        Column("schedule", "{row.schedule}"),
        Column("best LR", "{row.sensitivity.best_rate:g}"),
        Column("mean of the grid", lambda row: number(row.sensitivity.average.value, row.scale)),
        Column("lost by not tuning", lambda row: number(row.sensitivity.loss.value, row.scale)),
        Column("95 % interval", _loss_interval),
        Column("decades", _decades),
    ]
    caption = (
        "Lost by not tuning: between the best base LR's score and the grid's mean. Decades: width "
        "of the range of base LRs around the best that is within the ROPE of it."
    )
    return Table("The base LR", caption, columns, analysis.rates)


def _loss_interval(row: Any) -> str:
    loss = row.sensitivity.loss
    return f"{number(loss.low, row.scale)} to {number(loss.high, row.scale)}"


def _decades(row: Any) -> str:
    decades = row.sensitivity.decades
    return "no ROPE" if decades is None else f"{decades:.1f}"


def found(analysis: Analysis) -> Table:
    """What the searches for an LR have found, over the seeds."""
    rows = [
        FoundRow(group, searched)
        for group, runs in analysis.members.items()
        if (searched := [run.result.found for run in runs if run.result.found is not None])
    ]
    columns = [
        *GROUP[:2],
        Column("base LR given", "{row.group.lr:g}"),
        Column("LR found", lambda row: _median(row, "lr")),
        Column("range", lambda row: _range(row, "lr")),
        Column("raised to", lambda row: _median(row, "grown_lr")),
        Column("updates", lambda row: _median(row, "updates")),
        Column("trials", lambda row: _median(row, "trials")),
        Column("seconds", lambda row: _median(row, "seconds")),
        Column("runs", lambda row: str(len(row.found))),
    ]
    caption = (
        "From the base LR given a search of a few updates finds the LR to train with. Later the "
        "schedule's estimate of how far the weights have to go may raise it; warm-up and anneal "
        "come on top. Medians over the runs; the range is that of the LR found. Updates, trials "
        "and seconds are the search's."
    )
    return Table("The LR found", caption, of_pairs(analysis, columns), rows)


def _median(row: FoundRow, field: str) -> str:
    return f"{median(getattr(one, field) for one in row.found):.3g}"


def _range(row: FoundRow, field: str) -> str:
    values = [getattr(one, field) for one in row.found]
    return f"{min(values):.3g} to {max(values):.3g}"
