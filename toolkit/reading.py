"""What goes into a schedule and what comes out of one, by the name that other programs import."""

from toolkit.schedules.reading import ACTIONS, PATTERNS, Anneal, Decision, Facts, Reading

__all__ = ["ACTIONS", "PATTERNS", "Anneal", "Decision", "Facts", "Reading"]
