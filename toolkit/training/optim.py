"""The optimizer that a recipe names, and its parameter groups."""

import importlib
import io
from contextlib import redirect_stdout
from typing import Any

from torch import nn, optim

from toolkit.errors import ConfigError
from toolkit.task import Recipe


def build_optimizer(model: nn.Module, recipe: Recipe) -> optim.Optimizer:
    """The optimizer over all trainable parameters, with the recipe's decay groups.

    torch's are fused: one kernel updates all weights. The others have their authors' defaults. Each
    group's ``lr`` is the recipe's base LR, which the schedule's factor multiplies later.

    Raises:
        ConfigError: if its package is not installed.
    """
    groups = parameter_groups(model, recipe)
    shared: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
    match recipe.optimizer:
        case "adam":
            return optim.Adam(groups, fused=True, **shared)
        case "adamw":
            return optim.AdamW(groups, fused=True, **shared)
        case "sgd":
            return optim.SGD(groups, momentum=recipe.momentum, fused=True, **shared)
        case "schedule-free":
            return _rival("schedulefree", "AdamWScheduleFree", recipe)(groups, **shared)
        case "prodigy":
            with redirect_stdout(io.StringIO()):  # each rank would print that weights decay
                return _rival("prodigyopt", "Prodigy", recipe)(groups, **shared)


def evaluates_other_weights(optimizer: optim.Optimizer) -> bool:
    """Whether the weights to be evaluated are others than those in training.

    Such an optimizer (schedule-free, which evaluates an average over the updates) swaps them in
    with ``eval()`` and out with ``train()``; torch's have neither.

    Args:
        optimizer: as it was built; Accelerate gives all that it prepares the two methods.
    """
    return hasattr(optimizer, "eval")


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """One group, or with ``decay = matrices`` a second, without weight decay, for vectors.

    Vectors, that is parameters of one axis or none, are biases and the scales of norms. A model
    without any has one group: under ZeRO an empty one would disappear, and with it its LR.
    """
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    if recipe.decay == "all":
        return [{"params": trainable}]
    matrices = [weight for weight in trainable if weight.ndim >= 2]
    vectors = [weight for weight in trainable if weight.ndim < 2]
    groups: list[dict[str, Any]] = [{"params": matrices}]
    return groups + [{"params": vectors, "weight_decay": 0.0}] * bool(vectors)


def _rival(package: str, name: str, recipe: Recipe) -> Any:
    try:
        return getattr(importlib.import_module(package), name)
    except ImportError as error:
        raise ConfigError(
            f"recipe.optimizer = {recipe.optimizer} needs the package {package}: "
            "pip install 'adaptive-lr-toolkit[rivals]'"
        ) from error
