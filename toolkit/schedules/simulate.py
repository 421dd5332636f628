"""A schedule driven over recorded readings, without a model. Pure."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from toolkit.schedules import Schedule
from toolkit.schedules.reading import Decision, Facts, Reading


class Judged(NamedTuple):
    """What a schedule made of one reading.

    Attributes:
        reading: what it was given.
        factor: the factor of the base LR in the reading's last update.
        decision: what it decided on it.
        memory: what it remembers afterwards.
    """

    reading: Reading
    factor: float
    decision: Decision
    memory: Any


def begin(schedule: Schedule[Any], base_lr: float, facts: Facts) -> Any:
    """The memory before the first update."""
    memory = schedule.start(base_lr)
    inform = getattr(schedule, "inform", None)
    return memory if inform is None else inform(memory, facts)


def drive(
    schedule: Schedule[Any], readings: Iterable[Reading], base_lr: float, facts: Facts
) -> Iterator[Judged]:
    """Judge readings in their order, as a run with these losses would have.

    Args:
        schedule: the schedule.
        readings: with rising updates, all within the budget, if there is one.
        base_lr: the run's learning rate.
        facts: what the run knew before its first update.
    """
    memory = begin(schedule, base_lr, facts)
    for reading in readings:
        factor = schedule.factor(memory, progress(reading.update - 1, facts.total_updates))
        memory = schedule.observe(memory, reading)
        yield Judged(reading, factor, memory.decision, memory)


def progress(updates: int, total_updates: int | None) -> float:
    """The share of the budget that is spent after so many updates; 0 without a budget."""
    return 0.0 if total_updates is None else updates / total_updates
