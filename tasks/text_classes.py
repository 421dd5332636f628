"""What tasks that judge whole texts share: texts to token ids, loss and predictions of a head."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.predictions import Columns, cross_entropies, most_likely
from toolkit.task import Batch, Task, Unseen

from .text import Ragged, TokenSplit, fitting_tokenizer, state_of
from .text_files import unseen_texts

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
    """The part of a task that any classification of texts has in common.

    Subclasses set ``class_names``, for predictions in words.
    """

    class_names: Sequence[str] = ()
    numbered = True
    """Whether a user's table may have numbers of classes in place of names."""

    def loss(
        self, model: nn.Module, batch: Batch, label_smoothing: float = 0.0
    ) -> tuple[Tensor, int]:
        logits = logits_of(model, batch)
        total = F.cross_entropy(
            logits.float(), batch["label"], reduction="sum", label_smoothing=label_smoothing
        )
        return total, len(logits)

    def predict(self, model: nn.Module, batch: Batch) -> tuple[Tensor | None, ...]:
        logits = logits_of(model, batch).float()
        found, probability = most_likely(logits)
        return found, batch["label"], probability, cross_entropies(logits, batch["label"])

    def classes_of(self, recipe: Any) -> Sequence[str]:
        return self.class_names

    def encoder(self, name: str, recipe: Any) -> tuple[Any, Mapping[str, int]]:
        """What makes the token ids of texts for model ``name``, and what each input is padded with.

        The first is called and named as an ``Encoder`` is.
        """
        tokenizer = fitting_tokenizer(name, recipe)
        fill = {"input_ids": tokenizer.pad_token_id, "token_type_ids": 0}
        return Encoder(tokenizer, recipe.max_length), fill

    def unseen(self, name: str, recipe: Any, path: Path, columns: Columns) -> Unseen:
        encode, fill = self.encoder(name, recipe)
        texts = unseen_texts(path, self.known_classes(recipe), self.numbered, columns)
        rows = encoded_split(texts.table.rows, encode, texts.column, ())
        tokens = {key: Ragged.from_column(rows, key) for key in rows.column_names}
        label = torch.from_numpy(texts.labels)
        split = TokenSplit(tokens, fill, {"label": label}, True, texts.names)
        return Unseen(split, texts.labelled, texts.notes)

    def known_classes(self, recipe: Any) -> Sequence[str] | None:
        """The classes that a user's label may be; None where labels are numbers."""
        return self.classes_of(recipe)


def logits_of(model: nn.Module, batch: Batch) -> Tensor:
    """Of an encoder with a head, or of a network that returns them: shape (batch, outputs)."""
    inputs = {key: value for key, value in batch.items() if key not in ("id", "label")}
    output = model(**inputs)
    return cast(Tensor, getattr(output, "logits", output))
