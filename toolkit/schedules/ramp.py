"""The anneal that somebody asks for from outside: a straight line to zero. Pure."""

from typing import NamedTuple


class Ramp(NamedTuple):
    """A requested anneal: it began after update ``start`` and lasts ``updates`` (0: none)."""

    start: int = 0
    updates: int = 0

    def factor(self, update: int) -> float:
        """What the ramp leaves of the LR after ``update`` updates: 1 before, 0 at its end."""
        if not self.updates:
            return 1.0
        return max(0.0, 1 - (update - self.start) / self.updates)
