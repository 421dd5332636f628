"""The ranks of a run: their shares of the global batch, and the accelerator they meet in."""

import os

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import GradientAccumulationPlugin

from toolkit.errors import ConfigError
from toolkit.task import Recipe


def cut(global_batch: int, micro_batch: int | None, ranks: int) -> tuple[int, int]:
    """The micro-batch and the number of them that make up a rank's share of an update.

    Raises:
        ConfigError: if the global batch does not divide that way.
    """
    if global_batch % ranks:
        raise ConfigError(
            f"recipe.global_batch = {global_batch} does not divide over {ranks} ranks"
        )
    share = global_batch // ranks
    micro_batch = micro_batch or share
    if share % micro_batch:
        raise ConfigError(
            f"recipe.micro_batch = {micro_batch} does not divide a rank's share of the global "
            f"batch: {global_batch} / {ranks} ranks = {share}"
        )
    return micro_batch, share // micro_batch


def make_accelerator(recipe: Recipe, accumulation: int, ranks: int, wandb: bool) -> Accelerator:
    """The accelerator for ``ranks`` processes that each accumulate so many micro-batches.

    Raises:
        ConfigError: if Accelerate sees another world size than the launcher.
    """
    deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
    no_device = not torch.cuda.is_available()
    accelerator = Accelerator(
        mixed_precision="bf16" if recipe.precision == "bf16" else "no",
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=accumulation, sync_with_dataloader=False
        ),
        # cpu=True would turn DeepSpeed off without a word; there gloo has to be asked for.
        cpu=no_device and not deepspeed,
        kwargs_handlers=[InitProcessGroupKwargs(backend="gloo")] if no_device and deepspeed else [],
        log_with="wandb" if wandb else None,
    )
    if accelerator.num_processes != ranks:
        raise ConfigError(
            f"the launcher started {ranks} processes, but Accelerate sees "
            f"{accelerator.num_processes}: check distributed_type and use_cpu in the launch config"
        )
    return accelerator
