"""Build a run that is ready to fit: task, data, model, optimizer and schedule, on all ranks.

``Run`` is what the loop works with and what it counts; ``build`` makes one of a configuration. The
order matters: the model's weights are drawn under the run's seed before any rank has a seed of its
own, and the schedule is given the optimizer that Accelerate has prepared, for that may be another.
"""

import hashlib
import inspect
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from toolkit import signals, userfile
from toolkit.config import RUNS, RunConfig, parent_of, resolve, run_folder
from toolkit.errors import ConfigError
from toolkit.identity import check_data, check_task_file, with_fingerprint
from toolkit.process import keep_memory, set_threads, world_size
from toolkit.records.mirror_handle import check_trackers
from toolkit.records.provenance import code
from toolkit.records.recorder import Recorder
from toolkit.records.result import Snapshots
from toolkit.task import (
    Batch,
    Recipe,
    Scale,
    Splits,
    Target,
    Task,
    load,
    parse_target,
    scales_of,
)
from toolkit.training.batches import BatchPlan, derive_seed, evaluation_loader
from toolkit.training.extension import last_held
from toolkit.training.loss_meter import LossMeter
from toolkit.training.lr import ScheduledLR
from toolkit.training.notes import notes_of
from toolkit.training.optim import build_optimizer, evaluates_other_weights
from toolkit.training.random_state import seed_all, seed_host
from toolkit.training.ranks import (
    BatchSplit,
    check_engine,
    check_same_run,
    check_whole_weights,
    make_accelerator,
    one_first,
    split_global_batch,
    together,
)
from toolkit.training.selection import Selection
from toolkit.training.workers import Loading, loading_for

SAVES, SAVE_SECONDS, SECONDS_APART = 10, 600.0, 1.0
"""By default there is a checkpoint after a tenth of the budget, and after so many seconds; but none
by a tenth within the last of these of the one before: to write it may take as long as the updates
that it saves."""
INIT_STREAM, DROPOUT_STREAM, SPLIT_STREAM = 2, 3, 4
"""Numbers of the streams of random numbers for first weights and dropout; see ``batches``. What a
task draws for its splits is the same in all runs."""


@dataclass
class Run:
    """One training run: everything that the loop works with. ``build`` makes it.

    Every rank has a ``Run`` of its own, equal but for its share of the data, its part of the model
    under DeepSpeed, and ``stop_asked``. The first fields are the run as it was built; those with a
    default are where it stands, and change while it trains.
    """

    config: RunConfig
    task: Task
    loss: Callable[[nn.Module, Batch], tuple[torch.Tensor, int]]
    """What is trained on: the task's loss, with the label smoothing of the recipe, if it has one.
    Whatever only looks at the run asks the task's."""
    accelerator: Accelerator
    model: nn.Module
    """Prepared: on its device, and wrapped by DDP or DeepSpeed where there are several ranks."""
    parameters: int
    """How many numbers the whole model has."""
    trained_parameters: int
    """How many of them it learns: those that are not frozen."""
    optimizer: Optimizer
    """Prepared, too."""
    evaluates_other_weights: bool
    """Whether the optimizer has other weights for evaluation (see ``toolkit.training.optim``)."""
    lr: ScheduledLR
    """Carries out what the schedule decides: sets the optimizer's LR, takes and restores snapshots
    of model and optimizer."""
    meter: LossMeter
    """The training loss since the last reading."""
    batch_plan: BatchPlan
    """Which samples make up which update."""
    splits: Splits
    scales: Mapping[str, Scale]
    """How the metrics of the task are to be read, the headline first; empty if it does not say."""
    vocabulary: Mapping[str, Sequence[str]]
    """The words of the data that the model is made for, as the names of the classes."""
    loading: Loading
    """How batches get from the splits to the device."""
    evaluation_loaders: dict[str, "DataLoader[Batch]"]
    """This rank's batches of the splits ``validation`` and ``test``."""
    budget: int
    """Updates to be made in all, trials and updates that were rolled back included."""
    batch_split: BatchSplit
    """How the samples of an update are cut over ranks and micro-batches."""
    folder: Path
    """``runs/STUDY/RUN_ID``: where the run is written down."""
    initial_weights_sha: str
    """SHA-256 of the weights before the first update, by ``weights_sha``."""
    infinite_at_start: frozenset[str]
    """Buffers that held an infinity then, as masks do by design."""
    notes: tuple[str, ...]
    """What a reader of the result should know, one sentence each."""
    after_update: list[Callable[["Run"], None]] = field(default_factory=list)
    """Called one after the other, on every rank, after each optimizer update: ``update`` has
    counted it, and neither has its loss been read nor the LR of the next been set. For whoever
    watches or disturbs a run; the loop itself needs none."""
    record: Recorder = field(init=False)
    """Writes the run down; there is none before it is started or resumed."""
    update: int = 0
    """Optimizer updates made so far."""
    saved_at: int = 0
    """Update of the newest checkpoint; 0 if there is none."""
    saved_when: float = field(default_factory=time.monotonic)
    """When that was written, or this process began: by this rank's ``time.monotonic``."""
    save_agreed: bool = False
    """All ranks know that a checkpoint is due by rank 0's clock."""
    evaluated: int = 0
    """Update of the latest evaluation on the validation split; 0 if there was none."""
    steps: int = 0
    """Counts what this rank gets done, updates as batches of an evaluation: it stands still in a
    rank that is hung (see ``watch``)."""
    readings: int = 0
    """Readings of the training loss so far."""
    grad_norm: "float | torch.Tensor" = math.nan
    """L2 norm of the gradient of the latest update, before clipping; NaN without clipping, which
    works it out. A tensor on its device, as reading it would wait for that."""
    nonfinite_readings: int = 0
    """Latest readings in a row with a loss that was not finite, on whichever rank."""
    lost: str = ""
    """Why the run counts as diverged, in words; empty while it does not. See ``divergence``."""
    stop_asked: bool = False
    """This rank was asked to stop, other than by a signal; it does so when a reading has told the
    others."""
    stop_agreed: bool = False
    """All ranks know that one was asked to stop: none makes another update."""
    last_metrics: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """Of the latest evaluation of each split, on rank 0; elsewhere without metrics."""
    check_claim: Callable[[], object] = lambda: None
    """Called on every rank before anything is written that others may read: ends a process whose
    run another has taken over. For whoever claims runs; without claims there is nothing to do."""
    selection: Selection = field(default_factory=Selection)
    """What the metric on validation has chosen so far, for ``keep_best`` and ``patience``."""
    rollbacks: int = 0
    """Rollbacks that the schedule has asked for so far."""
    origin: dict[str, Any] = field(default_factory=dict)
    """What its parts come from, by ``provenance.continued``; empty before it is started."""
    keeps_before_anneal: bool = False
    """The state before the anneal is to be kept, and is not yet."""
    search_seconds: float = 0.0
    """Training seconds until the end of the schedule's search for an LR."""

    def snapshots(self) -> Snapshots:
        """What the snapshots of this rank cost."""
        kept = self.lr.snapshot
        return Snapshots() if kept is None else Snapshots(kept.taken, kept.size, kept.seconds)

    def ask_to_stop(self) -> None:
        """Have this rank tell the others, with its next reading, that the run is to stop."""
        self.stop_asked = True

    @property
    def stop_wanted(self) -> bool:
        """Whether this rank was asked to stop, in whichever way."""
        return self.stop_asked or signals.asked()

    @property
    def epoch(self) -> float:
        """Passes over the training split so far."""
        return self.update / self.batch_plan.updates_per_epoch

    @property
    def diverged(self) -> bool:
        """Whether the weights are lost."""
        return bool(self.lost)

    @property
    def eval_every(self) -> int:
        """Updates between evaluations on the validation split."""
        return self.config.eval_every or self.batch_plan.updates_per_epoch

    @property
    def evaluation_due(self) -> bool:
        """Whether the weights, as they are now, are to be evaluated on the validation split."""
        due = self.update == self.budget or self.update % self.eval_every == 0
        return due and self.update > self.evaluated and not self.lr.searching

    @property
    def checkpoint_due(self) -> bool:
        """Whether updates or time enough have passed since the newest checkpoint, or this is the
        end of training, where it spares the run the way back from the test split."""
        every = self.config.save_every
        if every == 0 or self.update == self.saved_at:
            return False
        over = self.update == self.budget or self.selection.stopped
        if every is None:
            return self.save_agreed or over
        return self._passed(every) or over

    @property
    def overdue(self) -> bool:
        """Whether rank 0, whose clock counts, finds a checkpoint due where nobody says when."""
        if self.config.save_every is not None or not self.accelerator.is_main_process:
            return False
        waited = time.monotonic() - self.saved_when
        tenth = self._passed(math.ceil(self.budget / SAVES))
        return waited >= (SECONDS_APART if tenth else SAVE_SECONDS)

    def _passed(self, every: int) -> bool:
        """Whether a multiple of so many updates has passed since the newest checkpoint."""
        return self.update // every > self.saved_at // every


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
    scales = scales_of(task, recipe, splits)
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
    call = partial(getattr(task, function), target.model, recipe)
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
            raise ConfigError(f"extend = {new:g}: that is {budget} updates, and was {before}")
        return budget
    budget = recipe.updates or round((recipe.epochs or 0) * plan.updates_per_epoch)
    if budget < 1:
        raise ConfigError(
            f"recipe.epochs = {recipe.epochs:g} is less than an update: an epoch has "
            f"{plan.updates_per_epoch}"
        )
    return budget
