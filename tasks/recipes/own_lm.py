"""Recipes for a language model on text of the user's own."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from toolkit.recipe import NAMES_DATA, Recipe

from .text import TextRecipe


@dataclass(frozen=True)
class LmRecipe(TextRecipe):
    """A recipe for a language model.

    Splits that the data do not have are cut off from the end of the training text: the last tenth
    for the test, the tenth before for validation.
    """

    data: str = field(default="", metadata={NAMES_DATA: True})
    """A text file in UTF-8, or a folder of .txt files whose names say train, validation and test;
    example is a small one to try."""
    tokens: Literal["model", "characters"] = "model"
    """model: by the model's own tokenizer; characters: one token for each character that occurs."""
    max_length: int = 1024
    """Tokens of a block."""
    layers: int | None = None
    """Blocks of the network; by default as published. With init = random alone, as the next two."""
    hidden: int | None = None
    """Units of a token's state; by default as published."""
    heads: int | None = None
    """Attention heads; by default as published."""
    group_by_length: bool = False
    """Of no effect: all blocks have one length."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._positive("layers", "hidden", "heads")
        if self.width is not None or self.embeddings == "frozen":
            name, value = ("width", self.width) if self.width else ("embeddings", "frozen")
            raise ValueError(
                f"recipe.{name} = {value}: that is for encoders; sizes of a language model are "
                "recipe.layers, recipe.hidden and recipe.heads"
            )
        sizes = [name for name in ("layers", "hidden", "heads") if getattr(self, name) is not None]
        if sizes and self.init == "pretrained":
            raise ValueError(
                f"recipe.{sizes[0]} = {getattr(self, sizes[0])}: pretrained weights have a size of "
                "their own; --recipe.init random starts without them"
            )
        if self.tokens == "characters" and self.init == "pretrained":
            raise ValueError(
                "recipe.tokens = characters: pretrained weights know the tokens of their own "
                "tokenizer; --recipe.init random starts without them"
            )


FIELD = LmRecipe(
    optimizer="adamw",
    lr=5e-5,
    weight_decay=0.0,
    epochs=3,
    global_batch=8,
    eval_batch=8,
    clip=1.0,
    init="pretrained",
)
"""transformers' examples/pytorch/language-modeling/run_clm.py with GPT-2 on WikiText-2 (README):
batch 8, blocks of 1,024, Trainer's defaults else: 3 epochs, LR 5e-5, clipping at 1."""

CHARACTERS = replace(
    FIELD,
    lr=1e-3,
    weight_decay=0.1,
    decay="matrices",
    epochs=None,
    updates=5_000,
    global_batch=64,
    eval_batch=64,
    max_length=256,
    dropout=0.2,
    init="random",
    tokens="characters",
    layers=6,
    hidden=384,
    heads=6,
)
"""karpathy/nanoGPT config/train_shakespeare_char.py: 6 layers, 6 heads, width 384, dropout 0.2,
blocks of 256, batch 64, 5,000 updates of AdamW at 1e-3, weight decay 0.1, clipping at 1: a
validation loss of 1.47 on tiny Shakespeare."""

RECIPES: Mapping[str, Mapping[str, Recipe]] = {"*": {"field": FIELD, "characters": CHARACTERS}}
