"""Recipes: the settings of a pair that all its schedules share, and what run ids take of them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal

from toolkit.errors import did_you_mean

INTRODUCED_AT = "introduced_at"
"""Key in the metadata of a dataclass field of a recipe, a schedule or ``RunConfig`` that came after
runs had been stored without it: ``field(default=x, metadata={"introduced_at": x})``. Its value is
the default that the field was introduced with, at which it changes nothing. At that value it is not
in a run id, so earlier ids stay valid, whatever its default is today."""
OPTIMIZERS: Mapping[str, tuple[str, ...]] = {
    "adam": ("betas", "eps"),
    "adamw": ("betas", "eps"),
    "sgd": ("nesterov",),
    "muon": ("betas", "eps"),
    "schedule-free": ("betas", "eps"),
    "prodigy": ("betas", "eps"),
}
"""The optimizers that have a name of their own -> those of a recipe's optional settings that each
takes. Those of muon are of the AdamW in it."""


@dataclass(frozen=True)
class Recipe:
    """The settings of a pair that all its schedules share.

    Raises:
        ValueError: naming the field, for a value that cannot be trained with.
    """

    optimizer: str = "adamw"
    """adam, adamw, sgd, muon, schedule-free, prodigy, or any other as module:Class. adam couples
    weight decay with the gradient, adamw does not; sgd has momentum; muon is torch's for matrices,
    and AdamW for all else. schedule-free (AdamWScheduleFree, with schedule:constant) and prodigy
    need the extra rivals. adaptive takes one that it does not know for one that normalises each
    coordinate, as Adam's family does."""
    lr: float = 1e-3
    """The base LR: what a schedule's factor multiplies. prodigy multiplies it by an estimate of its
    own; its authors leave it at 1."""
    weight_decay: float = 1e-4
    """How strongly weights are drawn to 0, in the way of the optimizer."""
    momentum: float = 0.9
    """Momentum of sgd; the others have their own."""
    decay: Literal["all", "matrices"] = "all"
    """Which parameters decay: all, or only those with two or more axes (no bias, no norm)."""
    epochs: float | None = None
    """The budget in passes over the training split; give this or updates."""
    updates: int | None = None
    """The budget in optimizer updates; give this or epochs."""
    global_batch: int = 64
    """Examples per update, over all ranks and micro-batches."""
    micro_batch: int | None = None
    """Examples per forward pass on one rank; by default global_batch / ranks."""
    eval_batch: int = 256
    """Examples per forward pass in evaluation, on one rank."""
    clip: float | None = None
    """Largest L2 norm of the gradient; no clipping by default."""
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16", "fp64"] = "fp32"
    """bf16 is autocast; fp16, too, with a gradient scaler, on GPUs alone; auto is bf16 where the
    hardware has it; tf32 is fp32 whose matrix products round their factors to 10 bits, on GPUs that
    know it; fp64 is for exactness tests."""
    init: Literal["random", "pretrained"] = "random"
    """Where the first weights come from."""
    metric: str | None = field(default=None, metadata={INTRODUCED_AT: None})
    """The headline metric, of those that the task declares; by default its first."""
    betas: tuple[float, float] | None = field(default=None, metadata={INTRODUCED_AT: None})
    """Decay rates of the moments of the gradient, of optimizers that have them; by default the
    optimizer's own."""
    eps: float | None = field(default=None, metadata={INTRODUCED_AT: None})
    """What the optimizer adds to its denominator; by default the optimizer's own."""
    nesterov: bool = field(default=False, metadata={INTRODUCED_AT: False})
    """Nesterov's momentum, of sgd and of optimizers that have the setting; muon has it always."""
    compile: bool = field(default=False, metadata={INTRODUCED_AT: False})
    """torch.compile for the model's passes: faster after a minute or so, other rounding. The LR is
    no part of what is compiled."""
    ema_decay: float | None = field(default=None, metadata={INTRODUCED_AT: None})
    """Evaluate, and keep, an exponential moving average of the weights over the updates with this
    decay, e.g. 0.999; by default, and at 0, the weights themselves."""

    def __post_init__(self) -> None:
        for item in fields(self):  # 20 epochs are 20.0: the same run, the same id
            value = getattr(self, item.name)
            if type(value) is int and item.type in (float, float | None):
                object.__setattr__(self, item.name, float(value))
        self._positive(
            "lr", "global_batch", "micro_batch", "eval_batch", "epochs", "updates", "clip"
        )
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"recipe.{item.name} = {value:g}: it must be a finite number")
        self._below_one("momentum", "ema_decay")
        if self.ema_decay == 0:
            object.__setattr__(self, "ema_decay", None)  # the same run
        if self.weight_decay < 0:
            raise ValueError(f"recipe.weight_decay = {self.weight_decay}: it must be 0 or above")
        self._check_optimizer()
        if self.epochs is not None and self.updates is not None:
            raise ValueError(
                f"recipe.epochs = {self.epochs:g} and recipe.updates = {self.updates} contradict: "
                "give one of them"
            )
        if self.epochs is None and self.updates is None:
            raise ValueError("the recipe has no budget: give recipe.epochs or recipe.updates")

    def _check_optimizer(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            module, colon, name = self.optimizer.partition(":")
            if not (colon and all(map(str.isidentifier, [*module.split("."), name]))):
                hint = did_you_mean(self.optimizer, OPTIMIZERS)
                raise ValueError(
                    f"recipe.optimizer = {self.optimizer}: {hint}it must be one of "
                    f"{', '.join(OPTIMIZERS)}, or module:Class, such as torch.optim:RMSprop"
                )
        if self.betas is not None:
            object.__setattr__(self, "betas", tuple(self.betas))  # JSON has lists
            if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
                raise ValueError(
                    f"recipe.betas = {self.betas}: they must be two numbers, at least 0, below 1"
                )
        if self.eps is not None and self.eps < 0:
            raise ValueError(f"recipe.eps = {self.eps:g}: it must be 0 or above")
        taken = OPTIMIZERS.get(self.optimizer, ("betas", "eps", "nesterov"))
        for name in ("betas", "eps", "nesterov"):
            if getattr(self, name) not in (None, False) and name not in taken:
                raise ValueError(
                    f"recipe.{name} = {getattr(self, name)}: {self.optimizer} has no such setting"
                )
        if self.nesterov and self.optimizer == "sgd" and self.momentum == 0:
            raise ValueError("recipe.nesterov = True: it takes recipe.momentum above 0")

    def _positive(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"recipe.{name} = {value:g}: it must be a number above 0")

    def _below_one(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"recipe.{name} = {value:g}: it must be at least 0, below 1")


NAMES_DATA = "names_data"
"""Key in the metadata of a field of a recipe that says where data lie: ``field(default="x",
metadata={"names_data": True})``. In a run id the fingerprint of the data stands for it."""


def data_fields(recipe: Recipe) -> tuple[str, ...]:
    """The fields of a recipe that say where data lie."""
    return tuple(item.name for item in fields(recipe) if item.metadata.get(NAMES_DATA))
