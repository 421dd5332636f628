"""What make loss-compare makes of two runs' folders; the runs themselves are its own."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.studies import write_run
from toolkit.config import parse
from toolkit.schedules import SCHEDULES


@pytest.fixture(scope="module")
def runs():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import loss_runs

    yield loss_runs
    sys.path.remove(str(ROOT / "benchmarks"))


def written(folder: Path, result: dict[str, Any], **changes: Any) -> Path:
    """A run whose reading of update 20, an action, is changed; None for no such reading."""
    run = write_run(folder, "plan", 0, 90.0, **result)
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    [at] = [i for i, event in enumerate(events) if event["update"] == 20 and "loss" in event]
    events[at] |= changes
    if None in changes.values():
        del events[at]
    (run / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return run


CHANGES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"loss": math.nextafter(0.1, 1)}, "update 20: loss 0.1 -> 0.10000000000000002"),
    ({}, {"lr": 0.02, "factor": 2.0}, "update 20: lr 0.01 -> 0.02"),
    ({}, {"action": "cut"}, "update 20: action 'raise' -> 'cut'"),
    ({}, {"reason": "another"}, "update 20: reason 'the mean fell' -> 'another'"),
    ({}, {"kind": "validation_reading"}, "update 20: kind None -> 'validation_reading'"),
    ({}, {"loss": None}, "update 20: no such reading in HEAD"),
    ({"updates": 39}, {}, "update 40: no such reading in HEAD"),
    ({"status": "diverged"}, {}, "status 'done' -> 'diverged'"),
    ({"final_weights_sha": "x"}, {}, "final_weights_sha 'plan 0.01 0 0' -> 'x'"),
    ({"initial_weights_sha": "x"}, {"loss": 9.0}, "initial_weights_sha 'weights 0' -> 'x'"),
    ({"batch_order_sha": "x"}, {"loss": 9.0}, "batch_order_sha 'order 0' -> 'x'"),
    ({"metrics": {"test": {}}}, {}, "metrics {"),
]


@pytest.mark.parametrize(("result", "changes", "told"), CHANGES)
def test_the_first_difference_is_named(
    runs, tmp_path: Path, result: dict[str, Any], changes: dict[str, Any], told: str
) -> None:
    base = runs.load(written(tmp_path / "base", {}))
    head = runs.load(written(tmp_path / "head", result, **changes))
    assert runs.first_difference(base, head).startswith(told)


def test_a_reading_that_only_the_new_run_has_is_named(runs, tmp_path: Path) -> None:
    base = runs.load(written(tmp_path / "base", {}, loss=None))
    head = runs.load(written(tmp_path / "head", {}))
    assert runs.first_difference(base, head) == "update 20: no such reading in BASE"


def test_times_places_and_new_fields_are_no_difference(runs, tmp_path: Path) -> None:
    base = runs.load(written(tmp_path / "base", {}))
    result = {"timing": {}, "argv": ["elsewhere"], "run_id": "another"}
    head = runs.load(written(tmp_path / "head", result, t=5.0, amount=0.5))
    assert runs.first_difference(base, head) is None


def test_allowed_fields_are_left_out_and_no_others(runs, tmp_path: Path) -> None:
    base = runs.load(written(tmp_path / "base", {}))
    changes = {"pattern": "descent", "reason": "another"}
    head = runs.load(written(tmp_path / "head", {"final_weights_sha": "x"}, **changes))
    assert runs.first_difference(base, head, {"reason"}).startswith("update 20: pattern")
    assert runs.first_difference(base, head, set(changes)).startswith("final_weights_sha")
    assert runs.first_difference(base, head, {*changes, "final_weights_sha"}) is None


def test_one_metric_may_be_left_out_and_an_evaluation_is_no_reading(runs, tmp_path: Path) -> None:
    base = runs.load(written(tmp_path / "base", {"metrics": {"test": {"accuracy": 90.0}}}))
    metrics = {"test": {"accuracy": 90.0, "loss": 0.5}}
    folder = written(tmp_path / "head", {"metrics": metrics})
    evaluated = {"kind": "evaluation", "update": 20, "split": "validation", "loss": 0.5}
    with (folder / "events.jsonl").open("a") as events:
        events.write(json.dumps(evaluated) + "\n")
    head = runs.load(folder)
    assert runs.first_difference(base, head).startswith("metrics {")
    assert runs.first_difference(base, head, {"metrics.loss"}) is None
    assert runs.first_difference(base, head, {"metrics.other"}).startswith("metrics {")


def test_a_run_must_show_what_it_is_for(runs, tmp_path: Path) -> None:
    folder = written(tmp_path, {"status": "diverged"})
    made = {shows: runs.Run("one", "", shows=shows) for shows in ("", "raise", "cut", "diverged")}
    told = {shows: runs.missing(run, runs.load(folder)) for shows, run in made.items()}
    assert told == {"": None, "raise": None, "cut": "cut", "diverged": None}
    (folder / "events.jsonl").write_text("")
    assert runs.missing(made[""], runs.load(folder)) == "reading"


def test_what_a_replay_prints_is_read_like_a_run(runs, tmp_path: Path) -> None:
    folder = written(tmp_path, {})
    traces = runs.load(folder)
    assert runs.load(folder / "events.jsonl") == runs.Traces({}, traces.events)


def test_the_set_is_of_commands_that_the_toolkit_takes(runs, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in runs.USER_FILES.items():
        Path(name).write_text(text)
    made = runs.fixed_set(SCHEDULES)
    assert len({run.name for run in made}) == len(made)
    for run in made:
        assert not run.replays or run.replays in {other.name for other in made}
        if not run.replays:
            parse([run.target, "--study", run.name, *run.flags.split()])
