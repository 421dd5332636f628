"""The W&B report: what it asks W&B to draw is there to be drawn."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fake_wandb import ENTITY, FakeWandb
from tests.studies import write_run, write_study
from toolkit.records.events import event_of
from toolkit.records.mirror_rows import AXES, describe, values
from toolkit.report.__main__ import main

DESTINATION = f"{ENTITY}/p"
# wandb-workspaces 0.4.13 is written for an older pydantic
pytestmark = [
    pytest.mark.long,  # wandb_workspaces takes seconds to import
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeWandb, Path]]:
    """A report of two base LRs, saved twice."""
    study = write_study(tmp_path_factory.mktemp("runs") / 'it\'s "mine"')
    for seed in range(2):
        write_run(study, "plan", seed, 80.0, lr=0.1)
    with FakeWandb() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.delenv(name, raising=False) if value is None else patch.setenv(name, value)
        for _ in range(2):
            assert main([str(study), "--wandb", DESTINATION]) == 0
        import wandb

        wandb.teardown()
        yield server, study


def grids(server: FakeWandb) -> list[dict[str, Any]]:
    blocks = json.loads(server.views[0]["spec"])["blocks"]
    return [block["metadata"] for block in blocks if block["type"] == "panel-grid"]


def panels(server: FakeWandb) -> list[dict[str, Any]]:
    return [p for grid in grids(server) for p in grid["panelBankSectionConfig"]["panels"]]


def test_the_spec_names_only_what_is_logged(saved: tuple[FakeWandb, Path]) -> None:
    server, study = saved
    (events, *_) = study.glob("plan-0.1-*/events.jsonl")
    lines = events.read_text().splitlines()
    logged = {name for line in lines for name in values(event_of(json.loads(line), ""))}
    logged |= {*AXES, "score"}
    stored = {"target": "a/b@c", "recipe": {"lr": 1}, "study": "s", "seed": 0}
    config = describe({**stored, "schedule": {"name": "plan", "fields": {}}})
    for panel in panels(server):
        settings = panel["config"]
        named = [*settings.get("metrics", []), settings.get("xAxis", "update")]
        for name in (*named, settings.get("yAxis", "score")):
            assert name.removeprefix("summary:") in {*logged, "config:base_lr.value"}
        assert settings.get("groupBy", "schedule.value") == "schedule.value"
    for grid in grids(server):
        for runs in grid["runSets"]:
            keys = [item["key"] for item in runs["filters"]["filters"]]
            assert {key["name"] for key in keys if key["section"] == "config"} <= config.keys()


def test_runs_are_of_the_study_and_grouped_by_schedule(saved: tuple[FakeWandb, Path]) -> None:
    server, study = saved
    curves = grids(server)[:2]
    for grid, lr in zip(curves, (0.01, 0.1), strict=True):
        (runs,) = grid["runSets"]
        assert runs["grouping"] == [{"section": "config", "name": "schedule.value"}]
        found = {item["key"]["name"]: item["value"] for item in runs["filters"]["filters"]}
        expected = {"study": study.name, "target": "digits/vit_micro@field", "base_lr": lr}
        assert found == expected
    lines = [p["config"] for p in panels(server) if p["viewType"] == "Run History Line Plot"]
    assert {(line["groupAgg"], line["groupArea"]) for line in lines} == {("mean", "stderr")}
    drawn = {(line["metrics"][0], line["xAxis"]) for line in lines}
    for metric in ("validation/accuracy", "train/loss", "lr"):
        assert {(metric, "update"), (metric, "wall_clock")} <= drawn
    kinds = {panel["viewType"] for panel in panels(server)}
    assert {"Bar Chart", "Scatter Plot", "Run Comparer", "Media Browser"} <= kinds


def test_the_verdict_is_text_at_the_top(saved: tuple[FakeWandb, Path]) -> None:
    server, _ = saved
    blocks = json.loads(server.views[0]["spec"])["blocks"]
    assert "plan is better than cosine by 2.40" in json.dumps(blocks[2])
    assert "| plan - cosine | +2.40 |" in blocks[3]["content"]


def test_the_spec_survives_a_parse(saved: tuple[FakeWandb, Path]) -> None:
    import wandb_workspaces.reports.v2 as wr
    from wandb_workspaces.reports.v2 import internal

    server, _ = saved
    view = server.views[0]
    project = {"name": view["projectName"], "entityName": view["entityName"]}
    model = internal.ReportViewspec.model_validate(
        {"id": "a", "name": "b", "displayName": view["displayName"], "description": ""}
        | {"project": project, "spec": view["spec"]}
    )
    parsed = wr.Report._from_model(model)
    found = [block for block in parsed.blocks if isinstance(block, wr.PanelGrid)]
    assert [type(p) for grid in found for p in grid.panels] == (
        [*[wr.LinePlot] * 7, wr.BarPlot] * 2
        + [wr.ScatterPlot, wr.ParallelCoordinatesPlot, wr.RunComparer, wr.MediaBrowser]
    )
    assert found[0].panels[0].groupby == wr.Config("schedule")
    assert found[0].runsets[0].groupby == ["config.schedule.value"]


def test_figures_and_tables_are_a_run_of_their_own(saved: tuple[FakeWandb, Path]) -> None:
    server, _ = saved
    ((run_id, run),) = server.runs.items()
    assert (run_id, run.said("jobType")) == ("report-it-s--mine-", "report")
    media = [p["config"]["mediaKeys"] for p in panels(server) if p["viewType"] == "Media Browser"]
    names = ("curves-1", "differences", "final-1", "sensitivity-1")
    assert media == [[f"figures/{name}" for name in names]]
    assert {*media[0], "verdicts", "schedules"} <= run.summary.keys()
    assert server.strangers == []


def test_the_same_command_replaces_its_report(saved: tuple[FakeWandb, Path]) -> None:
    server, _ = saved
    assert [view["id"] for view in server.views] == [None, "VmlldzoxMjM="]


@pytest.mark.parametrize(
    ("destination", "message"),
    [("mine", "it must be ENTITY/PROJECT"), (DESTINATION, "needs a key")],
)
def test_a_report_that_cannot_be_saved_is_said(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    destination: str,
    message: str,
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    study = write_study(tmp_path / "mine")
    assert main([str(study), "--wandb", destination]) == 2
    assert message in capsys.readouterr().err
    assert (study / "report" / "index.html").exists()
