"""Build a ``Run`` that is ready to fit: task, data, model, optimizer and schedule, on all ranks.

The order matters: the model's weights are drawn under the run's seed before any rank has a seed of
its own, and the schedule is given the optimizer that Accelerate has prepared, for that may be
another.
"""

import hashlib
import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from toolkit import userfile
from toolkit.config import RUNS, RunConfig, parent_of, resolve, run_folder
from toolkit.errors import ConfigError
from toolkit.identity import check_data, check_task_file, with_fingerprint
from toolkit.process import keep_memory, set_threads, world_size
from toolkit.recipe import Recipe
from toolkit.records.mirror_handle import check_trackers
from toolkit.records.provenance import code
from toolkit.task import Batch, Splits, Target, Task, load, parse_target, scales_of
from toolkit.training.batches import BatchPlan, derive_seed, evaluation_loader
from toolkit.training.extension import last_held
from toolkit.training.fsdp import return_fp32
from toolkit.training.loss_meter import LossMeter
from toolkit.training.lr import ScheduledLR
from toolkit.training.notes import notes_of
from toolkit.training.optim import build_optimizer, evaluates_other_weights
from toolkit.training.random_state import seed_all, seed_host
from toolkit.training.ranks import (
    check_engine,
    check_same_run,
    check_whole_weights,
    make_accelerator,
    one_first,
    split_global_batch,
    together,
)
from toolkit.training.run import Run
from toolkit.training.scaling import check_precision
from toolkit.training.selection import Selection
from toolkit.training.workers import Loading, loading_for
from toolkit.words import counted

INIT_STREAM, DROPOUT_STREAM, SPLIT_STREAM = 2, 3, 4
"""Numbers of the streams of random numbers for first weights and dropout; see ``batches``. What a
task draws for its splits is the same in all runs."""


def build(config: RunConfig, runs: Path = RUNS) -> Run:
    """Task, data, model, optimizer and schedule of a configuration, prepared for all ranks.

    A collective: all ranks call it.

    Args:
        config: the run.
        runs: the folder that holds the folders of studies.

    Raises:
        ConfigError: if the configuration cannot be carried out; nothing has been written then.
        RunError: if the ranks were given different runs.
    """
    code()  # looks at the checkout as it is now
    config = with_fingerprint(resolve(config))
    target, recipe = parse_target(config.target), config.recipe
    check_task_file(config)
    check_trackers(config)
    check_precision(recipe.precision)
    task = load(target.task)
    loss = _loss_of(task, recipe)
    batch_split = split_global_batch(recipe.global_batch, recipe.micro_batch, world_size())
    accelerator = make_accelerator(recipe, batch_split)
    check_whole_weights(accelerator, config)
    folder = run_folder(config, runs)
    check_same_run(folder.name, config.data)
    together(lambda: check_data(config))
    seed_host(derive_seed(SPLIT_STREAM))
    splits = one_first(accelerator, lambda: task_call(target, "splits", task, recipe))
    lengths = getattr(splits.train, "lengths", None)
    plan = BatchPlan(len(splits.train), recipe.global_batch, config.seed, lengths)
    budget = budget_of(config, plan)
    if config.keep_before_anneal and not last_held(config, budget):
        raise ConfigError("keep_before_anneal: the anneal begins before the first reading")
    seed_all(derive_seed(config.seed, INIT_STREAM))
    model = together(lambda: fresh_model(task, target, recipe))
    scales = _of_file(target, "scales", partial(scales_of, task, recipe, splits))
    vocabulary = together(lambda: task_call(target, "vocabulary", task, recipe))
    together(lambda: check_data(config))  # nothing reads them after this
    parameters = sum(weight.numel() for weight in model.parameters())
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    set_threads(parameters)
    keep_memory()
    initial_weights_sha = weights_sha(model.state_dict())
    infinite_at_start = infinite_buffers(model)
    if recipe.compile:
        model.compile()  # in place: names of weights, and what is saved, stay as they are
    built = build_optimizer(model, recipe)
    model, optimizer = accelerator.prepare(model, built)
    check_engine(model, recipe, batch_split)
    return_fp32(accelerator, model)
    seed_all(derive_seed(config.seed, config.arm, DROPOUT_STREAM, accelerator.process_index))
    lr = _scheduled(config, model, optimizer, budget, plan.updates_per_epoch)
    sizes = (batch_split.micro_batch, recipe.eval_batch)
    loading = loading_for(config.workers, splits, sizes, accelerator.device)
    return Run(
        config=config,
        task=task,
        loss=loss,
        accelerator=accelerator,
        model=model,
        parameters=parameters,
        trained_parameters=trained,
        optimizer=optimizer,
        evaluates_other_weights=evaluates_other_weights(built),
        lr=lr,
        meter=LossMeter(accelerator, lr),
        batch_plan=plan,
        splits=splits,
        scales=scales,
        vocabulary=vocabulary,
        loading=loading,
        evaluation_loaders=_evaluation_loaders(accelerator, splits, recipe, loading),
        budget=budget,
        batch_split=batch_split,
        folder=folder,
        initial_weights_sha=initial_weights_sha,
        infinite_at_start=infinite_at_start,
        notes=(*notes_of(config, lr, budget), *splits.notes),
        selection=Selection(config.keep_best, config.patience),
    )


def _loss_of(task: Task, recipe: Recipe) -> Callable[[nn.Module, Batch], Any]:
    """The loss that is trained on.

    Raises:
        ConfigError: if the recipe smooths labels, and the task's loss cannot.
    """
    smoothing = getattr(recipe, "label_smoothing", 0.0)
    loss: Callable[..., Any] = task.loss
    if not smoothing:
        return loss
    if "label_smoothing" not in inspect.signature(loss).parameters:
        raise ConfigError(
            f"recipe.label_smoothing = {smoothing:g}: the loss of this task does not take it "
            "(loss(self, model, batch, label_smoothing=0.0) would)"
        )
    return partial(loss, label_smoothing=smoothing)


def _evaluation_loaders(
    accelerator: Accelerator, splits: Splits, recipe: Recipe, loading: Loading
) -> dict[str, "DataLoader[Batch]"]:
    """This rank's batches of the splits that are evaluated."""
    return {
        name: accelerator.prepare_data_loader(evaluation_loader(split, recipe.eval_batch, loading))
        for name, split in (("validation", splits.validation), ("test", splits.test))
    }


def fresh_model(task: Task, target: Target, recipe: Recipe) -> nn.Module:
    """The task's model; its weights are fp32 under bf16, too, which is autocast.

    Raises:
        ConfigError: if the task has no such model, or its file raises an error.
    """
    dtype = torch.float64 if recipe.precision == "fp64" else torch.float32
    model = task_call(target, "model", task, recipe)
    if not isinstance(model, nn.Module):
        raise ConfigError(f"task {target.task}: model returns {type(model).__name__}, no nn.Module")
    return model.to(dtype)


def task_call(target: Target, function: str, task: Task, recipe: Recipe) -> Any:
    """What ``splits``, ``model`` or ``vocabulary`` of a task returns.

    Raises:
        ConfigError: as the task does; for an error of a user's file, naming its line.
    """
    return _of_file(target, function, partial(getattr(task, function), target.model, recipe))


def _of_file(target: Target, function: str, call: Callable[[], Any]) -> Any:
    """What a call returns; an error of a user's file names the function, and its line."""
    if not target.task.endswith(".py"):
        return call()
    return userfile.raise_as_config_error(f"{function} of '{target.task}'", target.task, call)


def infinite_buffers(model: nn.Module) -> frozenset[str]:
    """The names of the buffers that hold an infinity."""
    floating = {name: b for name, b in model.named_buffers() if b.is_floating_point()}
    return frozenset(name for name, buffer in floating.items() if buffer.isinf().any())


def weights_sha(state: dict[str, torch.Tensor]) -> str:
    """SHA-256 over the names and bytes of all weights and buffers."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _scheduled(
    config: RunConfig, model: nn.Module, optimizer: Optimizer, budget: int, per_epoch: int
) -> ScheduledLR:
    """The LR, set by the schedule; ``per_epoch``: updates of an epoch."""
    goes_back = config.sees != "validation"
    able = {"training": ["rewind"], "validation": [], "both": ["rewind", "validation"]}
    try:
        lr = ScheduledLR(
            optimizer,
            config.schedule,
            budget,
            model if goes_back else None,
            pretrained=config.recipe.init == "pretrained",
            epochs=budget / per_epoch,
            can=able[config.sees],
        )
    except ValueError as error:  # the schedule does not fit the budget or the base LR
        raise ConfigError(str(error)) from error
    lr.expect_readings(config.read_every)
    if config.sees == "validation":
        lr.expect_readings(config.eval_every or per_epoch)
    return lr


def budget_of(config: RunConfig, plan: BatchPlan) -> int:
    """A run's budget in updates.

    Raises:
        ConfigError: if it is less than an update, or no more than that of the run it extends.
    """
    recipe, parent = config.recipe, parent_of(config)
    if parent is not None:
        new, before = config.extend[-1], budget_of(parent, plan)
        budget = round(new * (1 if recipe.updates is not None else plan.updates_per_epoch))
        if budget <= before:
            raise ConfigError(
                f"extend = {new:g}: that is {counted(budget, 'update')}, and was {before}"
            )
        return budget
    budget = recipe.updates or round((recipe.epochs or 0) * plan.updates_per_epoch)
    if budget < 1:
        raise ConfigError(
            f"recipe.epochs = {recipe.epochs:g} is less than an update: an epoch has "
            f"{plan.updates_per_epoch}"
        )
    return budget
