"""Which interactive figures a report has, in their order."""

from collections import defaultdict

from toolkit.report.html import curves, outcomes
from toolkit.report.html.panels import Section, schedules
from toolkit.report.numbers.analyse import Analysis
from toolkit.report.numbers.load import Group, RunRecord
from toolkit.report.text import metric_of


def differences(analysis: Analysis) -> list[Section]:
    """The comparisons of the primary family in one figure; none without them."""
    section = outcomes.differences(analysis)
    return [section] if section.panels else []


def profiles(analysis: Analysis) -> list[Section]:
    """Who reaches the targets how soon; none with fewer than two schedules."""
    if analysis.overall is None:
        return []
    section = outcomes.profiles(analysis.overall, schedules(analysis))
    return [section] if section.panels else []


def by_pair(analysis: Analysis) -> dict[str, list[Section]]:
    """The figures of every pair."""
    known = schedules(analysis)
    members: dict[Group, list[RunRecord]] = defaultdict(list)
    for run in analysis.study.runs:
        members[run.group].append(run)
    found = {}
    for pair in dict.fromkeys(row.group.pair for row in analysis.groups):
        rows = [row for row in analysis.groups if row.group.pair == pair]
        grids = [row for row in analysis.rates if row.pair == pair]
        metric = metric_of(analysis, pair)
        sections = [
            outcomes.final(rows, metric, known),
            curves.metric_curves(rows, members, metric, known),
            curves.loss_curves(rows, members, known),
            curves.rate_curves(rows, members, known),
            outcomes.sensitivity(rows, grids, metric, known),
        ]
        found[pair] = [section for section in sections if section.panels]
    return found
