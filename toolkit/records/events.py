"""One line of events.jsonl: a reading, the LR used in its last update, and the decision. Pure."""

import math
from collections.abc import Mapping
from typing import Any

from toolkit.schedules.reading import Decision, Reading

VALIDATION_READING = "validation_reading"
"""The kind of an event that is the reading of a schedule which sees validation losses. In such a
run the readings of training losses are there, too, and decide nothing."""


def entrant(schedule: str, sees: str) -> str:
    """What reports call a schedule: its name, marked if it sees validation losses."""
    return schedule if sees == "training" else f"{schedule} (sees {sees})"


def to_event(reading: Reading, decision: Decision, lr: float, factor: float) -> dict[str, Any]:
    """The event of a reading, as JSON; a loss that is not finite is None."""
    loss = reading.loss if math.isfinite(reading.loss) else None
    return {
        **reading._asdict(),
        "loss": loss,
        "lr": lr,
        "factor": factor,
        **decision._asdict(),
    }


def reading_of(event: Mapping[str, Any]) -> Reading:
    """The reading of an event.

    Raises:
        KeyError: for a field that is missing.
    """
    values = {field: event[field] for field in Reading._fields}
    return Reading(**{**values, "loss": math.nan if event["loss"] is None else event["loss"]})


def decision_of(event: Mapping[str, Any]) -> Decision:
    """The decision of an event.

    Raises:
        KeyError: for a field that is missing.
    """
    return Decision(*(event[field] for field in Decision._fields))
