"""Recipes for SQuAD v2."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from toolkit.recipe import NAMES_DATA, Recipe

from .text import BERT_LARGE_WWM, TextRecipe


@dataclass(frozen=True)
class SquadRecipe(TextRecipe):
    """A recipe for SQuAD v2.

    The test split is the official validation split. Validation is whole articles of the training
    split, at least 2 % of its questions, drawn once by a fixed seed.
    """

    max_length: int = 384
    stride: int = 128
    """Tokens that neighbouring windows of one context share."""
    data: str = field(default="squad_v2", metadata={NAMES_DATA: True})
    """The data set's folder: the official squad_v2, or another of the same columns."""
    questions: Literal["all", "answerable"] = "all"
    """``answerable`` is the task of SQuAD 1.1: no split has questions without an answer, every
    question gets one, and training windows that the answer is not in are left out. Small models and
    budgets learn that sooner than when to keep silent."""
    train_examples: int | None = None
    """Train on so many questions, drawn by a fixed seed; by default on all."""


BERT_LARGE = SquadRecipe(
    optimizer="adamw",
    lr=3e-5,
    weight_decay=0.0,
    decay="matrices",
    epochs=2,
    global_batch=12,
    clip=1.0,
    init="pretrained",
)
"""madlag/bert-large-uncased-whole-word-masking-finetuned-squadv2 on the hub, run.sh: LR 3e-5, 2
epochs, batch 12, 384 tokens, stride 128, linear without warm-up: EM 82.83, F1 85.85 at the best
threshold."""

ROBERTA = replace(BERT_LARGE, global_batch=96)
"""deepset/roberta-base-squad2 on the hub: batch 96, 2 epochs, LR 3e-5, linear with a warm-up of
20 % (``--schedule.warmup 0.2``): EM 79.93, F1 82.95."""

PLAN = replace(
    BERT_LARGE,
    optimizer="adam",
    lr=0.01,
    weight_decay=1e-4,
    decay="all",
    epochs=50,
    global_batch=64,
    micro_batch=16,
    clip=None,
)
"""The project plan's table; in micro-batches, for BERT-large takes much memory."""

RECIPES: Mapping[str, Mapping[str, Recipe]] = {
    BERT_LARGE_WWM: {"field": BERT_LARGE, "plan": PLAN},
    "roberta-base": {"field": ROBERTA, "plan": PLAN},
    "*": {"field": BERT_LARGE, "plan": PLAN},
}
