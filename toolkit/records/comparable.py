"""Which settings two entrants may differ in and still be compared as schedules."""

from collections.abc import Mapping, Sequence
from typing import Any

from toolkit.config import NOT_PART_OF_THE_RECIPE
from toolkit.records.events import OWN_RULE

OWN = ("lr", "metric", *NOT_PART_OF_THE_RECIPE)
"""Settings of a recipe that are compared elsewhere, or decide nothing about the training."""


def differing(recipes: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, int]]:
    """The settings in which recipes differ by more than their entrants need.

    An optimizer with a rule of its own for the LR is an entrant by itself: that it is another is
    the comparison.

    Args:
        recipes: setting -> value, of the entrants of one pair at one base LR.

    Returns:
        Setting -> two of the recipes that differ in it, by their place.
    """
    found: dict[str, tuple[int, int]] = {}
    for name in sorted({name for recipe in recipes for name in recipe} - {*OWN}):
        first: tuple[int, Any] | None = None
        for place, value in enumerate(recipe.get(name) for recipe in recipes):
            if name == "optimizer" and value in OWN_RULE:
                continue
            first = (place, value) if first is None else first
            if value != first[1]:
                found[name] = (first[0], place)
                break
    return found
