"""The lines of ``events.jsonl``: readings with their decisions, evaluations, timings, and the rest.

The reading of a training loss has no ``kind``; every other line has one. Pure.
"""

import math
from collections.abc import Mapping
from itertools import product
from types import NoneType
from typing import Any, NamedTuple, TypeAlias

from toolkit.errors import ConfigError
from toolkit.hints import LARGEST, misfits
from toolkit.schedules.reading import Decision, Reading

EVENTS = "events.jsonl"
LOWER = "lower_is_better"
"""In an evaluation, beside its metrics: the names of those that are better the lower they are."""
EVALUATION, TIMING, START, RESUME = "evaluation", "timing", "start", "resume"
VALIDATION_READING = "validation_reading"
"""The kind of an event that is the reading of a schedule which sees validation losses. In such a
run the readings of training losses are there, too, and decide nothing."""
OWN_RULE = ("schedule-free", "prodigy")
"""Optimizers that bring a rule of their own for the LR: entrants beside the schedules."""
READING_KINDS = {VALIDATION_READING: "validation", "judge_reading": "judge"}
"""The kind of an event -> the kind of its reading. Without a kind it is of the training loss."""


_PLACE: Mapping[str, Any] = {"update": int, "t": float}
_READING: Mapping[str, Any] = {
    **_PLACE,
    **{"epoch": float, "loss": float | None, "count": float, "nonfinite": int},
    **{"lr": float, "factor": float, "pattern": str, "statistic": float | None},
    **{"action": str, "reason": str, "amount": int | None, "lrs": list[float]},
    **{"distance": tuple[float, float] | None, "grad_norm": float | None},
}
_LATER = ("amount", "lrs", "distance", "grad_norm", "kind", LOWER)
_FIELDS: Mapping[str | None, Mapping[str, Any]] = {
    **{kind: {**_READING, "kind": str | None} for kind in (None, *READING_KINDS)},
    EVALUATION: {"kind": str, **_PLACE, "epoch": float, "split": str, LOWER: list[str]},
    TIMING: {"kind": str, **_PLACE, "epoch": float},
}
"""Kind of an event -> its fields. Of the rest of an evaluation each is a metric."""
_USUAL = {
    (int, float, float, loss, float, int, float, float, str, statistic, str, str, *tail, norm)
    for loss, statistic, norm in product((float, NoneType), repeat=3)
    for tail in ((NoneType, NoneType, NoneType), (NoneType, NoneType, list))
}
"""Types of the fields of ``_READING`` in most events."""


class ReadingEvent(NamedTuple):
    """A reading and what the schedule made of it.

    Attributes:
        reading: the loss.
        decision: the decision on it.
        lr: the LR of the first parameter group in the reading's last update.
        lrs: those of all groups.
        factor: of the base LR, in that update.
        time: seconds since 1970.
        grad_norm: L2 norm of that update's gradient before clipping; None if it is not known.
    """

    reading: Reading
    decision: Decision
    lr: float
    lrs: tuple[float, ...]
    factor: float
    time: float
    grad_norm: float | None = None


class EvaluationEvent(NamedTuple):
    """The metrics of a split, ``validation`` or ``test``, after an update; None: not finite.

    ``lower_is_better`` names those of them whose direction that is.
    """

    update: int
    epoch: float
    split: str
    metrics: Mapping[str, float | None]
    time: float
    lower_is_better: tuple[str, ...] = ()


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


def entrant(schedule: str, sees: str, optimizer: str = "") -> str:
    """What reports call a schedule: its name, with what else makes it an entrant of its own.

    That is validation losses which it sees, and an optimizer with a rule of its own for the LR.
    """
    own = [optimizer] if optimizer in OWN_RULE else []
    own += ["sees validation"] if sees != "training" else []
    return f"{schedule} ({', '.join(own)})" if own else schedule


def event_of(data: Mapping[str, Any], where: str, advice: str = "") -> Event:
    """The event of a line.

    Args:
        data: the line's object.
        where: its file and number, for the message of an error.
        advice: what a user can do about it; ends the message.

    Raises:
        ConfigError: if a field is missing that every version wrote, or is not what it writes.
    """
    check_event(data, where, advice)
    return _event_of(data)


def check_event(data: Mapping[str, Any], where: str, advice: str = "") -> None:
    """Refuse an event with a field that is missing, or is not what a run writes.

    Args:
        data: as for ``event_of``; so are the others.

    Raises:
        ConfigError: naming the field.
    """
    if _is_usual_reading(data):
        return
    kind = data.get("kind")
    hints = _FIELDS.get(kind if isinstance(kind, str | None) else "", {"kind": str, **_PLACE})
    ending = f"; {advice}" if advice else ""
    missing = [name for name in hints if name not in data and name not in _LATER]
    if missing:
        raise ConfigError(f"{where} is no event of this version: it lacks {missing[0]}{ending}")
    rest = float | None if kind in (EVALUATION, TIMING) else Any
    for name, value in data.items():
        for wrong in misfits(value, hints.get(name, rest), name):
            raise ConfigError(f"{where} is no event of a run: {wrong}{ending}")


def _is_usual_reading(data: Mapping[str, Any]) -> bool:
    """Whether an event is surely in order: most are, and there are hundreds of thousands."""
    types = tuple(type(data.get(name)) for name in _READING)
    if types not in _USUAL or not {"loss", "statistic"} <= data.keys() or "kind" in data:
        return False
    distance = data.get("distance")
    told = (0.0, 0.0) if distance is None else distance
    if [type(number) for number in told] != [float, float]:
        return False
    numbers = [data[name] for name in ("epoch", "count", "lr", "factor", "t")]
    numbers += [*told, data["loss"] or 0.0, data["statistic"] or 0.0, data.get("grad_norm") or 0.0]
    return math.isfinite(sum(numbers)) and data["update"] < LARGEST


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
            data.get("grad_norm"),
        )
    place = ("kind", "update", "t")
    if kind == EVALUATION:
        rest, lower = _without(data, (*place, "epoch", "split", LOWER)), data.get(LOWER, ())
        where = (data["update"], data["epoch"], data["split"])
        return EvaluationEvent(*where, rest, time, tuple(lower))
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
    """The reading of an event."""
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
    """The decision of an event that ``check_event`` accepts."""
    return Decision(
        pattern=event["pattern"],
        statistic=event["statistic"],
        action=event["action"],
        reason=event["reason"],
        amount=event.get("amount"),
    )


def _without(data: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name not in names}
