"""Models to be timed on random data: nothing to download. ``benchmarks/workloads.py/MODEL``.

* ``one_parameter``: one weight and 8 numbers a batch: all that is left is the loop's own cost;
* ``resnet18``: 11 million weights, timm's ImageNet stem, 64 images of 32 x 32 pixels;
* ``lstm``: a bidirectional LSTM of 128 units over frozen word vectors, 16 texts of 128 words;
* ``minilm``: All-MiniLM-L6-v2's shape, 23 million random weights, 8 texts of 64 tokens.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit import task
from toolkit.recipe import Recipe
from toolkit.task import Batch, Splits, Task

task.names()  # makes the shipped tasks importable as toolkit_tasks

from toolkit_tasks.lstm import WordLstm  # noqa: E402
from toolkit_tasks.vision import timm_model  # noqa: E402

SAMPLES, REST = 1024, 64
WORDS, DIMENSION, TOKENS = 20_000, 100, 30_522
LENGTHS = {"lstm": (WORDS, 128), "minilm": (TOKENS, 64)}
"""Words that there are, and words of a text."""
BATCHES = {"one_parameter": 8, "resnet18": 64, "lstm": 16, "minilm": 8}


class Made:
    """A split of random samples.

    Args:
        tensors: with a first axis of the samples.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = {**tensors, "id": torch.arange(len(tensors["label"]))}

    def __len__(self) -> int:
        return len(self.tensors["id"])

    def __getitems__(self, ids: list[int]) -> Batch:
        index = torch.as_tensor(ids)
        return {name: tensor[index] for name, tensor in self.tensors.items()}


class OneParameter(nn.Module):
    """A line through the origin."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x


class Encoder(nn.Module):
    """An encoder of transformers, from random weights."""

    def __init__(self) -> None:
        from transformers import BertConfig, BertForSequenceClassification

        super().__init__()
        shape = BertConfig(
            hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
        )
        self.encoder = BertForSequenceClassification(shape)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.encoder(input_ids=tokens).logits
        return logits


class Lstm(WordLstm):
    """The shared LSTM; its texts are all of one length."""

    def __init__(self) -> None:
        vectors = torch.randn(WORDS, DIMENSION, generator=torch.Generator().manual_seed(0))
        super().__init__(
            vectors,
            padding=0,
            frozen=True,
            hidden=128,
            layers=1,
            dropout=0.2,
            pooling="mean_max",
            classes=2,
        )

    def forward(self, tokens: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(tokens, torch.ones_like(tokens))


class Workloads(Task):
    """Each model on random samples of its own kind."""

    recipes: Mapping[str, Mapping[str, Recipe]] = {
        name: {"field": Recipe(lr=1e-3, updates=1000, global_batch=size)}
        for name, size in BATCHES.items()
    }

    def model(self, name: str, recipe: Any) -> nn.Module:
        if name == "resnet18":
            return timm_model("resnet18", 10)
        return {"one_parameter": OneParameter, "lstm": Lstm, "minilm": Encoder}[name]()

    def splits(self, name: str, recipe: Any) -> Splits:
        generator = torch.Generator().manual_seed(0)
        if name == "one_parameter":
            x = torch.randn(SAMPLES, generator=generator)
            tensors = {"x": x, "label": 3 * x + torch.randn(SAMPLES, generator=generator)}
        elif name == "resnet18":
            x = torch.randn(SAMPLES, 3, 32, 32, generator=generator)
            tensors = {"x": x, "label": torch.arange(SAMPLES) % 10}
        else:
            words, length = LENGTHS[name]
            x = torch.randint(1, words, (SAMPLES, length), generator=generator)
            tensors = {"x": x, "label": torch.arange(SAMPLES) % 2}
        rest = Made({name: tensor[:REST] for name, tensor in tensors.items()})
        return Splits(Made(tensors), rest, rest)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, int]:
        outputs, labels = model(batch["x"]), batch["label"]
        measure = F.mse_loss if labels.is_floating_point() else F.cross_entropy
        return measure(outputs, labels, reduction="sum"), len(labels)

    def predict(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        outputs = model(batch["x"])
        return outputs if outputs.ndim == 1 else outputs.argmax(-1), batch["label"]

    def metrics(self, predictions: np.ndarray, labels: np.ndarray, split: Any) -> dict[str, float]:
        return {"accuracy": 100 * float((predictions == labels).mean())}


TASK = Workloads()
