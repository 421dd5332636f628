"""What a tracker gets of a run: rows of numbers and decisions, read from the run's files. No torch.

Training writes to disk and knows of no tracker; whoever mirrors a run to one follows its files.
"""

import json
import math
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from toolkit.extension import carried_out
from toolkit.records.events import (
    EVENTS,
    START,
    TIMING,
    EvaluationEvent,
    Event,
    OtherEvent,
    ReadingEvent,
    TimingEvent,
    decision_to_json,
    entrant,
    event_of,
)
from toolkit.records.json_files import parse_object

PROJECT = "adaptive-lr-toolkit"
"""What trackers keep runs under, unless they are told otherwise."""
PROJECT_FROM = {"wandb": "WANDB_PROJECT", "mlflow": "MLFLOW_EXPERIMENT_NAME"}
"""Tracker -> the variable of the environment that tells it otherwise, where no flag does."""
AXES = ("update", "epoch", "wall_clock")
"""On every row; wall_clock is in seconds since the run's first event."""
VALIDATION_LOSS = "validation/loss"
DECISION_COLUMNS = (*AXES, "lr", "pattern", "statistic", "action", "reason")
POLL_SECONDS = 0.2


class Row(NamedTuple):
    """What is told of one event.

    Attributes:
        axes: where it stands, by ``AXES``.
        values: its numbers, by name; empty for an event without.
        decision: the row of the table of decisions, without its axes; empty for an event that is
            none.
        falling: those of the values that are better the lower they are.
    """

    axes: dict[str, float]
    values: dict[str, float]
    decision: dict[str, Any]
    falling: tuple[str, ...]


def follow(folder: Path, begin: int, over: threading.Event) -> Iterator[tuple[Row, bool]]:
    """The rows of a run, and of what is still being written, until it is over.

    Args:
        folder: the run's folder.
        begin: byte of ``events.jsonl`` up to which a tracker has been told before.
        over: set when no more events will be written.

    Yields:
        A row, and whether it is new to the tracker.
    """
    file, first = folder / EVENTS, None
    for event, end in _events(file, over):
        first = event.time if first is None else first
        axes = {**_place(event), "wall_clock": event.time - first}
        falling = (VALIDATION_LOSS, *_falling(event))
        yield Row(axes, values(event), decision(event), falling), end > begin


def values(event: Event) -> dict[str, float]:
    """The numbers of an event, beside its axes; empty for events that are not numbers."""
    if isinstance(event, EvaluationEvent):
        finite = {name: value for name, value in event.metrics.items() if value is not None}
        return {f"{event.split}/{name}": value for name, value in finite.items()}
    if isinstance(event, TimingEvent):
        return {f"{TIMING}/{name}": value for name, value in event.values.items()}
    if isinstance(event, OtherEvent):
        return {}
    loss = {} if math.isnan(event.reading.loss) else {"loss": event.reading.loss}
    if event.reading.kind != "training":
        return {f"{event.reading.kind}/{name}": value for name, value in loss.items()}
    groups = {f"lr/group_{i}": rate for i, rate in enumerate(event.lrs[1:], 1)}
    norm = {} if event.grad_norm is None else {"grad_norm": event.grad_norm}
    train = {f"train/{name}": value for name, value in {**loss, **norm}.items()}
    return {**train, "lr": event.lr, **groups, "factor": event.factor}


def decision(event: Event) -> dict[str, Any]:
    """The row of the table of decisions, without its axes; empty for an event that is none."""
    if isinstance(event, ReadingEvent):
        if event.decision.action == "hold":
            return {}
        return {"lr": event.lr, **decision_to_json(event.decision)}
    if isinstance(event, OtherEvent) and event.kind != START:
        rest = {name: value for name, value in event.fields.items() if name not in AXES}
        return {"action": event.kind, "reason": json.dumps(rest)}
    return {}


def describe(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a tracker is told of a run at its start, by the names of ``result.json``."""
    schedule, optimizer = config["schedule"], config["recipe"].get("optimizer", "")
    rest = {name: value for name, value in config.items() if name not in ("schedule", "recipe")}
    return {
        **rest,
        "recipe_settings": carried_out(config["recipe"], config.get("extend", ())),
        "base_lr": config["recipe"]["lr"],
        "schedule": entrant(schedule["name"], config.get("sees", "training"), optimizer),
        "schedule_config": schedule["fields"],
        "schedule_source_sha": schedule.get("source_sha"),
    }


def project_of(told: Mapping[str, Any], tracker: str) -> str:
    """What a tracker keeps a run under: as a flag says, or the environment, or by default."""
    named = os.environ.get(PROJECT_FROM[tracker]) if tracker in PROJECT_FROM else None
    return str(told.get("project") or named or PROJECT)


def sizes(folder: Path) -> dict[str, int]:
    """How many numbers the model of a run has, and how many it learns; empty for older runs."""
    with (folder / EVENTS).open() as lines:
        first = lines.readline()
    start = parse_object(first, f"a line of {folder / EVENTS}") if first.endswith("\n") else {}
    names = ("parameters", "trained_parameters")
    return {name: start[name] for name in names if isinstance(start.get(name), int)}


def run_name(told: Mapping[str, Any]) -> str:
    """What a run is called at a tracker, by what ``describe`` tells of it."""
    return f"{told['target']} {told['schedule']} LR {told['base_lr']:g} seed {told['seed']}"


def _falling(event: Event) -> list[str]:
    """The numbers of an event, by the names of ``values``, that are better the lower they are."""
    if not isinstance(event, EvaluationEvent):
        return []
    return [f"{event.split}/{name}" for name in event.lower_is_better]


def _place(event: Event) -> dict[str, float]:
    """The update of an event, and the epoch where it is known."""
    if isinstance(event, ReadingEvent):
        return {"update": event.reading.update, "epoch": event.reading.epoch}
    if isinstance(event, OtherEvent):
        epoch = {"epoch": event.fields["epoch"]} if "epoch" in event.fields else {}
        return {"update": event.update, **epoch}
    return {"update": event.update, "epoch": event.epoch}


def _events(file: Path, over: threading.Event) -> Iterator[tuple[Event, int]]:
    """The events of a file, as they are written, and the byte at which each ends."""
    at, partial = 0, b""
    while True:
        last = over.is_set()  # before reading: what was written by then is read
        with file.open("rb") as lines:
            lines.seek(at + len(partial))
            read = partial + lines.read()
        *whole, partial = read.split(b"\n")
        for line in whole:
            at += len(line) + 1
            yield _event(file, line.decode()), at
        if last:
            return
        over.wait(POLL_SECONDS)


def _event(file: Path, line: str) -> Event:
    return event_of(parse_object(line, f"a line of {file}"), f"a line of {file}")
