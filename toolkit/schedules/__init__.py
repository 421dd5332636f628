"""The schedule protocol and the one list of schedules.

A schedule is a frozen dataclass of settings with pure functions over an immutable memory. The
training loop owns the clock and hands in progress; a schedule owns only what it remembers of the
losses. It returns a *factor* of the base learning rate, so layer-wise rates keep their ratios.

Nothing in this package imports torch, reads a file, looks at a clock or draws a random number.
"""

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

from toolkit.schedules.adaptive.schedule import Adaptive
from toolkit.schedules.greedy import Greedy, GreedyPaper
from toolkit.schedules.open_ended import OpenEnded
from toolkit.schedules.open_loop import WSD, Constant, Cosine, Linear, OneCycle, Step
from toolkit.schedules.plan import Plan
from toolkit.schedules.plateau import Plateau
from toolkit.schedules.reading import NO_ACTION, Decision, Facts, Reading


class Memory(Protocol):
    """What a schedule remembers: a ``NamedTuple`` of numbers, booleans, strings and tuples."""

    def _asdict(self) -> dict[str, Any]: ...


M = TypeVar("M", bound=Memory)


class Schedule(Protocol[M]):
    """What the loop, replay and every other trainer ask of a schedule.

    A decision may ask for more than another LR: ``snapshot`` of model and optimizer; ``rollback``
    to it; in a search before training begins ``trial`` and ``restore``, which go back to the
    untouched model; ``judge``, a pass without gradient; and ``anneal``, which brings the LR to 0
    over ``amount`` updates on top of the schedule's factor. The loop obeys, on all ranks alike.

    What a schedule needs of a loop for that, of ``ABILITIES``, it says in a class attribute
    ``needs: ClassVar[frozenset[str]]``; without the attribute it needs nothing. Whether the loop
    can do it is told by ``facts.can``. What it only makes use of where the loop can do it, it says
    in ``uses``, as a class attribute or a property; one that uses ``distance`` has a method
    ``weight(memory, progress) -> float``, too: the weight of the next update in the estimate. A
    memory may have a property ``found``, of ``toolkit.schedules.reading.Found`` or None.

    Where a run is extended (``extension.py``) a schedule that holds its LR before an anneal has an
    attribute ``holds_until``, the progress up to which it does, and goes on from there. A method
    ``extended(memory) -> memory``, if it has one, says what it remembers then.
    """

    def start(self, base_lr: float, facts: Facts) -> tuple[M, Decision]:
        """The memory before the first update, and what is to be done before it.

        Args:
            base_lr: the run's learning rate.
            facts: what is known of the run.
        """

    def observe(self, memory: M, reading: Reading) -> tuple[M, Decision]:
        """The memory after a reading, and the decision on it."""

    def factor(self, memory: M, progress: float) -> float:
        """The factor of the base LR for the next update.

        Args:
            memory: what ``start`` or ``observe`` returned last.
            progress: updates made / updates of the budget, in [0, 1); 0 without a budget.
        """


SCHEDULES: Mapping[str, type] = {
    "constant": Constant,
    "step": Step,
    "linear": Linear,
    "cosine": Cosine,
    "one-cycle": OneCycle,
    "wsd": WSD,
    "plateau": Plateau,
    "greedy": Greedy,
    "greedy-paper": GreedyPaper,
    "plan": Plan,
    "adaptive": Adaptive,
    "open-ended": OpenEnded,
}
"""Every shipped schedule by the name it has on the command line and in ``result.json``."""


def name_of(schedule: object) -> str:
    """The name of a shipped schedule.

    Raises:
        KeyError: if the schedule is not one of ``SCHEDULES``.
    """
    names = {kind: name for name, kind in SCHEDULES.items()}
    return names[type(schedule)]


def summary_of(kind: type) -> str:
    """The first paragraph of a schedule's docstring, in one line; empty if there is none."""
    return " ".join((kind.__doc__ or "").strip().partition("\n\n")[0].split()).replace("``", "")


def memory_to_json(memory: Memory) -> dict[str, Any]:
    """The memory as a JSON object of plain types: tuples become lists, numpy's numbers Python's."""
    return {key: _plain(value) for key, value in memory._asdict().items()}


def memory_from_json(fresh: M, state: Mapping[str, Any]) -> M:
    """The inverse of ``memory_to_json``.

    Args:
        fresh: any memory of the same schedule, for its type, e.g. the one that ``start`` returns.
        state: what ``memory_to_json`` returned, possibly after a trip through JSON.

    Raises:
        ValueError: if the fields are not those of this schedule's memory.
    """
    expected, found = set(fresh._asdict()), set(state)
    if expected != found:
        raise ValueError(
            f"schedule memory has fields {sorted(found)}, this schedule needs {sorted(expected)}"
        )
    values = {key: _like(getattr(fresh, key), value) for key, value in state.items()}
    return type(fresh)(**values)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value.item() if hasattr(value, "item") else value


def _like(template: Any, value: Any) -> Any:
    if not isinstance(value, list | tuple):
        if isinstance(template, tuple):
            raise ValueError(f"schedule memory has {value!r} where this version keeps several")
        return value
    if isinstance(template, tuple) and hasattr(template, "_fields"):
        if len(value) != len(template):
            raise ValueError(
                f"schedule memory has {len(value)} values where this version keeps {len(template)} "
                f"({type(template).__name__})"
            )
        return type(template)(*map(_like, template, value))
    return tuple(_like(None, item) for item in value)


__all__ = [
    "NO_ACTION",
    "SCHEDULES",
    "WSD",
    "Adaptive",
    "Constant",
    "Cosine",
    "Decision",
    "Facts",
    "Greedy",
    "GreedyPaper",
    "Linear",
    "Memory",
    "OneCycle",
    "OpenEnded",
    "Plan",
    "Plateau",
    "Reading",
    "Schedule",
    "Step",
    "memory_from_json",
    "memory_to_json",
    "name_of",
    "summary_of",
]
