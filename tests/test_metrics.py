"""Metrics of a task that are no numbers, or numbers of numpy or torch."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from toolkit.config import parse
from toolkit.errors import RunError
from toolkit.records.events import EVENTS
from toolkit.records.result import RESULT, Result, read_result
from toolkit.report.numbers.analyse import analyse
from toolkit.report.numbers.load import load_study
from toolkit.report.text import summary
from toolkit.training import loop
from toolkit.training.build import build
from toolkit.training.evaluation import plain_metrics

TASK = '''
"""Digits with other metrics, or another loss."""
import math
import numpy as np
import torch
from toolkit.task import load

class Own(type(load("digits"))):
    {method}

TASK = Own()
'''
METRICS = """def metrics(self, predictions, labels, split):
        return {}"""
HUGE = """def loss(self, model, batch):
        total, count = super().loss(model, batch)
        return (total * 0 + 3e38 if model.training else total), count"""


def ran(tmp_path: Path, method: str, *flags: str) -> Result:
    """The result of a short run of a task with this method, as it is read from its file."""
    task = tmp_path / "own.py"
    task.write_text(TASK.format(method=method))
    argv = [f"{task}/vit_micro", "--wandb", "off", "--progress", "False", "--study", "own"]
    run = build(parse([*argv, "schedule:constant", *flags]), tmp_path)
    try:
        assert loop.fit(run) is not None
    finally:
        loop.release(run)
    return read_result(run.folder)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (np.float32(1.5), 1.5),
        (np.float64(2.5), 2.5),
        (np.array(3.5), 3.5),
        (torch.tensor(4.5), 4.5),
        (np.int64(5), 5.0),
        (True, 1.0),
        (math.nan, None),
        (np.float32("inf"), None),
        (None, None),
    ],
)
def test_a_number_of_any_library_is_written_and_what_is_none_is_null(
    value: Any, number: float | None
) -> None:
    metrics = plain_metrics({"f1": value})
    assert metrics == {"f1": number}
    assert type(metrics["f1"]) in (float, type(None))
    json.dumps(metrics, allow_nan=False)


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ({"f1": [1.0, 2.0]}, "metric f1 is a list, not one number"),
        ({"f1": "good"}, "metric f1 is a str, not one number"),
        ({"f1": np.ones(3)}, "metric f1 is a ndarray, not one number"),
        ({"f1": torch.ones(3)}, "metric f1 is a Tensor, not one number"),
        ({"epoch": 1.0}, "cannot be called epoch"),
        ({}, "with one at least"),
        (0.5, "no dict of metrics"),
    ],
)
def test_what_is_no_number_is_refused_by_name(metrics: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        plain_metrics(metrics)


def test_a_run_goes_on_past_a_metric_that_is_nan_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = '{"f1": np.float32("nan"), "exact": np.float32(50), "loss": torch.tensor(0.5)}'
    flags = ("--recipe.updates", "4", "--eval-every", "2")
    result = ran(tmp_path, METRICS.format(numbers), *flags)
    assert result.metrics.test == {"f1": None, "exact": 50.0, "loss": 0.5}
    said = "the metric f1 of the split {} was not a finite number: it is null"
    assert [said.format(split) in result.notes for split in ("validation", "test")] == [True, True]
    told = capsys.readouterr().err
    assert told.count("the metric f1") == 2  # once for each split, however often it is evaluated
    folder = next((tmp_path / "own").glob("*"))
    assert json.loads((folder / RESULT).read_text())["metrics"]["validation"]["f1"] is None
    events = [json.loads(line) for line in (folder / EVENTS).read_text().splitlines()]
    assert [event["f1"] for event in events if event.get("kind") == "evaluation"] == [None] * 3
    analysis = analyse(load_study(tmp_path / "own"))
    assert any("1 run counted as diverged, as f1 on test was not" in w for w in analysis.warnings)
    assert summary(analysis)


def test_metrics_that_are_no_numbers_end_the_run_with_name_and_split(tmp_path: Path) -> None:
    words = "split validation failed: ValueError: the metric f1 is a list, not one number"
    with pytest.raises(RunError, match=words):
        ran(tmp_path, METRICS.format('{"f1": [1, 2]}'), "--recipe.updates", "2")


def test_losses_whose_sum_no_float32_holds_are_read_and_end_no_run(tmp_path: Path) -> None:
    """Each micro-batch is finite; float32 has no sum of two, double precision has."""
    flags = ("--recipe.updates", "30", "--recipe.micro-batch", "32")
    result = ran(tmp_path, HUGE, *flags)
    assert result.status == "done"
    (events,) = tmp_path.glob("own/*/events.jsonl")
    readings = [json.loads(line) for line in events.read_text().splitlines()]
    losses = [one["loss"] for one in readings if "kind" not in one]
    assert losses == [pytest.approx(2 * 3e38 / 64)] * 30
