"""The recipe that tasks on texts share."""

from dataclasses import dataclass, field
from typing import Literal

from toolkit.recipe import INTRODUCED_AT, Recipe

BERT_LARGE_WWM = "bert-large-uncased-whole-word-masking-finetuned-squad"

HEAD = 32
"""Width of an attention head where the recipe sets the encoder's."""


@dataclass(frozen=True)
class TextRecipe(Recipe):
    """A recipe for a text encoder."""

    max_length: int = 256
    """Tokens kept of an example, or of a window of it."""
    dropout: float | None = None
    """Dropout of the hidden layers; by default what the model was published with."""
    first_layers: int | None = None
    """Keep the encoder's first layers only; by default all. Far cheaper, and most of the quality
    stays (Sajjad et al. 2023, "On the effect of dropping layers of pre-trained transformer models",
    top-layer dropping)."""
    group_by_length: bool = True
    """Batches of similar length: less padding, the same epochs."""
    width: int | None = field(default=None, metadata={INTRODUCED_AT: None})
    """Hidden size of an encoder with random weights, in heads of 32 and with layers between that
    are 4 times as wide; by default the published sizes."""
    embeddings: Literal["frozen", "trained"] = field(
        default="trained", metadata={INTRODUCED_AT: "trained"}
    )
    """Whether the words' vectors are trained, or left as they are: in a small encoder they are most
    of the weights."""
    gradient_checkpointing: bool = field(default=False, metadata={INTRODUCED_AT: False})
    """Make the activations of each layer once more in the backward pass instead of keeping them: a
    third more time, far less memory, the same numbers."""
    lora_rank: int | None = field(default=None, metadata={INTRODUCED_AT: None})
    """Train matrices of this rank beside frozen layers, and a new head, by the package peft (extra
    peft); by default train all weights."""
    lora_alpha: float | None = field(default=None, metadata={INTRODUCED_AT: None})
    """What those matrices add is multiplied by this over the rank; by default by 1."""
    lora_layers: Literal["usual", "all"] = field(default="usual", metadata={INTRODUCED_AT: "usual"})
    """Which layers: those that peft takes for this kind of model, or every linear one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._positive("max_length", "first_layers", "width", "lora_rank", "lora_alpha")
        self._below_one("dropout")
        for name, usual in (("lora_alpha", None), ("lora_layers", "usual")):
            if self.lora_rank is None and (value := getattr(self, name)) != usual:
                raise ValueError(f"recipe.{name} = {value}: it takes recipe.lora_rank")
        if self.width is not None and (self.width % HEAD or self.init != "random"):
            raise ValueError(
                f"recipe.width = {self.width}: it must be a multiple of {HEAD}, and is for "
                "recipe.init = random"
            )
