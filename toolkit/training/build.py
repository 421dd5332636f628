"""A run that is ready to fit: task, model, optimizer and schedule, prepared for all ranks."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from toolkit.config import RUNS, RunConfig, resolve, run_folder
from toolkit.errors import ConfigError
from toolkit.process import world_size
from toolkit.records.provenance import code
from toolkit.records.recorder import Recorder
from toolkit.task import Batch, Recipe, Splits, Task, load, parse_target, recipe_of
from toolkit.training.batches import BatchPlan, derive_seed, evaluation_loader
from toolkit.training.lr import ScheduledLR
from toolkit.training.meter import LossMeter
from toolkit.training.optim import build_optimizer
from toolkit.training.ranks import Shares, check_engine, cut, make_accelerator

INIT_STREAM, DROPOUT_STREAM = 2, 3
NONFINITE_READINGS = 20
"""So many readings in a row without one finite loss, and the run has diverged: its weights are
NaN, and no update brings them back."""


@dataclass
class Run:
    """A run that is ready to fit; ``build`` makes it."""

    config: RunConfig
    task: Task
    accelerator: Accelerator
    model: nn.Module
    optimizer: Optimizer
    lr: ScheduledLR
    meter: LossMeter
    plan: BatchPlan
    splits: Splits
    evaluation: dict[str, "DataLoader[Batch]"]
    budget: int
    shares: Shares
    folder: Path
    initial_weights_sha: str
    notes: tuple[str, ...]
    """What a reader of the result should know, one sentence each."""
    record: Recorder = field(init=False)
    update: int = 0
    saved: int = 0
    """Update of the newest checkpoint."""
    nonfinite_readings: int = 0
    stop_asked: bool = False
    """This rank was asked to stop; it does so when a reading has told the others."""
    stopping: bool = False
    """All ranks know that they stop now."""
    last_metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    rollbacks: int = 0

    def snapshots(self) -> dict[str, float]:
        """What the snapshots of this rank cost: how many, bytes of host memory, seconds."""
        kept = self.lr.snapshot
        if kept is None:
            return {"taken": 0, "bytes": 0, "seconds": 0.0}
        return {"taken": kept.taken, "bytes": kept.size, "seconds": kept.seconds}

    @property
    def epoch(self) -> float:
        """Passes over the training split so far."""
        return self.update / self.plan.updates_per_epoch

    @property
    def diverged(self) -> bool:
        """Whether the weights are lost."""
        return self.nonfinite_readings >= NONFINITE_READINGS


def build(config: RunConfig, runs: Path = RUNS) -> Run:
    """Task, model, optimizer and schedule of a configuration, prepared for all ranks.

    Raises:
        ConfigError: if the configuration cannot be carried out; nothing has been written then.
    """
    code()  # looks at the checkout as it is now
    config = resolve(config)
    target, recipe = parse_target(config.target), config.recipe
    task = load(target.task)
    shares = cut(recipe.global_batch, recipe.micro_batch, world_size())
    accelerator = make_accelerator(recipe, shares)
    with accelerator.local_main_process_first():  # the others find its work in the cache
        splits = task.splits(target.model, recipe)
    lengths = getattr(splits.train, "lengths", None)
    plan = BatchPlan(len(splits.train), recipe.global_batch, config.seed, lengths)
    budget = _budget(recipe, plan)
    torch.manual_seed(derive_seed(config.seed, INIT_STREAM))
    model = fresh_model(task, target.model, recipe)
    dtype = next(model.parameters()).dtype  # prepared, DeepSpeed's may be bfloat16
    initial_weights_sha = weights_sha(model.state_dict())
    model, optimizer = accelerator.prepare(model, build_optimizer(model, recipe))
    check_engine(model, recipe, shares)
    torch.manual_seed(
        derive_seed(config.seed, config.arm, DROPOUT_STREAM, accelerator.process_index)
    )
    evaluation = {
        name: accelerator.prepare_data_loader(evaluation_loader(split, recipe.eval_batch))
        for name, split in (("validation", splits.validation), ("test", splits.test))
    }
    return Run(
        config=config,
        task=task,
        accelerator=accelerator,
        model=model,
        optimizer=optimizer,
        lr=_scheduled(config, model, optimizer, budget, budget / plan.updates_per_epoch),
        meter=LossMeter(accelerator, dtype),
        plan=plan,
        splits=splits,
        evaluation=evaluation,
        budget=budget,
        shares=shares,
        folder=run_folder(config, runs),
        initial_weights_sha=initial_weights_sha,
        notes=(*_notes(config, task), *splits.notes),
    )


def fresh_model(task: Task, name: str, recipe: Recipe) -> nn.Module:
    """The task's model; its weights are fp32 under bf16, too, which is autocast."""
    dtype = torch.float64 if recipe.precision == "fp64" else torch.float32
    return task.model(name, recipe).to(dtype)


def weights_sha(state: dict[str, torch.Tensor]) -> str:
    """SHA-256 over the names and bytes of all weights and buffers."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _scheduled(
    config: RunConfig, model: nn.Module, optimizer: Optimizer, budget: int, epochs: float
) -> ScheduledLR:
    pretrained = config.recipe.init == "pretrained"
    goes_back = config.sees == "training"
    try:
        return ScheduledLR(
            optimizer,
            config.schedule,
            budget,
            model if goes_back else None,
            pretrained=pretrained,
            epochs=epochs,
            can=("rewind",) if goes_back else (),
        )
    except ValueError as error:  # the schedule does not fit the budget or the base LR
        raise ConfigError(str(error)) from error


def _budget(recipe: Recipe, plan: BatchPlan) -> int:
    """The run's budget in updates."""
    budget = recipe.updates or round((recipe.epochs or 0) * plan.updates_per_epoch)
    if budget < 1:
        raise ConfigError(
            f"recipe.epochs = {recipe.epochs:g} is less than an update: an epoch has "
            f"{plan.updates_per_epoch}"
        )
    return budget


def _notes(config: RunConfig, task: Task) -> Iterator[str]:
    usual = recipe_of(task, parse_target(config.target)).init
    if usual == "pretrained" and config.recipe.init == "random":
        yield "the weights start at random, as asked: published figures are out of its reach"
