"""The recipe for questions of the user's own."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from toolkit.recipe import NAMES_DATA, Recipe

from .squad_v2 import SquadRecipe


@dataclass(frozen=True)
class OwnQaRecipe(SquadRecipe):
    """A recipe for questions of the user's own.

    Splits that the data do not have are a tenth of the training questions each, drawn once by a
    fixed seed: whole articles where there are enough, else whole contexts.
    """

    data: str = field(default="", metadata={NAMES_DATA: True})
    """A JSON file as SQuAD 1.1 or 2.0 are published, or JSON, JSONL or parquet in the hub's form;
    or a folder of files whose names say train, validation and test; example is a small one."""
    questions: Literal["all", "answerable"] = "all"
    """``answerable``: no split has questions without an answer, and every question gets one. So it
    is anyway where all questions of the data have one, as in SQuAD 1.1."""


FIELD = OwnQaRecipe(
    optimizer="adamw",
    lr=3e-5,
    weight_decay=0.0,
    decay="matrices",
    epochs=2,
    global_batch=12,
    clip=1.0,
    init="pretrained",
)
"""transformers' examples/pytorch/question-answering/run_qa.py with BERT on SQuAD (README): LR 3e-5,
2 epochs, batch 12, 384 tokens, stride 128; Trainer's defaults else, among them clipping at 1."""

RECIPES: Mapping[str, Mapping[str, Recipe]] = {"*": {"field": FIELD}}
