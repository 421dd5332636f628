"""A task whose runs take seconds, for benchmarks of what goes wrong: four clouds of points.

A small net with dropout, and noise on every training batch, so that a run which goes on with other
random numbers ends with other weights. In two epochs one training sample is NaN, which makes the
schedule ``adaptive`` roll back.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.recipe import Recipe
from toolkit.task import Batch, Splits, Task

CLASSES, WIDTH, HIDDEN = 4, 16, 128
TRAIN, REST = 640, 128
"""Samples of the training split, and of each of the others."""
POISONED, POISONED_EPOCHS = 17, (8, 14)
"""The training sample that is NaN, and when; epochs count from 0."""


@dataclass
class Points:
    """A split: points of shape (samples, WIDTH) and their clouds, shape (samples,)."""

    points: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, ids: list[int]) -> Batch:
        index = torch.tensor(ids)
        return {"id": index, "point": self.points[index], "label": self.labels[index]}


class Clouds(Task):
    """Which of four overlapping clouds a point is of."""

    recipes = {"net": {"field": Recipe(lr=0.01, updates=200)}}  # noqa: RUF012

    def model(self, name: str, recipe: Any) -> nn.Module:
        return nn.Sequential(
            *(nn.Linear(WIDTH, HIDDEN), nn.ReLU(), nn.Dropout(0.2)),
            *(nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES)),
        )

    def splits(self, name: str, recipe: Any) -> Splits:
        generator = torch.Generator().manual_seed(5)
        centres = torch.randn(CLASSES, WIDTH, generator=generator)
        labels = torch.arange(TRAIN + 2 * REST) % CLASSES
        points = centres[labels] + 1.5 * torch.randn(len(labels), WIDTH, generator=generator)
        cuts = (slice(TRAIN), slice(TRAIN, TRAIN + REST), slice(TRAIN + REST, None))
        train, validation, test = (Points(points[cut], labels[cut]) for cut in cuts)
        return Splits(train, validation, test)

    def augment(self, batch: Batch, seed: int, epoch: int) -> Batch:
        points = batch["point"] + 0.1 * torch.randn_like(batch["point"])
        if epoch in POISONED_EPOCHS:
            points[batch["id"] == POISONED] = float("nan")
        return {**batch, "point": points}

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, int]:
        logits = model(batch["point"])
        return F.cross_entropy(logits, batch["label"], reduction="sum"), len(batch["label"])

    def predict(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        return model(batch["point"]).argmax(-1), batch["label"]

    def metrics(self, predictions: np.ndarray, labels: np.ndarray, split: Any) -> dict[str, float]:
        return {"accuracy": 100 * float((predictions == labels).mean())}


TASK = Clouds()
