"""FSDP2: what of the launch file and the recipe it is made of."""

import os
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, convert_outputs_to_fp32
from torch import nn

from toolkit.errors import ConfigError
from toolkit.recipe import Recipe

if TYPE_CHECKING:
    from accelerate.utils import FullyShardedDataParallelPlugin

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Precision of a recipe -> that of its passes."""


def under_fsdp() -> bool:
    """Whether the launch file asks for FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def make_plugin(recipe: Recipe) -> "FullyShardedDataParallelPlugin":
    """The plugin of the launch file, for a recipe.

    In half precision the weights are gathered and the passes made in it; gradients are added up in
    fp32. Under autocast, as on other launches, every layer would keep its weights from the forward
    to the backward pass, and nothing were saved.

    Raises:
        ConfigError: if the launch file asks for FSDP 1, or the recipe for what FSDP2 cannot do.
    """
    if os.environ.get("FSDP_VERSION") != "2":
        raise ConfigError(
            "the launch file asks for FSDP 1: write fsdp_version: 2 in its fsdp_config"
        )
    if recipe.compile:
        raise ConfigError(
            "recipe.compile = True does not work under FSDP2: use another launch file"
        )
    from accelerate.utils import FullyShardedDataParallelPlugin
    from torch.distributed.fsdp import MixedPrecisionPolicy

    policy: Any = None
    if dtype := HALF.get(recipe.precision):
        policy = MixedPrecisionPolicy(dtype, torch.float32)
    return FullyShardedDataParallelPlugin(mixed_precision_policy=policy)


def return_fp32(accelerator: Accelerator, model: nn.Module) -> None:
    """Have a sharded model return fp32 in half precision, as Accelerate's other models do.

    FSDP2's own setting would be that of each layer, too, whose next takes half precision.
    """
    if accelerator.is_fsdp2 and accelerator.mixed_precision != "no":
        model.forward = convert_outputs_to_fp32(model.forward)


def shard_over_gloo(accelerator: Accelerator, plugin: "FullyShardedDataParallelPlugin") -> None:
    """Have an accelerator of CPU ranks shard, too.

    Accelerate takes up the plugin where there are devices alone: on CPUs it would go on with DDP
    without a word, though torch shards over gloo as well.
    """
    accelerator.state.fsdp_plugin = plugin
    for state in (accelerator.state, PartialState()):
        state.distributed_type = DistributedType.FSDP
