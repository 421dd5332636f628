"""What the estimate of the distance costs an update: with it and without it, in turn.

Both update the same model on the same batch, in one process and on one thread: forward, backward,
the optimizer's step and, on one side, the estimate's hook and its sums, which a loop reads at every
update. The ratio is of CPU seconds, pair by pair, so that it holds on a machine that others use.

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

from toolkit.records.provenance import versions
from toolkit.stats import t_interval
from toolkit.training.distance import DistanceEstimate
from toolkit.vision_compat import repair_torchvision


def resnet18() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    """11 million weights; 64 images of CIFAR's size."""
    repair_torchvision()
    import timm

    images, labels = torch.randn(64, 3, 32, 32), torch.randint(10, (64,))
    model = timm.create_model("resnet18", num_classes=10)
    return model, lambda model: F.cross_entropy(model(images), labels)


def minilm() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
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


class Loop:
    """Updates of a model, with the estimate or without it.

    Args:
        name: of ``MODELS``.
        optimizer: a class of torch's, and its options.
        estimated: whether there is an estimate.
    """

    def __init__(self, name: str, optimizer: Callable[..., Any], estimated: bool) -> None:
        torch.manual_seed(0)
        self.model, self.loss = MODELS[name]()
        self.optimizer = optimizer(self.model.parameters())
        self.estimate = DistanceEstimate(self.optimizer) if estimated else None
        if self.estimate is not None:
            self.estimate.weight = 1.0

    def update(self) -> float:
        """Make one, and return its CPU seconds."""
        began = time.process_time()
        self.optimizer.zero_grad()
        self.loss(self.model).backward()
        self.optimizer.step()
        if self.estimate is not None:
            self.estimate.sums()
        return time.process_time() - began


OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "sgd": lambda weights: torch.optim.SGD(weights, lr=0.001, momentum=0.9, fused=True),
    "adamw": lambda weights: torch.optim.AdamW(weights, lr=0.0001, fused=True),
}


def measure(model: str, optimizer: str, pairs: int) -> str:
    """One row: medians in ms an update, and what the estimate adds, with its 95 % interval."""
    loops = {on: Loop(model, OPTIMIZERS[optimizer], on) for on in (False, True)}
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for pair in range(pairs + 3):
        for on in (False, True) if pair % 2 else (True, False):
            taken = loops[on].update()
            if pair >= 3:  # the first ones warm up
                seconds[on].append(taken)
    ratios = np.log(np.array(seconds[True]) / np.array(seconds[False]))
    bare, whole = (float(np.median(seconds[on])) * 1000 for on in (False, True))
    low, high = (100 * np.expm1(bound) for bound in t_interval(ratios))
    assert loops[True].estimate is not None
    return (
        f"| {model} | {optimizer} | {loops[True].estimate.every} | {bare:.1f} | {whole:.1f} "
        f"| {100 * np.expm1(np.median(ratios)):.1f} % | {low:.1f} to {high:.1f} % |"
    )


def main() -> None:
    """Time every pair of model and optimizer and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(MODELS), metavar="MODEL")
    parser.add_argument("--pairs", type=int, default=40)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {versions()['torch']}, one thread, {arguments.pairs} pairs of updates\n")
    print("| model | optimizer | one in | ms without | ms with | added: median | mean, 95 % |")
    print("|---|---|---|---|---|---|---|")
    for model in arguments.models:
        for optimizer in OPTIMIZERS:
            print(measure(model, optimizer, arguments.pairs), flush=True)


if __name__ == "__main__":
    main()
