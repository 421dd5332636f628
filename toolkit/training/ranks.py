"""The ranks of a run: their shares of the global batch, and the accelerator they meet in.

A rank is one process with one device and a copy of the model, or a part of it under DeepSpeed. An
update has ``global_batch`` samples: each rank passes its share through the model, in micro-batches,
and the gradients are averaged over micro-batches and ranks. So one configuration is one experiment
on any number of ranks.

DeepSpeed has settings of its own for what the recipe decides. Here they are filled in, and read
back from the engine that was made, for it would otherwise override some without a word.
"""

import inspect
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DataLoaderConfiguration,
    DistributedType,
    GradientAccumulationPlugin,
    broadcast_object_list,
    gather_object,
)
from torch import Tensor, nn

from toolkit.config import RANK_TIMEOUT, RunConfig
from toolkit.errors import ConfigError, RunError, error_text, outcome
from toolkit.extras import check_installed
from toolkit.launch_files import find_deepspeed_file
from toolkit.process import is_rank_zero
from toolkit.recipe import Recipe
from toolkit.task import Batch
from toolkit.training import manifest
from toolkit.training.fsdp import make_plugin, shard_over_gloo, under_fsdp
from toolkit.words import counted

if TYPE_CHECKING:
    from accelerate.utils import DeepSpeedPlugin

    from toolkit.training.run import Run

Value = TypeVar("Value")
LEAST_PATIENCE = 1800.0
"""Seconds that a collective waits at least, for data may be prepared by one rank meanwhile."""


class BatchSplit(NamedTuple):
    """How the global batch of an update is divided.

    Attributes:
        ranks: processes; each has an equal share.
        micro_batch: samples of one forward and backward pass on a rank.
        accumulation: micro-batches of a rank whose gradients make up one update.
    """

    ranks: int
    micro_batch: int
    accumulation: int


def split_global_batch(global_batch: int, micro_batch: int | None, ranks: int) -> BatchSplit:
    """Divide a global batch into equal shares of the ranks, and those into micro-batches.

    Args:
        global_batch: samples per update, over all ranks.
        micro_batch: most samples per forward pass; None for a rank's whole share at once.
        ranks: processes.

    Raises:
        ConfigError: if it does not divide without a rest, naming a micro-batch that does.
    """
    if global_batch % ranks:
        raise ConfigError(
            f"recipe.global_batch = {global_batch} does not divide over {counted(ranks, 'rank')}"
        )
    share = global_batch // ranks
    micro_batch = min(micro_batch or share, share)
    if share % micro_batch:
        near = max(size for size in range(1, micro_batch) if share % size == 0)
        raise ConfigError(
            f"recipe.micro_batch = {micro_batch} does not divide a rank's share of the global "
            f"batch: {global_batch} / {ranks} ranks = {share}; {near} does"
        )
    return BatchSplit(ranks, micro_batch, share // micro_batch)


def meet_ranks(rank_timeout: float = RANK_TIMEOUT) -> None:
    """Bring the ranks together, for what they must agree on before there is a run.

    A collective: all ranks call it, or none; ``make_accelerator`` does if nobody has.

    Args:
        rank_timeout: of the run (see ``watch``). Collectives wait three times as long, so that the
            watch, which knows what is wrong, comes first; before it has begun that is all there is.

    Raises:
        ConfigError: if there are more ranks than devices, or DeepSpeed is asked for and missing.
    """
    no_device = not torch.cuda.is_available()
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if not no_device and here > torch.cuda.device_count():
        raise ConfigError(
            f"{here} processes for {counted(torch.cuda.device_count(), 'GPU')}: give "
            f"accelerate launch --num_processes {torch.cuda.device_count()}"
        )
    if _under_deepspeed():
        _prepare_deepspeed()
    # cpu=True would turn DeepSpeed off without a word; there gloo has to be asked for.
    gloo = {"backend": "gloo"} if no_device and _under_deepspeed() else {}
    patience = timedelta(seconds=max(3 * rank_timeout, LEAST_PATIENCE))
    PartialState(cpu=no_device and not _under_deepspeed(), timeout=patience, **gloo)


def from_rank_zero(value: Any) -> Any:
    """What rank 0 passes, on every rank. A collective, after ``meet_ranks``: all ranks call it."""
    shared = [value]
    broadcast_object_list(shared)
    return shared[0]


def together(step: Callable[[], Value]) -> Value:
    """What a step returns on this rank; an error of one rank is one of all of them.

    A collective: all ranks call it, or those without the error would wait for the others.

    Raises:
        ConfigError: if the step raised one, here or on another rank.
        RunError: for any other error.
    """
    value, error = outcome(step)
    if PartialState().num_processes > 1:
        kind = ConfigError if isinstance(error, ConfigError) else RunError
        told = gather_object([None if error is None else (kind, error_text(error), str(error))])
        first = next(((rank, *one) for rank, one in enumerate(told) if one is not None), None)
        if error is None and first is not None:
            rank, kind, text, plain = first
            raise kind(plain if kind is ConfigError else f"rank {rank} failed: {text}")
    if error is not None:
        raise error
    return cast(Value, value)


def one_first(accelerator: Accelerator, step: Callable[[], Value]) -> Value:
    """As ``together``, on one rank of each machine before the others, which find its files.

    A collective: all ranks call it.
    """
    first = accelerator.is_local_main_process
    value = together(lambda: step() if first else None)
    later = together(lambda: None if first else step())
    return cast(Value, value if first else later)


def agreed(decide: Callable[[], Value]) -> Value:
    """What rank 0 decides, on every rank. A collective, after ``meet_ranks``: all ranks call it.

    Args:
        decide: called on rank 0 alone; it may wait, but no longer than a collective may.

    Raises:
        ConfigError: on every rank, if ``decide`` does.
        RunError: likewise.
    """
    if not is_rank_zero():
        error, value = from_rank_zero((None, None))
    else:
        try:
            error, value = None, decide()
        except (ConfigError, RunError) as refused:
            error, value = refused, None
        from_rank_zero((error, value))
    if error is not None:
        raise error
    return cast("Value", value)


def check_same_run(run_id: str, data: str | None) -> None:
    """All ranks must be about to train the same run, on the same data. A collective.

    Args:
        run_id: of this rank.
        data: fingerprint of this rank's data.

    Raises:
        RunError: on every rank, naming their runs, if they are not.
    """
    found = gather_object([(run_id, data)])
    if len(set(found)) > 1:
        ranks = "; ".join(f"rank {rank}: {one} (data {of})" for rank, (one, of) in enumerate(found))
        raise RunError(f"the ranks are about to train different runs: {ranks}")


def make_accelerator(recipe: Recipe, batch_split: BatchSplit) -> Accelerator:
    """The accelerator of a run, plain, with FSDP2 or with DeepSpeed, as the launch config says.

    Raises:
        ConfigError: if Accelerate sees another world size than the launcher, or the launch config
            contradicts the recipe.
    """
    _check_shared_out(recipe)
    plugin = _deepspeed(recipe, batch_split) if _under_deepspeed() else None
    sharded = make_plugin(recipe) if under_fsdp() else None
    _look_up_once()
    meet_ranks()
    AcceleratorState._reset_state()  # of a run that was refused: this may have another precision
    # A setting of the process, which an earlier run in it may have made.
    torch.set_float32_matmul_precision("high" if recipe.precision == "tf32" else "highest")
    accelerator = Accelerator(
        mixed_precision=recipe.precision if recipe.precision in ("bf16", "fp16") else "no",
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=batch_split.accumulation, sync_with_dataloader=False
        ),
        dataloader_config=DataLoaderConfiguration(non_blocking=torch.cuda.is_available()),
        deepspeed_plugin=plugin,
        fsdp_plugin=sharded,
        cpu=not torch.cuda.is_available() and plugin is None,
    )
    if sharded is not None and accelerator.device.type == "cpu":
        shard_over_gloo(accelerator, sharded)
    accelerator.sync_gradients = True  # a run before it may have ended in the midst of an update
    if accelerator.num_processes != batch_split.ranks:
        raise ConfigError(
            f"the launcher started {batch_split.ranks} processes, but Accelerate sees "
            f"{accelerator.num_processes}: check distributed_type and use_cpu in the launch config"
        )
    return accelerator


def launch_of(accelerator: Accelerator) -> str:
    """The kind of launch, as a manifest and a result state it; see ``Manifest.launch``."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return f"{manifest.ZERO}{accelerator.state.deepspeed_plugin.zero_stage}"
    return manifest.FSDP if accelerator.distributed_type == DistributedType.FSDP else manifest.DDP


def check_whole_weights(accelerator: Accelerator, config: RunConfig) -> None:
    """Refuse what takes all weights on each rank under a launcher that shares them out.

    Raises:
        ConfigError: naming the setting.
    """
    launch, decay = launch_of(accelerator), config.recipe.ema_decay
    asked = {f"recipe.ema_decay = {decay}": decay, "keep_best = True": config.keep_best}
    for setting, value in asked.items():
        if launch != manifest.DDP and value:
            raise ConfigError(
                f"{setting}: that takes all weights on each rank, and under "
                f"{manifest.name_of(launch)} it has a part of them; use a launch config of DDP"
            )


def check_engine(model: nn.Module, recipe: Recipe, batch_split: BatchSplit) -> None:
    """Read back what DeepSpeed really does with a prepared model; nothing to check without it.

    Raises:
        ConfigError: if it is not what the recipe asks for.
    """
    if not hasattr(model, "zero_optimization_stage"):
        return
    engine: Any = model
    used = {
        "gradient_accumulation_steps": engine.gradient_accumulation_steps(),
        "gradient_clipping": engine.gradient_clipping(),
        "train_micro_batch_size_per_gpu": engine.train_micro_batch_size_per_gpu(),
        "train_batch_size": engine.train_batch_size(),
        "bf16.enabled": engine.bfloat16_enabled(),
        "fp16.enabled": engine.fp16_enabled(),
    }
    for key, wanted in _stated(recipe, batch_split).items():
        if used[key] != wanted:
            raise ConfigError(f"DeepSpeed uses {key} = {used[key]}, the recipe asks for {wanted}")


def mean_items(run: "Run", window: "Sequence[Batch]") -> Tensor | None:
    """Items in the loss per micro-batch of an update, the mean over all ranks and micro-batches.

    Gradients are averaged over micro-batches and ranks; of summed losses divided by this number,
    that average is the gradient of the mean loss over all items of the update. Where every
    micro-batch has as many items, dividing by its own number is the same, and needs no collective.

    A collective where it is not None: all ranks call it.

    Args:
        run: the run.
        window: this rank's micro-batches of the update.

    Returns:
        A scalar on the device, at least 1 item in the whole update; None where the task says that
        all micro-batches have the same number.
    """
    if run.task.counts != "varying":
        return None
    items = sum(run.task.items(batch) for batch in window)
    local = torch.tensor(float(items), device=run.accelerator.device)
    total: Tensor = run.accelerator.reduce(local, "sum")
    return total.clamp(min=1) / (run.batch_split.ranks * run.batch_split.accumulation)


def check_same_rates(run: "Run") -> None:
    """All ranks must be about to use the same learning rates. A collective: all ranks call it.

    They do by construction, as long as a schedule depends on nothing but its readings; a user's own
    might.

    Raises:
        RunError: on every rank, if they do not.
    """
    accelerator = run.accelerator
    if accelerator.num_processes == 1:
        return
    rates = torch.tensor(run.lr.used, dtype=torch.float64, device=accelerator.device)
    gathered = accelerator.gather(rates).view(accelerator.num_processes, -1)
    if not (gathered == gathered[0]).all():
        raise RunError(
            f"the ranks disagree on the learning rate after update {run.update}: "
            f"{gathered[:, 0].tolist()}"
        )


def _stated(recipe: Recipe, batch_split: BatchSplit) -> dict[str, Any]:
    """What the recipe decides and DeepSpeed carries out, by DeepSpeed's names."""
    return {
        "gradient_accumulation_steps": batch_split.accumulation,
        "gradient_clipping": recipe.clip or 0.0,  # 0 is off; left out, DeepSpeed clips at 1
        "train_micro_batch_size_per_gpu": batch_split.micro_batch,
        "train_batch_size": recipe.global_batch,
        "bf16.enabled": recipe.precision == "bf16",
        "fp16.enabled": False,
    }


def _check_shared_out(recipe: Recipe) -> None:
    """Refuse an optimizer that needs whole weights where the ranks share them out.

    Prodigy would estimate another step size on each, schedule-free average weights that the model
    does not use, and muon finds no matrix.
    """
    engine = "DeepSpeed" if _under_deepspeed() else "FSDP2" if under_fsdp() else ""
    if engine and recipe.optimizer in ("schedule-free", "prodigy", "muon"):
        raise ConfigError(
            f"recipe.optimizer = {recipe.optimizer} does not work under {engine}, whose ranks "
            "share out the weights: use another launch config"
        )


def _deepspeed(recipe: Recipe, batch_split: BatchSplit) -> "DeepSpeedPlugin":
    """The plugin of the launch config, with the recipe's settings in the places left ``auto``."""
    if recipe.precision in ("fp16", "fp64"):
        where = f"recipe.precision = {recipe.precision}"
        raise ConfigError(f"{where}: DeepSpeed trains in fp32 or bf16")
    _prepare_deepspeed()
    from accelerate.utils import DeepSpeedPlugin

    plugin = DeepSpeedPlugin()
    for key, value in _stated(recipe, batch_split).items():
        *path, name = key.split(".")
        node = plugin.deepspeed_config
        for part in path:
            node = node.setdefault(part, {})
        if node.get(name, "auto") not in ("auto", value):
            raise ConfigError(
                f"the DeepSpeed configuration says {key} = {node[name]}, the recipe {value}: "
                f'write "{name}": "auto" there'
            )
        node[name] = value
    return plugin


def _look_up_once() -> None:
    """Have Accelerate find out once what its optimizers look up at each update, and load less.

    They search the whole import path twice at each step for the package of LOMO, another optimizer,
    and take apart the signature of ``zero_grad`` at each call of it: together longer than the step
    of a fused optimizer on a small model. Unwrapping a model imports DeepSpeed to see whether it is
    that's, which takes 0.7 s: no model is before DeepSpeed was imported.
    """
    from accelerate import optimizer
    from accelerate.utils import other

    other.is_deepspeed_available = lambda: "deepspeed" in sys.modules
    if not hasattr(optimizer.is_lomo_available, "cache_info"):  # not of an earlier run
        optimizer.is_lomo_available = cache(optimizer.is_lomo_available)
        optimizer.inspect = SimpleNamespace(signature=_signature)


@cache
def _signature_of(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function)


def _signature(method: Callable[..., Any]) -> inspect.Signature:
    """The signature of the function behind a method: what is kept refers to no optimizer."""
    return _signature_of(getattr(method, "__func__", method))


def _under_deepspeed() -> bool:
    return os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"


def _prepare_deepspeed() -> None:
    """What must be set before DeepSpeed brings the ranks together."""
    find_deepspeed_file()
    check_installed("deepspeed", "the launch config asks for DeepSpeed, which")
    import deepspeed.ops

    # An extension that DeepSpeed would compile at every first start, for CPU ranks alone; without
    # it they meet over gloo.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # It calls torch's collectives by their old names, and torch says so at every call.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.", FutureWarning)
