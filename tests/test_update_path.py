"""What is written down when: events wait for each other, but nobody waits for them."""

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator

from toolkit.config import parse
from toolkit.records import recorder
from toolkit.records.recorder import Recorder
from toolkit.schedules.reading import NO_ACTION, Decision, Reading
from toolkit.train import main


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A recorder whose blocks never end by time."""
    monkeypatch.setattr(recorder, "BLOCK_SECONDS", math.inf)
    config = parse(["digits/vit_micro", "--wandb", "off", "--progress", "False"])
    made = Recorder(tmp_path, Accelerator(cpu=True), config, updates=12)
    yield made
    made.close()


def read(record: Recorder, update: int, action: str = "hold") -> None:
    decision = NO_ACTION._replace(action=action)
    record.reading(Reading.of(update, 0.0, 1.0), decision, [0.1], 1.0)


def written(record: Recorder) -> int:
    """Lines in the file."""
    return (record.folder / "events.jsonl").read_text().count("\n")


@pytest.mark.parametrize(("action", "lines"), [("hold", 0), ("snapshot", 0), ("cut", 2)])
def test_a_decision_that_changes_something_ends_a_block(
    record: Recorder, action: str, lines: int
) -> None:
    read(record, 1)
    read(record, 2, action)
    assert written(record) == lines
    record.close()
    assert written(record) == 2


def test_a_block_ends_when_its_time_is_over(
    record: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    record.status("running", 0)
    read(record, 1)
    now = time.monotonic()
    monkeypatch.setattr(recorder, "BLOCK_SECONDS", 10.0)
    monkeypatch.setattr(time, "monotonic", lambda: now + 30)
    read(record, 2)
    assert written(record) == 2  # as the last was written long ago
    read(record, 3)
    assert written(record) == 2
    monkeypatch.setattr(time, "monotonic", lambda: now + 45)
    read(record, 4)
    assert written(record) == 4


def test_a_slow_run_writes_each_reading_at_once(
    record: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(recorder, "BLOCK_SECONDS", 10.0)
    for update in (1, 2, 3):
        monkeypatch.setattr(time, "monotonic", lambda update=update: now + 11 * update)
        read(record, update)
        assert written(record) == update


@pytest.mark.parametrize(
    "ends",
    [
        lambda record: record.evaluation("test", 1, 0.1, {"accuracy": 50.0}),
        lambda record: record.event("resume", 1),
        lambda record: record.validation_reading(
            Reading.of(1, 0.1, 1.0), Decision("none", None, "hold", ""), [0.1], 1.0
        ),
    ],
)
def test_other_events_end_a_block(record: Recorder, ends: Any) -> None:
    read(record, 1)
    ends(record)
    assert written(record) == 2


def test_a_checkpoint_and_a_status_end_a_block(record: Recorder) -> None:
    read(record, 1)
    assert record.events_state()["bytes"] == (record.folder / "events.jsonl").stat().st_size > 0
    read(record, 2)
    record.status("preempted", 2)
    assert written(record) == 2


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit])
def test_a_run_that_fails_leaves_all_its_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    monkeypatch.setattr(recorder, "BLOCK_SECONDS", math.inf)
    monkeypatch.chdir(tmp_path)

    def fail(run: Any) -> None:
        if run.update == 7:  # before its reading
            raise error

    flags = ["digits/vit_micro", "--updates", "9", "--wandb", "off", "--no-progress", "cosine"]
    if error is SystemExit:
        with pytest.raises(SystemExit):
            main(flags, [fail])
    else:
        assert main(flags, [fail]) == 1
    (file,) = tmp_path.glob("runs/single/*/events.jsonl")
    events = [json.loads(line) for line in file.read_text().splitlines()]
    assert [event["update"] for event in events if "kind" not in event] == [*range(1, 7)]
