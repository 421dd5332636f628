"""Which readings a run's events lack. Pure.

A run is read every ``read_every`` updates, while its schedule searches for a base LR at every
update, and at the last update of all.
"""

from collections.abc import Iterable
from typing import NamedTuple


class Gap(NamedTuple):
    """Updates, the first and the last of them, among which readings are missing."""

    first: int
    last: int

    def __str__(self) -> str:
        if self.first == self.last:
            return f"the reading of update {self.first} is missing"
        return f"readings from update {self.first} to {self.last} are missing"


def gaps(
    readings: Iterable[tuple[int, str]],
    every: int,
    end: int | None,
    searching: bool = False,
    begun: int = 0,
) -> list[Gap]:
    """The gaps among the readings of one run.

    Args:
        readings: update and action of each, in order.
        every: updates between readings.
        end: an update that has a reading for certain, and is the last; None if it is not known.
        searching: whether the schedule begins with a search.
        begun: the update after which an extended run goes on.
    """
    found: list[Gap] = []
    before = begun

    def due() -> int:
        return before + 1 if searching else (before // every + 1) * every

    for update, action in readings:
        if due() < update:
            found.append(Gap(due(), update - 1))
            searching = False  # the end of the search may be what is missing
        if action in ("trial", "restore"):
            searching = action == "trial"
        before = update
    if end is not None and before < end:
        found.append(Gap(min(due(), end), end))
    return found
