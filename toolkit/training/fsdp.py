"""FSDP2: what of the launch file and the recipe it is made of."""

import os
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType

from toolkit.errors import ConfigError
from toolkit.task import Recipe

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
    fp32, and so are losses.

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
        policy = MixedPrecisionPolicy(dtype, torch.float32, torch.float32)
    return FullyShardedDataParallelPlugin(mixed_precision_policy=policy)


def shard_over_gloo(accelerator: Accelerator, plugin: "FullyShardedDataParallelPlugin") -> None:
    """Have an accelerator of CPU ranks shard, too.

    Accelerate takes up the plugin where there are devices alone: on CPUs it would go on with DDP
    without a word, though torch shards over gloo as well.
    """
    accelerator.state.fsdp_plugin = plugin
    for state in (accelerator.state, PartialState()):
        state.distributed_type = DistributedType.FSDP
