"""The lines of ``events.jsonl``: readings with their decisions, evaluations, timings, and the rest.

The reading of a training loss has no ``kind``; every other line has one. Pure.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

from toolkit.errors import ConfigError
from toolkit.schedules.reading import Decision, Reading

EVENTS = "events.jsonl"
EVALUATION, TIMING, START, RESUME = "evaluation", "timing", "start", "resume"
VALIDATION_READING = "validation_reading"
"""The kind of an event that is the reading of a schedule which sees validation losses. In such a
run the readings of training losses are there, too, and decide nothing."""
READING_KINDS = {VALIDATION_READING: "validation", "judge_reading": "judge"}
"""The kind of an event -> the kind of its reading. Without a kind it is of the training loss."""


class ReadingEvent(NamedTuple):
    """A reading and what the schedule made of it.

    Attributes:
        reading: the loss.
        decision: the decision on it.
        lr: the LR of the first parameter group in the reading's last update.
        lrs: those of all groups.
        factor: of the base LR, in that update.
        time: seconds since 1970.
    """

    reading: Reading
    decision: Decision
    lr: float
    lrs: tuple[float, ...]
    factor: float
    time: float


class EvaluationEvent(NamedTuple):
    """The metrics of a split, ``validation`` or ``test``, after an update."""

    update: int
    epoch: float
    split: str
    metrics: Mapping[str, float]
    time: float


class TimingEvent(NamedTuple):
    """What the run has cost so far, and its throughput since the event before."""

    update: int
    epoch: float
    values: Mapping[str, float]
    time: float


class OtherEvent(NamedTuple):
    """The start, a resume, or what only a newer version knows: its fields as they were stored."""

    kind: str
    update: int
    fields: Mapping[str, Any]
    time: float


Event: TypeAlias = ReadingEvent | EvaluationEvent | TimingEvent | OtherEvent


def entrant(schedule: str, sees: str) -> str:
    """What reports call a schedule: its name, marked if it sees validation losses."""
    return schedule if sees == "training" else f"{schedule} (sees validation)"


def event_of(data: Mapping[str, Any], where: str, advice: str = "") -> Event:
    """The event of a line.

    Args:
        data: the line's object.
        where: its file and number, for the message of an error.
        advice: what a user can do about it; ends the message.

    Raises:
        ConfigError: if a field is missing that every version wrote.
    """
    try:
        return _event_of(data)
    except KeyError as error:
        ending = f"; {advice}" if advice else ""
        raise ConfigError(
            f"{where} is no event of this version: it lacks {error.args[0]}{ending}"
        ) from error


def _event_of(data: Mapping[str, Any]) -> Event:
    kind, time = data.get("kind"), data["t"]
    if kind is None or kind in READING_KINDS:
        lr = data["lr"]
        return ReadingEvent(
            reading_of(data),
            decision_of(data),
            lr,
            tuple(data.get("lrs", (lr,))),
            data["factor"],
            time,
        )
    place = ("kind", "update", "t")
    if kind == EVALUATION:
        rest = _without(data, (*place, "epoch", "split"))
        return EvaluationEvent(data["update"], data["epoch"], data["split"], rest, time)
    if kind == TIMING:
        return TimingEvent(data["update"], data["epoch"], _without(data, (*place, "epoch")), time)
    return OtherEvent(kind, data["update"], _without(data, place), time)


def to_event(reading: Reading, decision: Decision, lr: float, factor: float) -> dict[str, Any]:
    """The event of a reading, as JSON; a loss that is not finite is None.

    Fields that most readings do not have are left out where they are at their defaults.
    """
    kinds = {kind: name for name, kind in READING_KINDS.items()}
    kind = {"kind": kinds[reading.kind]} if reading.kind in kinds else {}
    distance = {} if reading.distance is None else {"distance": list(reading.distance)}
    return {
        **kind,
        "update": reading.update,
        "epoch": reading.epoch,
        "loss": reading.loss if math.isfinite(reading.loss) else None,
        "count": reading.count,
        "nonfinite": reading.nonfinite,
        **distance,
        "lr": lr,
        "factor": factor,
        **decision_to_json(decision),
    }


def decision_to_json(decision: Decision) -> dict[str, Any]:
    """The fields of a decision; without ``amount`` where there is none."""
    fields = decision._asdict()
    if decision.amount is None:
        del fields["amount"]
    return fields


def reading_of(event: Mapping[str, Any]) -> Reading:
    """The reading of an event.

    Raises:
        KeyError: for a field that is missing.
    """
    distance = event.get("distance")
    return Reading(
        update=event["update"],
        epoch=event["epoch"],
        loss=math.nan if event["loss"] is None else event["loss"],
        count=event["count"],
        nonfinite=event["nonfinite"],
        kind=READING_KINDS.get(event.get("kind", ""), "training"),
        distance=None if distance is None else (distance[0], distance[1]),
    )


def decision_of(event: Mapping[str, Any]) -> Decision:
    """The decision of an event.

    Raises:
        KeyError: for a field that is missing.
    """
    return Decision(
        pattern=event["pattern"],
        statistic=event["statistic"],
        action=event["action"],
        reason=event["reason"],
        amount=event.get("amount"),
    )


def _without(data: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name not in names}
