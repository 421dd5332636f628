"""What a run's files say when they are read: results of every version, events, broken JSON."""

import json
import math
from dataclasses import fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.studies import result_json
from toolkit.errors import ConfigError
from toolkit.records.events import (
    EvaluationEvent,
    OtherEvent,
    TimingEvent,
    check_event,
    event_of,
)
from toolkit.records.json_files import parse_object, read_json, write_json
from toolkit.records.result import Code, Metrics, Result, Snapshots, duration, read_result
from toolkit.scales import Scale

FILE = Path("runs/mine/1/result.json")
LATER: dict[str, Any] = {
    "sees": "validation",
    "launch": "zero-2",
    "data_fields": ["data"],
    "samples": {"train": 100},
    "selected": {
        "metric": "f1",
        "value": 88.5,
        "update": 40,
        "kept": False,
        "stopped_early": True,
    },
    "scales": {"perplexity": {"higher_is_better": False, "diverged": 65.0, "decimals": 4}},
    "found": {
        "base_lr": 1e-4,
        "lr": 0.0178,
        "updates": 23,
        "trials": 5,
        "grown_lr": 0.05,
        "seconds": 1.5,
        "edge_lr": 0.356,
        "tried": [
            {"lr": 1e-4, "updates": 5, "first_loss": 2.3, "last_loss": 2.2, "harmful": False},
            {"lr": 1.0, "updates": 3, "first_loss": 2.3, "last_loss": None, "harmful": True},
        ],
    },
    "snapshots": {"taken": 3, "bytes": 10, "seconds": 0.5},
    "notes": ["one thing"],
    "machine": {"processor": "Abacus 3", "cores": 2},
    "code": {"commit": "c0ffee", "uncommitted": ["toolkit/lr.py"]},
    "data": "sha256:c0ffee",
    "parent": "0123456789abcdef",
    "parent_update": 80,
}
"""Fields that came after results had been stored without them."""


def test_a_result_survives_json(tmp_path: Path) -> None:
    result = Result.from_json(result_json(**LATER), FILE)
    assert result.code == Code("c0ffee", ("toolkit/lr.py",))
    assert result.snapshots == Snapshots(3, 10, 0.5)
    assert str(result.found) == (
        "base LR 0.0001 -> 0.0178 found in 23 updates (5 trials), raised to 0.05 in training"
    )
    assert (
        str(result.selected) == "stopped early; the best on validation (f1 88.5) was at update 40"
    )
    assert result.scale_of("perplexity") == Scale(False, 65.0, 4)
    write_json(tmp_path / "result.json", result.to_json())
    assert read_result(tmp_path) == result
    assert json.loads((tmp_path / "result.json").read_text()).keys() == {
        item.name for item in fields(Result)
    }


def test_a_result_of_an_older_version_has_what_came_later() -> None:
    old = result_json()
    assert not old.keys() & LATER.keys() - {"notes"}
    result = Result.from_json(old, FILE)
    assert (result.sees, result.samples, result.notes, result.machine) == ("training", {}, (), {})
    assert (result.code, result.snapshots) == (Code(None, ()), Snapshots(0, 0, 0.0))
    assert (result.data, result.parent, result.parent_update) == (None, None, None)
    assert result.scale_of("accuracy") == Scale(higher_is_better=True, diverged=0.0)


def test_a_result_of_a_newer_version_is_read_without_what_only_that_knows() -> None:
    newer = result_json(grandparent={"lr": 0.3}, snapshots={"taken": 1, "device_bytes": 5})
    assert replace(Result.from_json(newer, FILE), snapshots=Snapshots()) == Result.from_json(
        result_json(), FILE
    )


@pytest.mark.parametrize("name", [item.name for item in fields(Result) if item.name not in LATER])
def test_a_field_that_every_version_wrote_must_be_there(name: str) -> None:
    data = {field: value for field, value in result_json().items() if field != name}
    with pytest.raises(ConfigError, match=rf"{FILE} lacks {name}: .*--fresh"):
        Result.from_json(data, FILE)


def test_a_run_that_diverged_before_its_first_evaluation_has_a_result() -> None:
    lost = Result.from_json(result_json(status="diverged", metrics={"test": {}}), FILE)
    assert (lost.diverged, lost.metrics) == (True, Metrics({}, {}))
    assert lost.to_json()["metrics"] == {"test": {}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{\n"a": 1,\n"b"}', r"a.json, line 3, is not JSON: .*; do this"),
        (b"{", r"a.json is not JSON: .*; do this"),
        (b"[]", "a.json is not a JSON object; do this"),
        (b'{"a": "\xff"}', "a.json is not text; do this"),
        (None, "a.json cannot be read: No such file or directory; do this"),
    ],
)
def test_a_broken_file_is_named_with_the_reason(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ConfigError, match=message) as error:
        read_json(tmp_path / "a.json", "do this")
    assert "\n" not in str(error.value)


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(file, {"a": float("nan")})
    assert read_json(file) == {"a": 1}


def test_a_line_is_named_by_its_place() -> None:
    with pytest.raises(ConfigError, match=r"e, line 7 is not JSON: Expecting value$"):
        parse_object("x\n", "e, line 7")


def test_events_have_a_type() -> None:
    place = {"update": 10, "epoch": 0.5, "t": 3.0}
    evaluation = event_of({"kind": "evaluation", **place, "split": "test", "accuracy": 90.0}, "")
    assert evaluation == EvaluationEvent(10, 0.5, "test", {"accuracy": 90.0}, 3.0)
    assert event_of({"kind": "timing", **place, "data": 2.0}, "") == TimingEvent(
        10, 0.5, {"data": 2.0}, 3.0
    )
    newer = event_of({"kind": "of a newer version", **place, "x": 1}, "")
    assert newer == OtherEvent("of a newer version", 10, {"epoch": 0.5, "x": 1}, 3.0)
    with pytest.raises(
        ConfigError, match=r"^line 3 is no event of this version: it lacks epoch; d"
    ):
        event_of({"kind": "timing", "update": 1, "t": 3.0}, "line 3", "do this")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (42, "42 s"), (500, "8 min"), (12_600, "3.5 h"), (1e6, "11.6 days")],
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


USUAL = {
    **{"update": 3, "epoch": 0.5, "count": 64.0, "nonfinite": 0, "lr": 0.1, "factor": 1.0},
    **{"pattern": "none", "action": "hold", "reason": "", "t": 1.0},
}


@pytest.mark.parametrize(
    ("distance", "right"),
    [
        (None, True),
        ([1.0, 2.0], True),
        *[([], False), ([1.0], False), ([1.0, math.inf], False), (["a", 1.0], False)],
        *[([True, 1.0], False), ({}, False), (False, False), ("x", False)],
    ],
)
def test_no_event_is_too_usual_to_be_looked_at(distance: Any, right: bool) -> None:
    """Most readings are known by their types alone, with an estimate of the distance or without."""
    for loss, statistic in product((1.0, None, math.nan), (2.0, None, math.inf)):
        event = {**USUAL, "loss": loss, "statistic": statistic, "distance": distance}
        fits = all(number is None or math.isfinite(number) for number in (loss, statistic))
        if right and fits:
            check_event(event, "here")
        else:
            with pytest.raises(ConfigError, match="here is no event of a run"):
                check_event(event, "here")
