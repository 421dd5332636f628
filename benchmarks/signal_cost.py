"""What the estimate of the distance costs an update: with it and without it, in turn.

Two optimizers take turns on one model and batch, in one process and on one thread: forward,
backward, step and, with one of them, the estimate's hook and its sums, which a loop reads at every
update. Their ratio is of CPU seconds, pair by pair, so that it holds on a machine that others use.
It wanders all the same; the hook and the sums by themselves, timed within those updates, less.

usage: python benchmarks/signal_cost.py [--pairs 40] [MODEL ...]
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from toolkit.records.provenance import versions
from toolkit.stats import t_interval
from toolkit.training.distance import DistanceEstimate
from toolkit.vision_compat import repair_torchvision

Loss = Callable[[nn.Module], Tensor]
WARM = 3
"""Pairs before the measurement."""


def resnet18() -> tuple[nn.Module, Loss]:
    """11 million weights; 64 images of CIFAR's size."""
    repair_torchvision()
    import timm

    images, labels = torch.randn(64, 3, 32, 32), torch.randint(10, (64,))
    model = timm.create_model("resnet18", num_classes=10)
    return model, lambda model: F.cross_entropy(model(images), labels)


def minilm() -> tuple[nn.Module, Loss]:
    """All-MiniLM-L6-v2's shape, 23 million weights, random ones; 16 texts of 48 tokens."""
    repair_torchvision()
    from transformers import BertConfig, BertForSequenceClassification

    shape = BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    tokens, labels = torch.randint(shape.vocab_size, (16, 48)), torch.randint(2, (16,))
    model = BertForSequenceClassification(shape)
    return model, lambda model: model(input_ids=tokens, labels=labels).loss


MODELS = {"resnet18": resnet18, "minilm": minilm}


class Side:
    """An optimizer with the estimate, or without it.

    Args:
        model: shared by both sides.
        loss: of the model.
        optimizer: makes it from weights.
        estimated: whether there is an estimate.

    Attributes:
        own: CPU seconds of the estimate in the last update.
    """

    def __init__(
        self, model: nn.Module, loss: Loss, optimizer: Callable[..., Optimizer], estimated: bool
    ) -> None:
        self.model, self.loss, self.optimizer = model, loss, optimizer(model.parameters())
        self.own, self._began = 0.0, 0.0
        self.optimizer.register_step_pre_hook(self._begin)  # hooks are called in order
        self.estimate = DistanceEstimate(self.optimizer) if estimated else None
        self.optimizer.register_step_pre_hook(self._end)
        if self.estimate is not None:
            self.estimate.weight = 1.0

    def _begin(self, *_: Any) -> None:
        self._began = time.process_time()

    def _end(self, *_: Any) -> None:
        self.own = time.process_time() - self._began

    def update(self) -> float:
        """Make one, and return its CPU seconds."""
        began = time.process_time()
        self.optimizer.zero_grad()
        self.loss(self.model).backward()
        self.optimizer.step()
        if self.estimate is not None:
            self._begin()
            self.estimate.sums()
            self.own += time.process_time() - self._began
        return time.process_time() - began


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": lambda weights: torch.optim.SGD(weights, lr=0.001, momentum=0.9, fused=True),
    "adamw": lambda weights: torch.optim.AdamW(weights, lr=0.0001, fused=True),
}


def measure(name: str, optimizer: str, pairs: int) -> str:
    """One row: medians in ms an update, and what the estimate adds."""
    torch.manual_seed(0)
    model, loss = MODELS[name]()
    bare, whole = (Side(model, loss, OPTIMIZERS[optimizer], on) for on in (False, True))
    rows = []
    for pair in range(pairs + WARM):
        order = (bare, whole) if pair % 2 else (whole, bare)
        taken = {side is whole: side.update() for side in order}
        if pair >= WARM:
            rows.append((taken[False], taken[True], whole.own))
    without, with_it, own = np.array(rows).T
    share, ratio = np.median(own / (with_it - own)), np.log(with_it / without)
    low, high = (100 * np.expm1(bound) for bound in t_interval(ratio))
    every = 1 if whole.estimate is None else whole.estimate.every
    return (
        f"| {name} | {optimizer} | {every} | {1000 * np.median(without):.0f} "
        f"| {1000 * np.median(own):.2f} | {100 * share:.2f} % "
        f"| {100 * np.expm1(np.median(ratio)):+.1f} % | {low:+.1f} to {high:+.1f} % |"
    )


def main() -> None:
    """Time every pair of model and optimizer and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(MODELS), metavar="MODEL")
    parser.add_argument("--pairs", type=int, default=40)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {versions()['torch']}, one thread, {arguments.pairs} pairs of updates\n")
    print(
        "| model | optimizer | one in | ms an update | ms estimate | share | ratio | mean, 95 % |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for model in arguments.models:
        for optimizer in OPTIMIZERS:
            print(measure(model, optimizer, arguments.pairs), flush=True)


if __name__ == "__main__":
    main()
