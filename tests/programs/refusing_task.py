"""Handwritten digits whose data cannot be read on rank 0."""

import os
from typing import Any

from toolkit.recipe import Recipe
from toolkit.task import Splits, load

DIGITS: Any = type(load("digits"))


class Refusing(DIGITS):
    """Raises what a user's file may raise."""

    def splits(self, name: str, recipe: Recipe) -> Splits:
        if os.environ.get("RANK", "0") == "0":
            raise LookupError("row 3 has no label")
        splits: Splits = super().splits(name, recipe)
        return splits


TASK = Refusing()
