"""What tasks that judge whole texts share: texts to token ids, loss and predictions of a head."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.task import Batch, Task

from .text import state_of

if TYPE_CHECKING:
    from datasets import Dataset


class Encoder:
    """Texts to token ids, with a name for the cache that depends on all that matters."""

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        self.inputs = [name for name in tokenizer.model_input_names if name != "attention_mask"]
        state = (state_of(tokenizer), tokenizer.truncation_side, max_length)
        self.name = hashlib.sha256(repr(state).encode()).hexdigest()

    def __call__(self, texts: Sequence[str]) -> dict[str, list[list[int]]]:
        encoded = self.tokenizer(list(texts), truncation=True, max_length=self.max_length)
        return {name: encoded[name] for name in self.inputs}


def encoded_split(
    split: "Dataset", encode: Any, text: str = "text", keep: Sequence[str] = ("label",)
) -> "Dataset":
    """The split with token ids instead of texts, kept on disk for the next process and rank.

    Args:
        split: the rows.
        encode: an ``Encoder``, or what is called and named like one.
        text: the column with the texts.
        keep: the columns that stay.
    """
    key = ("texts 2", split._fingerprint, encode.name, text, sorted(keep))
    name = hashlib.sha256(repr(key).encode()).hexdigest()[:32]
    encoded = split.map(
        lambda rows: encode(rows[text]),
        batched=True,
        remove_columns=[column for column in split.column_names if column not in keep],
        new_fingerprint=name,
    )
    return cast("Dataset", encoded)


class TextClassification(Task):
    """The part of a task that any classification of texts has in common."""

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, int]:
        logits = logits_of(model, batch)
        return F.cross_entropy(logits.float(), batch["label"], reduction="sum"), len(logits)

    def predict(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        return logits_of(model, batch).argmax(-1), batch["label"]


def logits_of(model: nn.Module, batch: Batch) -> Tensor:
    """Of an encoder with a head, or of a network that returns them: shape (batch, outputs)."""
    inputs = {key: value for key, value in batch.items() if key not in ("id", "label")}
    output = model(**inputs)
    return cast(Tensor, getattr(output, "logits", output))
