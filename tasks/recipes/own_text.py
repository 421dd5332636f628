"""The recipe for texts of the user's own."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from toolkit.recipe import NAMES_DATA, Recipe

from .classes import ClassificationRecipe
from .text import TextRecipe

Kind: TypeAlias = Literal["auto", "classes", "numbers"]
"""What labels are taken for."""


@dataclass(frozen=True)
class OwnTextRecipe(TextRecipe, ClassificationRecipe):
    """A recipe for texts of the user's own.

    Splits that the data do not have are a tenth of the training split each, drawn once by a fixed
    seed.
    """

    data: str = field(default="", metadata={NAMES_DATA: True})
    """CSV, TSV, JSONL or parquet: a file, or a folder of files whose names say train, validation
    and test; example is a small one to try."""
    text_column: str | None = None
    """The column with the texts; by default the one with a usual name, or the only one left."""
    label_column: str | None = None
    """The column with the labels; by default the one with a usual name, or the only one left."""
    labels: Kind = "auto"
    """numbers are predicted as such (regression); auto: numbers if one has a fraction."""


FIELD = OwnTextRecipe(
    optimizer="adamw",
    lr=2e-5,
    weight_decay=0.0,
    decay="matrices",
    epochs=3,
    global_batch=32,
    max_length=128,
    clip=1.0,
    init="pretrained",
)
"""transformers' examples/pytorch/text-classification on GLUE (README): LR 2e-5, 3 epochs, batch 32,
128 tokens; the rest is Trainer's defaults, among them clipping at 1 and no weight decay."""

RECIPES: Mapping[str, Mapping[str, Recipe]] = {"*": {"field": FIELD}}
