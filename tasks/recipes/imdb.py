"""Recipes for IMDB."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from toolkit.recipe import INTRODUCED_AT, NAMES_DATA, Recipe

from .classes import ClassificationRecipe
from .text import TextRecipe

LSTM = "lstm-glove"


@dataclass(frozen=True)
class ImdbRecipe(TextRecipe, ClassificationRecipe):
    """A recipe for IMDB.

    The test split is the official one; validation is 2,000 of the 25,000 training reviews, drawn
    once by a fixed seed.
    """

    train_examples: int | None = None
    """Train on so many reviews, drawn by a fixed seed; by default on all."""
    test_examples: int | None = field(default=None, metadata={INTRODUCED_AT: None})
    """Test on so many reviews, the same in every run, drawn by a fixed seed; by default on all."""

    mean_pooling: bool = field(default=False, metadata={INTRODUCED_AT: False})
    """An encoder's classifier sees the mean of the last states over the tokens, instead of what its
    published head looks at (BERT's: the first state). Encoders of sentences that were pretrained by
    that mean, as those of sentence-transformers, have next to nothing in the first state."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._positive("train_examples", "test_examples")


@dataclass(frozen=True)
class LstmRecipe(ImdbRecipe):
    """A recipe for the LSTM on word vectors."""

    glove: str = field(default="auto", metadata={NAMES_DATA: True})
    """A file in GloVe's text format: a path, or a name in $TOOLKIT_DATA/glove; auto takes the
    official 6B.100d if it is there, else the vectors trained on IMDB."""
    embeddings: Literal["frozen", "trained"] = "frozen"
    hidden: int = 300
    """Units of each direction."""
    layers: int = 2
    pooling: Literal["last", "mean_max"] = "last"
    """What the classifier sees: the last state of each direction, or mean and maximum over time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gradient_checkpointing:
            raise ValueError("recipe.gradient_checkpointing = True: that is for encoders")
        if self.lora_rank:
            raise ValueError(f"recipe.lora_rank = {self.lora_rank}: that is for encoders")
        owns = {"first_layers": "layers", "width": "hidden", "mean_pooling": "pooling"}
        for name, own in owns.items():
            if value := getattr(self, name):
                raise ValueError(
                    f"recipe.{name} = {value}: that is for encoders; the LSTM's is recipe.{own}"
                )


BERT = ImdbRecipe(
    optimizer="adamw",
    lr=2e-5,
    weight_decay=0.01,
    decay="matrices",
    epochs=2,
    global_batch=16,
    max_length=512,
    init="pretrained",
)
"""Trainer's defaults, as in the model card that states 94.07 % (car13mesquita/
bert-based-uncased-imdb on the hub): 2 epochs, LR 2e-5, linear to 0, batch 16."""

PLAN = ImdbRecipe(
    optimizer="adam", lr=0.01, weight_decay=1e-4, epochs=50, global_batch=64, init="pretrained"
)
"""The project plan's table."""

PLAN_UPDATE = replace(BERT, lr=3e-5, epochs=3, global_batch=64, dropout=0.3)
"""The plan's own later change for this pair: LR 5e-5 to 3e-5, 1 to 3 epochs, hidden dropout 0.1 to
0.3. See docs/decisions.md on what its two result lines can prove."""

LSTM_FIELD = LstmRecipe(
    optimizer="adam", lr=5e-4, weight_decay=0.0, epochs=10, global_batch=64, dropout=0.5
)
"""bentrevett/pytorch-sentiment-analysis, notebook 2: two bidirectional layers of 300, dropout 0.5,
Adam 5e-4 at a constant LR, 10 epochs, 256 tokens: 86.2 % with GloVe 840B.300d."""

LSTM_PLAN = LstmRecipe(optimizer="adam", lr=0.01, weight_decay=1e-4, epochs=50, dropout=0.5)
"""The project plan's table; the architecture is that of the field's recipe."""

RECIPES: Mapping[str, Mapping[str, Recipe]] = {
    "bert-base-uncased": {"field": BERT, "plan": PLAN, "plan_update": PLAN_UPDATE},
    LSTM: {"field": LSTM_FIELD, "plan": LSTM_PLAN},
    "*": {"field": BERT, "plan": PLAN},
}
