"""Recipes for the handwritten digits."""

from collections.abc import Mapping
from dataclasses import dataclass

from toolkit.recipe import Recipe

from .classes import ClassificationRecipe


@dataclass(frozen=True)
class DigitsRecipe(ClassificationRecipe):
    """A recipe for the digits."""

    dropout: float = 0.0
    """Share of the features that are dropped before the classifier. Where it is above 0, two arms
    of a seed, which draw it apart, differ."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._below_one("dropout")


PLAN = DigitsRecipe(optimizer="adam", lr=0.01, weight_decay=1e-4, epochs=50)

FIELD = DigitsRecipe(optimizer="adamw", lr=0.01, weight_decay=1e-4, epochs=20)

RECIPES: Mapping[str, Mapping[str, Recipe]] = {
    "resnetv2_micro": {"field": FIELD, "plan": PLAN},
    "vit_micro": {"field": FIELD, "plan": PLAN},
}
