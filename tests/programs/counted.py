"""A task whose samples differ in the number of items in their loss: from none to five."""

import numpy as np
import torch
from torch import nn

from toolkit.recipe import Recipe
from toolkit.task import Splits, Task

SAMPLES, WIDTH, LONGEST = 24, 3, 5


def samples():
    """Inputs (samples, items, width), targets and mask (samples, items)."""
    generator = np.random.default_rng(7)
    inputs = generator.normal(size=(SAMPLES, LONGEST, WIDTH)).astype(np.float32)
    targets = generator.normal(size=(SAMPLES, LONGEST)).astype(np.float32)
    mask = np.arange(LONGEST)[None] < (np.arange(SAMPLES) % (LONGEST + 1))[:, None]
    return torch.from_numpy(inputs), torch.from_numpy(targets), torch.from_numpy(mask)


class Rows:
    def __init__(self):
        self.inputs, self.targets, self.mask = samples()

    def __len__(self):
        return SAMPLES

    def __getitems__(self, ids):
        index = torch.tensor(ids)
        columns = {"inputs": self.inputs, "targets": self.targets, "mask": self.mask}
        return {"id": index, **{name: column[index] for name, column in columns.items()}}


class Counted(Task):
    counts = "varying"
    recipes = {"linear": {"field": Recipe(optimizer="sgd", lr=0.5, weight_decay=0.0, updates=1)}}  # noqa: RUF012

    def model(self, name, recipe):
        linear = nn.Linear(WIDTH, 1)
        nn.init.constant_(linear.weight, 0.5)
        nn.init.zeros_(linear.bias)
        return linear

    def splits(self, name, recipe):
        return Splits(Rows(), Rows(), Rows())

    def items(self, batch):
        return int(batch["mask"].sum())

    def loss(self, model, batch):
        squares = (model(batch["inputs"])[..., 0] - batch["targets"]) ** 2
        return (squares * batch["mask"]).sum(), self.items(batch)

    def predict(self, model, batch):
        return model(batch["inputs"])[:, 0, 0], batch["targets"][:, 0]

    def metrics(self, predictions, labels, split):
        return {"mse": float(np.mean((predictions - labels) ** 2))}


TASK = Counted()
