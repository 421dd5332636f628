"""Driving a schedule: what every loop does with one, and a whole run over recorded readings. Pure.

``ScheduledLR`` drives a schedule through the same functions as ``simulate``, so that a replay of a
run's readings gives the run's decisions and learning rates to the bit.
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from toolkit.errors import ConfigError
from toolkit.schedules import Schedule, memory_from_json
from toolkit.schedules._common import finite
from toolkit.schedules.extension import Joint
from toolkit.schedules.reading import NO_ACTION, Decision, Facts, Reading

CHANGED = (
    "the protocol of schedules has changed: start(base_lr, facts) and observe(memory, reading) "
    "return (memory, decision), the class attribute 'needs' replaces the method 'inform', and a "
    "decision 'anneal' with its amount replaces 'request'"
)


class Course(NamedTuple):
    """What a loop has made of decisions so far, beside the schedule's own factor.

    Attributes:
        searching: whether a trial of a search for a base LR is on its way.
        start: updates made when the anneal began, or the trial in progress.
        updates: updates over which the anneal takes the LR to 0 in a straight line; 0 before one
            was asked for.
        joint: where the run goes on from a shorter one; None if it does not.
    """

    searching: bool = False
    start: int = 0
    updates: int = 0
    joint: Joint | None = None

    def after(self, decision: Decision, made: int, facts: Facts) -> "Course":
        """The course after a decision on a reading of update ``made``.

        A search begins with its first trial and ends with ``restore``. An anneal that was asked
        for in a search begins at its end: before, the LR is that of a trial. A decision does not
        replace an anneal that was asked for before.
        """
        if decision.action == "anneal" and not self.updates:
            assert decision.amount is not None
            return self.annealed(decision.amount, made)
        if decision.action == "trial" and "restore" in facts.can:
            return self._replace(searching=True, start=made)
        if decision.action == "restore" and self.searching:
            return self._replace(searching=False, start=made)
        return self

    def annealed(self, updates: int, made: int) -> "Course":
        """The course with an anneal over so many updates after update ``made``."""
        return self._replace(start=made, updates=updates)

    def factor(self, made: int) -> float:
        """What the anneal leaves of the LR after ``made`` updates, 1 before it and 0 at its end,
        and the re-warming after a joint."""
        left = 1.0 if self.joint is None else self.joint.factor(made)
        if not self.updates or self.searching:
            return left
        return left * min(1.0, max(0.0, 1 - (made - self.start) / self.updates))

    def progress(self, made: int, budget: int | None) -> float:
        """What the schedule is told of the progress after ``made`` updates."""
        if self.joint is None or budget is None:
            return progress(made, budget)
        return self.joint.progress(made, budget)

    def to_json(self) -> dict[str, Any]:
        """The course as a JSON object."""
        told = self._asdict()
        joint = told.pop("joint")
        return told if joint is None else {**told, "joint": joint._asdict()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Course":
        """The inverse of ``to_json``."""
        joint = data.get("joint")
        return cls(**{**data, "joint": None if joint is None else Joint(**joint)})


class Begun(NamedTuple):
    """Where a run begins that goes on from a shorter one.

    Attributes:
        update: updates made there.
        memory: what the schedule remembers there, as ``memory_to_json`` has it.
        course: as ``Course.to_json`` has it.
    """

    update: int
    memory: Mapping[str, Any]
    course: Mapping[str, Any]


class Replayed(NamedTuple):
    """A recorded reading and what a schedule made of it.

    Attributes:
        reading: what the schedule was given.
        factor: the factor of the base LR in the reading's last update.
        decision: what it decided on the reading.
        memory: what it remembers afterwards.
        course: what a loop has made of its decisions so far, this one included.
    """

    reading: Reading
    factor: float
    decision: Decision
    memory: Any
    course: Course


def needs_of(schedule: object) -> frozenset[str]:
    """What a schedule or its class needs of a loop, of ``ABILITIES``."""
    needs: frozenset[str] = getattr(schedule, "needs", frozenset())
    return needs


def uses_of(schedule: object) -> frozenset[str]:
    """What a schedule makes use of where a loop can do it, of ``ABILITIES``, beside its needs."""
    uses: frozenset[str] = getattr(schedule, "uses", frozenset())
    return uses


def check_protocol(schedule: object, where: str) -> None:
    """Refuse a schedule, or a class of schedules, that follows the older protocol.

    Args:
        schedule: an object of the user's, or its class.
        where: what to call it.

    Raises:
        ConfigError: saying what has changed.
    """
    start = getattr(schedule, "start", None)
    if hasattr(schedule, "inform") or hasattr(schedule, "request") or not callable(start):
        raise ConfigError(f"{where}: {CHANGED}")
    try:
        given = (None, 0.1, Facts()) if isinstance(schedule, type) else (0.1, Facts())
        inspect.signature(start).bind(*given)
    except TypeError as error:
        raise ConfigError(f"{where}: {CHANGED}") from error


def check_schedule(schedule: object) -> None:
    """Refuse what is no schedule, such as the name of one, or its class.

    Raises:
        ConfigError: saying what is allowed.
    """
    if isinstance(schedule, str | type) or not callable(getattr(schedule, "start", None)):
        given = schedule if isinstance(schedule, str) else getattr(schedule, "__name__", schedule)
        raise ConfigError(
            f"schedule = {given!r}: it must be an object of a class of schedules, such as "
            f"toolkit.schedules.Cosine(); SCHEDULES there has the class of each name"
        )


def begin(schedule: Schedule[Any], base_lr: float, facts: Facts) -> tuple[Any, Decision]:
    """The memory before the first update, and what is decided then.

    Raises:
        ConfigError: if the schedule follows the older protocol.
        ValueError: from the schedule, if it does not fit the base LR or the facts.
    """
    check_schedule(schedule)
    check_protocol(schedule, type(schedule).__name__)
    return _pair(schedule, "start", schedule.start(base_lr, facts))


def observe(schedule: Schedule[Any], memory: Any, reading: Reading) -> tuple[Any, Decision]:
    """The memory after a reading, and the decision on it.

    Raises:
        ConfigError: if the schedule follows the older protocol, or decides on an anneal without
            its length.
    """
    return _pair(schedule, "observe", schedule.observe(memory, reading))


def simulate(
    schedule: Schedule[Any],
    readings: Iterable[Reading],
    base_lr: float,
    facts: Facts,
    begun: Begun | None = None,
) -> Iterator[Replayed]:
    """Hand recorded readings to a schedule, as a run with these losses would have.

    Args:
        schedule: the schedule.
        readings: with rising updates, all within the budget, if there is one. One on validation
            may follow one on training of the same update.
        base_lr: the run's learning rate.
        facts: what the run knew before its first update.
        begun: of a run that goes on from a shorter one: its readings begin there.

    Raises:
        ConfigError: if the schedule follows the older protocol.
        ValueError: if ``begun`` is of another schedule.
    """
    memory, decision = begin(schedule, base_lr, facts)
    course, made, factor = Course().after(decision, 0, facts), 0, 1.0
    if begun is not None:
        memory, course = memory_from_json(memory, begun.memory), Course.from_json(begun.course)
    for reading in readings:
        if reading.update != made:
            factor = factor_after(schedule, memory, course, reading.update - 1, facts.budget)
        made = reading.update
        memory, decision = observe(schedule, memory, reading)
        course = course.after(decision, reading.update, facts)
        yield Replayed(reading, factor, decision, memory, course)


def factor_after(
    schedule: Schedule[Any], memory: Any, course: Course, made: int, budget: int | None
) -> float:
    """The factor of the base LR in the update after ``made`` updates."""
    return schedule.factor(memory, course.progress(made, budget)) * course.factor(made)


def progress(updates: int, budget: int | None) -> float:
    """The share of the budget that is spent after so many updates; 0 without a budget."""
    return 0.0 if budget is None else updates / budget


def _pair(schedule: object, function: str, result: Any) -> tuple[Any, Decision]:
    """What ``start`` or ``observe`` returned, if it is a memory and a decision."""
    # A memory is a tuple, too: one of the older protocol must not pass for a pair.
    if type(result) is not tuple or len(result) != 2 or not isinstance(result[1], Decision):
        name = f"{type(schedule).__name__}.{function}"
        raise ConfigError(f"{name} does not return (memory, decision): {CHANGED}")
    memory, decision = result
    if decision is NO_ACTION:
        return result
    if decision.statistic is not None:  # for the log, which knows only Python's finite numbers
        decision = decision._replace(statistic=finite(float(decision.statistic)))
    if decision.action in ("anneal", "judge") and (decision.amount or 0) < 1:
        raise ConfigError(
            f"{type(schedule).__name__} decides on '{decision.action}' with amount = "
            f"{decision.amount}: it is the number of updates of an anneal, or of batches of a "
            "judge pass, at least 1"
        )
    return memory, decision
