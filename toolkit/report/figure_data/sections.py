"""Which figures a report has, in their order."""

from toolkit.report.figure_data import curves, outcomes
from toolkit.report.figure_data.panels import Legend, Section
from toolkit.report.marks import legend
from toolkit.report.numbers.analyse import Analysis
from toolkit.report.text import metric_of
from toolkit.scales import POINTS


def legend_of(analysis: Analysis) -> Legend:
    """The entrants of a report with their marks."""
    return legend(row.group.schedule for row in analysis.groups)


def of_study(analysis: Analysis) -> dict[str, Section]:
    """The figures over all pairs, by name; one without numbers has no panels."""
    nothing, overall = Section("", "", []), analysis.overall
    return {
        "differences": outcomes.differences(analysis),
        "profiles": outcomes.profiles(overall, legend_of(analysis)) if overall else nothing,
    }


def of_pair(analysis: Analysis, pair: str) -> dict[str, Section]:
    """The figures of a pair, by name; one without numbers has no panels."""
    marks, metric, members = legend_of(analysis), metric_of(analysis, pair), analysis.members
    rows = [row for row in analysis.groups if row.group.pair == pair]
    if rows[0].scale == POINTS:
        metric += ", %"
    if not rows[0].scale.higher_is_better:
        metric += " (lower is better)"
    grids = [row for row in analysis.rates if row.pair == pair]
    return {
        "final": outcomes.final(rows, metric, marks),
        "curves": curves.metric_curves(rows, members, metric, marks),
        "time": curves.metric_curves(rows, members, metric, marks, "seconds"),
        "loss": curves.loss_curves(rows, members, marks),
        "lr": curves.rate_curves(rows, members, marks),
        "sensitivity": outcomes.sensitivity(rows, grids, metric, marks),
    }
