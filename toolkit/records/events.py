"""One line of events.jsonl: a reading, the LR used in its last update, and the decision. Pure."""

import math
from collections.abc import Mapping
from typing import Any

from toolkit.schedules.reading import Decision, Reading

VALIDATION_READING = "validation_reading"
"""The kind of an event that is the reading of a schedule which sees validation losses. In such a
run the readings of training losses are there, too, and decide nothing."""
READING_KINDS = {VALIDATION_READING: "validation", "judge_reading": "judge"}
"""The kind of an event -> the kind of its reading. Without a kind it is of the training loss."""


def entrant(schedule: str, sees: str) -> str:
    """What reports call a schedule: its name, marked if it sees validation losses."""
    return schedule if sees == "training" else f"{schedule} (sees {sees})"


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
