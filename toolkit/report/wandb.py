"""The study as a W&B report, over the runs that ``toolkit.records.wandb_mirror`` has logged.

W&B draws the curves; it cannot compute the verdicts, so they are written into it as text. Which
server is asked is a matter of the user's W&B settings.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import wandb
import wandb_workspaces.reports.v2 as wr

from toolkit.errors import ConfigError, RunError, error_text, outcome
from toolkit.records.wandb_mirror import wandb_mode
from toolkit.report import tables, text
from toolkit.report.columns import Table, markdown_table
from toolkit.report.figure_data.sections import legend_of
from toolkit.report.numbers.analyse import Analysis, GroupRow

AXES = {"update": "update", "epoch": "epoch", "wall_clock": "wall-clock, s"}
SCHEDULE = "config.schedule"
LR = "base_lr"
TITLE_LENGTH = 128
MOST_RUNS = 1000
GRID, WIDTH, HEIGHT = 24, 8, 7
"""Columns of a report; width and height of a panel."""


def publish(analysis: Analysis, folder: Path, destination: str) -> str:
    """Upload the local report's files, save the W&B report and return its address.

    A report that was saved from this folder before is replaced.

    Args:
        analysis: the numbers.
        folder: the written local report.
        destination: ``ENTITY/PROJECT``, where the study's runs are.

    Raises:
        ConfigError: for a wrong destination or a missing key.
        RunError: if W&B cannot be reached or refuses.
    """
    entity, _, project = destination.partition("/")
    if not entity or not project or "/" in project:
        raise ConfigError(f"--wandb {destination}: it must be ENTITY/PROJECT")
    if wandb_mode() != "online":
        raise ConfigError("a W&B report needs a key, by wandb login, and W&B online")

    def save() -> str:
        images = sorted((folder / "figures").glob("*.png"))
        _upload(analysis, folder, images, entity, project)
        report = build(analysis, [_key(image) for image in images], entity, project)
        id_file = folder / "wandb_report.txt"
        report.id = id_file.read_text() if id_file.exists() else ""
        report.save()
        id_file.write_text(report.id)
        return str(report.url)

    url, error = outcome(save)  # W&B raises many kinds of errors
    if error is not None or url is None:
        raise RunError(f"W&B: {error_text(error or ValueError('no address'))}") from error
    return url


def build(analysis: Analysis, media: Sequence[str], entity: str, project: str) -> Any:
    """The report, not yet saved. It asks the server for the project's id.

    Args:
        analysis: the numbers.
        media: keys of the uploaded figures.
        entity, project: where the runs are.
    """
    study, place = analysis.study, (entity, project)
    curves = [_curves(analysis, pair, *place) for pair in analysis.pairs]
    last = _runs_and_figures(analysis, media, *place)
    return wr.Report(
        entity=entity,
        project=project,
        title=f"{study.name}: learning-rate schedules compared"[:TITLE_LENGTH],
        description=str(study.plan.get("question", "")),
        blocks=[*_verdict(analysis), *chain.from_iterable(curves), *last],
        width="fluid",
    )


def _verdict(analysis: Analysis) -> Iterator[Any]:
    yield wr.H1("Verdict")
    yield wr.UnorderedList(text.verdict_sentences(analysis))
    for table in _tables(analysis).values():
        if table.rows:
            yield wr.MarkdownBlock(markdown_table(table))
    yield wr.P(
        "Differences are candidate minus baseline, paired by seed, of the test metric at the last "
        f"update; computed by python -m toolkit.report runs/{analysis.study.name} from the runs' "
        "own files. The plots below are drawn by W&B from what the runs logged: mean over the "
        f"seeds, band one standard error. {text.diverged_of(analysis)}"
    )


def _curves(analysis: Analysis, pair: str, entity: str, project: str) -> Iterator[Any]:
    """Curves and final scores at every base LR of a pair, and the sensitivity to it."""
    rows = [row for row in analysis.groups if row.group.pair == pair]
    rates = sorted({row.group.lr for row in rows})
    of_pair = {"study": analysis.study.name, "target": pair}
    metric = f"validation/{analysis.metrics.get(pair, analysis.metric)}"
    yield wr.H1(pair)
    for lr in rates:
        runs = wr.Runset(
            entity,
            project,
            f"base LR {lr:g}",
            filters=_where(**of_pair, base_lr=lr),
            groupby=[SCHEDULE],
            pinned_columns=["config:schedule.value", "config:seed.value", "summary:score"],
        )
        yield wr.H2(f"base LR {lr:g}")
        yield wr.PanelGrid(
            runsets=[runs], panels=_panels(metric), custom_run_colors=_colours(runs, rows, analysis)
        )
    if len(rates) > 1:
        runs = wr.Runset(
            entity, project, "all base LRs", filters=_where(**of_pair), groupby=[SCHEDULE]
        )
        yield wr.H2("Sensitivity to the base LR")
        yield wr.PanelGrid(
            runsets=[runs],
            panels=_sensitivity(),
            custom_run_colors=_colours(runs, rows, analysis),
        )


def _panels(metric: str) -> list[Any]:
    lines = [(metric, x, False) for x in AXES] + [
        (name, x, True) for name in ("train/loss", "lr") for x in ("update", "wall_clock")
    ]
    places = [(WIDTH * (i % 3), HEIGHT * (i // 3)) for i in range(len(lines) + 1)]
    mean = {"groupby_aggfunc": "mean", "groupby_rangefunc": "stderr", "groupby": SCHEDULE}
    plots = [
        wr.LinePlot(
            title=f"{name} by {AXES[x]}",
            x=x,
            y=[name],
            title_x=AXES[x],
            log_y=log or None,
            max_runs_to_show=MOST_RUNS,
            layout=wr.Layout(*place, WIDTH, HEIGHT),
            **mean,
        )
        for (name, x, log), place in zip(lines, places[:-1], strict=True)
    ]
    bars = wr.BarPlot(
        title="score: test metric at the last update",
        metrics=["score"],
        max_runs_to_show=MOST_RUNS,
        layout=wr.Layout(*places[-1], GRID - places[-1][0], HEIGHT),
        **mean,
    )
    return [*plots, bars]


def _sensitivity() -> list[Any]:
    columns = [
        wr.ParallelCoordinatesPlotColumn(wr.Config("schedule")),
        wr.ParallelCoordinatesPlotColumn(wr.Config(LR), log=True),
        wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric("score")),
    ]
    half = GRID // 2
    return [
        wr.ScatterPlot(
            title="score by base LR",
            x=wr.Config(LR),
            y=wr.SummaryMetric("score"),
            log_x=True,
            layout=wr.Layout(0, 0, half, HEIGHT),
        ),
        wr.ParallelCoordinatesPlot(columns=columns, layout=wr.Layout(half, 0, half, HEIGHT)),
    ]


def _runs_and_figures(
    analysis: Analysis, media: Sequence[str], entity: str, project: str
) -> Iterator[Any]:
    yield wr.H1("Runs side by side")
    yield wr.PanelGrid(
        runsets=[wr.Runset(entity, project, "all runs", filters=_where(study=analysis.study.name))],
        panels=[wr.RunComparer(diff_only="split", layout=wr.Layout(0, 0, GRID, 2 * HEIGHT))],
    )
    own = f"ID = {_run_id(analysis)!r}"
    yield wr.H1("Figures with every seed and 95 % intervals")
    yield wr.PanelGrid(
        runsets=[wr.Runset(entity, project, "report", filters=own)],
        panels=[
            wr.MediaBrowser(
                media_keys=list(media),
                layout=wr.Layout(0, 0, GRID, 2 * HEIGHT),
            )
        ],
    )


def _tables(analysis: Analysis) -> dict[str, Table]:
    """The tables of a W&B report by the key that they are logged under."""
    return {"verdicts": tables.family(analysis), "schedules": tables.groups(analysis)}


def _where(**config: object) -> str:
    """A filter on the runs' configuration. Its objects would not escape quotes in a name."""
    return " and ".join(f"Config({name!r}) = {value!r}" for name, value in config.items())


def _colours(runs: Any, rows: Sequence[GroupRow], analysis: Analysis) -> dict[Any, str]:
    """The colours of the local page."""
    marks = legend_of(analysis)
    return {
        wr.RunsetGroup(runs.name, (wr.RunsetGroupKey(wr.Config("schedule"), name),)): marks[
            name
        ].colour
        for name in {row.group.schedule for row in rows}
    }


def _run_id(analysis: Analysis) -> str:
    return "report-" + re.sub(r"[^A-Za-z0-9_.-]", "-", analysis.study.name)[:100]


def _key(image: Path) -> str:
    return f"figures/{image.stem}"


def _upload(
    analysis: Analysis, folder: Path, images: Sequence[Path], entity: str, project: str
) -> None:
    """A run of its own for what the report shows beside the runs: figures, tables, files."""
    run = wandb.init(
        entity=entity,
        project=project,
        id=_run_id(analysis),
        name=f"report of {analysis.study.name}",
        job_type="report",
        group=analysis.study.name,
        resume="allow",
        dir=str(folder),
        settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
    )
    with run:
        run.log({_key(image): wandb.Image(str(image)) for image in images})
        for name, table in _tables(analysis).items():
            run.log({name: wandb.Table(columns=table.head, data=table.cells)})
        artifact = wandb.Artifact(_run_id(analysis), "report")
        for name in ("index.html", "report.md", "results.csv", "results.parquet"):
            artifact.add_file(str(folder / name))
        run.log_artifact(artifact)
