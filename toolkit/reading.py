"""What goes into a schedule and what comes out of one, by the name that other programs import."""

from toolkit.schedules.reading import (
    ABILITIES,
    ACTIONS,
    NO_ACTION,
    PATTERNS,
    Decision,
    Facts,
    Reading,
)

__all__ = ["ABILITIES", "ACTIONS", "NO_ACTION", "PATTERNS", "Decision", "Facts", "Reading"]
