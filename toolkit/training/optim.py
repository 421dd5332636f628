"""The optimizer that a recipe names, and its parameter groups."""

import importlib
import inspect
import io
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

from torch import nn, optim

from toolkit.errors import ConfigError, error_text
from toolkit.extras import OPTIMIZERS, check_installed
from toolkit.recipe import Recipe
from toolkit.training.averaged import AveragedWeights

MUON = "muon"
"""Key of a parameter group that says which of the two optimizers of ``Muon`` it is of."""


class Muon(optim.Optimizer):
    """torch's Muon for the matrices of the hidden layers, AdamW for all other parameters.

    As Muon's author has it (Jordan 2024), embeddings, the output layer, convolutions and vectors
    are AdamW's. Muon's update is scaled to the size of AdamW's, 0.2 sqrt(max(rows, columns)) (Liu
    et al. 2025, arXiv 2502.16982), so that one LR and one weight decay serve both.

    Args:
        groups: parameter groups; ``muon`` says whether it is one of Muon's.
        lr, weight_decay: of both.
        settings: ``betas`` and ``eps`` of the AdamW.
    """

    def __init__(
        self, groups: list[dict[str, Any]], lr: float, weight_decay: float, **settings: Any
    ) -> None:
        shared = {"lr": lr, "weight_decay": weight_decay}
        kinds: dict[bool, Callable[[Any], optim.Optimizer]] = {
            True: lambda those: optim.Muon(those, adjust_lr_fn="match_rms_adamw", **shared),
            False: lambda those: optim.AdamW(those, fused=True, **settings, **shared),
        }
        self._parts: dict[bool, optim.Optimizer] = {}
        filled = []
        for is_muon, make in kinds.items():
            if those := [group for group in groups if group[MUON] == is_muon]:
                self._parts[is_muon] = make(those)
                filled += self._parts[is_muon].param_groups
        super().__init__(filled, shared)

    def step(self, closure: Any = None) -> Any:
        """Make an update with each of the two, over the groups and the state of this one."""
        loss = None if closure is None else closure()
        for is_muon, part in self._parts.items():
            # Whoever loads a state puts other groups and another state in the place of these.
            part.param_groups = [group for group in self.param_groups if group[MUON] == is_muon]
            part.state = self.state
            part.step()
        return loss


def build_optimizer(model: nn.Module, recipe: Recipe) -> optim.Optimizer:
    """The optimizer over all trainable parameters, with the recipe's decay groups.

    torch's are fused: one kernel updates all weights. The others have their authors' defaults. Each
    group's ``lr`` is the recipe's base LR, which the schedule's factor multiplies later. With
    ``ema_decay`` it has ``eval`` and ``train``, which swap the average of the weights in and out.

    Raises:
        ConfigError: if its package is not installed, or it does not take the recipe's settings.
    """
    optimizer = _plain_optimizer(model, recipe)
    if recipe.ema_decay is not None:
        if evaluates_other_weights(optimizer):
            raise ConfigError(
                f"recipe.ema_decay = {recipe.ema_decay:g}: {recipe.optimizer} evaluates other "
                "weights than it trains already"
            )
        averaged = AveragedWeights(optimizer, recipe.ema_decay)
        for name in ("eval", "train"):  # as schedule-free's optimizers have them
            setattr(optimizer, name, getattr(averaged, name))
    return optimizer


def _plain_optimizer(model: nn.Module, recipe: Recipe) -> optim.Optimizer:
    groups = parameter_groups(model, recipe)
    shared: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
    given = {name: getattr(recipe, name) for name in ("betas", "eps", "nesterov")}
    shared |= {name: value for name, value in given.items() if value not in (None, False)}
    match recipe.optimizer:
        case "adam":
            return optim.Adam(groups, fused=True, **shared)
        case "adamw":
            return optim.AdamW(groups, fused=True, **shared)
        case "sgd":
            return optim.SGD(groups, momentum=recipe.momentum, fused=True, **shared)
        case "muon":
            return Muon(_muon_groups(model, groups), **shared)
        case "schedule-free":
            return _rival("AdamWScheduleFree", recipe)(groups, **shared)
        case "prodigy":
            with redirect_stdout(io.StringIO()):  # each rank would print that weights decay
                return _rival("Prodigy", recipe)(groups, **shared)
        case _:
            return _other(groups, recipe, shared)


def evaluates_other_weights(optimizer: optim.Optimizer) -> bool:
    """Whether the weights to be evaluated are others than those in training.

    Such an optimizer (schedule-free, or any with ``ema_decay``: they evaluate an average over the
    updates) swaps them in with ``eval()`` and out with ``train()``; torch's have neither.

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


def _muon_groups(model: nn.Module, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The groups, each split into what Muon takes and what it leaves to AdamW."""
    left = {id(layer.weight) for layer in model.modules() if isinstance(layer, nn.Embedding)}
    for asked in ("get_output_embeddings", "get_classifier"):  # transformers', and timm's
        layer = getattr(model, asked, lambda: None)()
        left |= {id(weight) for weight in layer.parameters()} if layer is not None else set()
    found = []
    for group in groups:
        for is_muon in (True, False):
            chosen = [
                weight
                for weight in group["params"]
                if (weight.ndim == 2 and id(weight) not in left) == is_muon
            ]
            if chosen:
                found.append({**group, "params": chosen, MUON: is_muon})
    return found


def _other(
    groups: list[dict[str, Any]], recipe: Recipe, settings: dict[str, Any]
) -> optim.Optimizer:
    """The optimizer of any package, ``module:Class``, with the defaults of its authors."""
    module, _, name = recipe.optimizer.partition(":")
    where = f"recipe.optimizer = {recipe.optimizer}"
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{where} cannot be imported: {error_text(error)}") from error
    if not (isinstance(kind, type) and issubclass(kind, optim.Optimizer)):
        raise ConfigError(f"{where} is no class of torch optimizers")
    taken = inspect.signature(kind).parameters
    unknown = [one for one in settings if one not in taken and one != "weight_decay"]
    if unknown:
        raise ConfigError(f"{where} has no setting {unknown[0]}")
    if "weight_decay" not in taken:
        if recipe.weight_decay:
            raise ConfigError(f"{where} has no weight decay: say recipe.weight_decay = 0")
        settings = {name: value for name, value in settings.items() if name != "weight_decay"}
        groups = [{"params": group["params"]} for group in groups]
    try:
        optimizer: optim.Optimizer = kind(groups, **settings)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error_text(error)}") from error
    return optimizer


def _rival(name: str, recipe: Recipe) -> Any:
    package = OPTIMIZERS[recipe.optimizer]
    check_installed(package, f"recipe.optimizer = {recipe.optimizer}")
    return getattr(importlib.import_module(package), name)
