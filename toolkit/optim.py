"""The optimizer that a recipe names."""

from typing import Any

from torch import nn, optim

from toolkit.task import Recipe


def build_optimizer(model: nn.Module, recipe: Recipe) -> optim.Optimizer:
    """A fused torch optimizer over all trainable parameters, with the recipe's decay groups."""
    groups = parameter_groups(model, recipe)
    shared: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay, "fused": True}
    match recipe.optimizer:
        case "adam":
            return optim.Adam(groups, **shared)
        case "adamw":
            return optim.AdamW(groups, **shared)
        case "sgd":
            return optim.SGD(groups, momentum=recipe.momentum, **shared)


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """One group, or with ``decay = matrices`` a second, without weight decay, for vectors."""
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    if recipe.decay == "all":
        return [{"params": trainable}]
    matrices = [weight for weight in trainable if weight.ndim >= 2]
    vectors = [weight for weight in trainable if weight.ndim < 2]
    groups: list[dict[str, Any]] = [{"params": matrices}]
    return groups + [{"params": vectors, "weight_decay": 0.0}] * bool(vectors)
