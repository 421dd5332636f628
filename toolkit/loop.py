"""One run: build it, fit it, evaluate it. The only training loop of the toolkit."""

import gc
import hashlib
import math
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin, broadcast_object_list, send_to_device
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from toolkit import checkpoint
from toolkit.batches import (
    BatchPlan,
    MicroBatches,
    derive_seed,
    evaluation_loader,
    training_loader,
)
from toolkit.config import RUNS, RunConfig, resolve, run_folder, schedule_name, to_json
from toolkit.errors import ConfigError, RunError
from toolkit.lr import ScheduledLR
from toolkit.meter import LossMeter
from toolkit.optim import build_optimizer
from toolkit.process import world_size
from toolkit.record import Recorder, Stopwatch, versions
from toolkit.task import Batch, Recipe, Split, Splits, Task, load, parse_target, recipe_of

INIT_STREAM, DROPOUT_STREAM, AUGMENT_STREAM = 2, 3, 4
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
    micro_batch: int
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
    config = resolve(config)
    target, recipe = parse_target(config.target), config.recipe
    task = load(target.task)
    ranks = world_size()
    micro_batch, accumulation = _cut(recipe.global_batch, recipe.micro_batch, ranks)
    accelerator = _accelerator(config, accumulation, ranks)
    with accelerator.local_main_process_first():  # the others find its work in the cache
        splits = task.splits(target.model, recipe)
    lengths = getattr(splits.train, "lengths", None)
    plan = BatchPlan(len(splits.train), recipe.global_batch, config.seed, lengths)
    budget = _budget(recipe, plan)
    torch.manual_seed(derive_seed(config.seed, INIT_STREAM))
    model = task.model(target.model, recipe)
    dtype = torch.float64 if recipe.precision == "fp64" else torch.float32
    model = model.to(dtype)
    initial_weights_sha = weights_sha(model.state_dict())
    model, optimizer = accelerator.prepare(model, build_optimizer(model, recipe))
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
        lr=ScheduledLR(optimizer, config.schedule, budget),
        meter=LossMeter(accelerator, dtype),
        plan=plan,
        splits=splits,
        evaluation=evaluation,
        budget=budget,
        micro_batch=micro_batch,
        folder=run_folder(config, runs),
        initial_weights_sha=initial_weights_sha,
        notes=(*_notes(config, task), *splits.notes),
    )


def fit(run: Run) -> dict[str, Any]:
    """Train to the end of the budget, or go on with an unfinished run.

    Returns:
        The result, as written to ``result.json``; with status ``preempted``, which is not
        written, if the process was asked to stop.

    Raises:
        RunError: if the run cannot be carried out.
    """
    _resume(run)
    run.record.status("running", run.update)
    with _stop_on_signal(run):
        _train(run)
    if run.update < run.budget and not run.diverged:
        run.record.status("preempted", run.update)
        run.record.close()
        return {"status": "preempted", "updates": run.update}
    result = _result(run)
    run.record.finish(result)
    run.record.status(result["status"], run.update)
    return result


def evaluate(run: Run, split: str) -> dict[str, float]:
    """The metrics of ``validation`` or ``test``, over all ranks; empty on every rank but 0."""
    data: Split = getattr(run.splits, split)
    run.model.eval()
    run.optimizer.eval()  # schedule-free optimizers swap in their averaged weights
    gathered = []
    with torch.no_grad(), run.record.span("evaluation"):
        for batch in run.evaluation[split]:
            outputs = run.task.predict(run.model, batch)
            gathered.append([part.cpu() for part in run.accelerator.gather_for_metrics(outputs)])
        metrics = {}
        if run.accelerator.is_main_process:
            predictions, labels = (
                torch.cat(parts).numpy() for parts in zip(*gathered, strict=True)
            )
            metrics = run.task.metrics(predictions, labels, data)
    run.optimizer.train()
    run.model.train()
    run.record.evaluation(split, run.update, run.epoch, metrics)
    return metrics


def release(run: Run) -> None:
    """Free the run's memory, so that another can follow in the same process."""
    run.record.close()
    run.accelerator.free_memory(run.model, run.optimizer)
    run.evaluation.clear()
    gc.collect()
    run.accelerator.wait_for_everyone()
    AcceleratorState._reset_state()  # the next run may have another precision


def weights_sha(state: dict[str, torch.Tensor]) -> str:
    """SHA-256 over the names and bytes of all weights and buffers."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _train(run: Run) -> None:
    config = run.config
    eval_every = config.eval_every or run.plan.updates_per_epoch
    save_every = eval_every if config.save_every is None else config.save_every
    batches = _training_batches(run)
    run.model.train()
    run.optimizer.train()
    while run.update < run.budget and not run.diverged and not run.stopping:
        rates, factor = run.lr.used, run.lr.factor
        _update(run, batches)
        last = run.update == run.budget
        reading = last or run.update % config.read_every == 0
        if reading:
            _read(run, rates, factor)
        run.lr.step()
        if last or run.update % eval_every == 0:
            _check_ranks(run)
            run.last_metrics["validation"] = evaluate(run, "validation")
        # At a reading the meter is empty: nothing of it is lost with the process.
        due = save_every > 0 and run.update // save_every > run.saved // save_every
        if reading and not last and (run.stopping or due):
            _save(run)


def _update(run: Run, batches: "Iterator[Batch]") -> None:
    """One optimizer update over its micro-batches."""
    accelerator, record, clip = run.accelerator, run.record, run.config.recipe.clip
    for _ in range(accelerator.gradient_accumulation_steps):
        with record.span("data"):
            batch = next(batches)
        with accelerator.accumulate(run.model):
            with record.span("forward_backward"):
                total, count = run.task.loss(run.model, batch)
                accelerator.backward(total / count)
                run.meter.add(total.detach(), count)
            with record.span("optimizer"):
                if clip is not None and accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(run.model.parameters(), clip)
                run.optimizer.step()
                run.optimizer.zero_grad()
    run.update += 1


def _read(run: Run, rates: list[float], factor: float) -> None:
    """Reduce the loss and let the schedule decide: the same numbers on every rank."""
    with run.record.span("reading"):
        reading, run.stopping = run.meter.read(run.update, run.epoch, run.stop_asked)
        decision = run.lr.observe(reading)
    run.nonfinite_readings = 0 if math.isfinite(reading.loss) else run.nonfinite_readings + 1
    run.record.reading(reading, decision, rates, factor)


def _training_batches(run: Run) -> "Iterator[Batch]":
    accelerator, plan, config = run.accelerator, run.plan, run.config
    ranks, rank = accelerator.num_processes, accelerator.process_index
    order = MicroBatches(plan, rank, ranks, run.micro_batch, run.update, run.budget)
    seed = derive_seed(config.seed, config.arm, AUGMENT_STREAM)
    per_update = accelerator.gradient_accumulation_steps
    first = run.update
    for number, batch in enumerate(training_loader(run.splits.train, order)):
        epoch = plan.epoch(first + number // per_update)
        yield run.task.augment(send_to_device(batch, accelerator.device), seed, epoch)


def _check_ranks(run: Run) -> None:
    """All ranks must be about to use the same learning rates."""
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


def _save(run: Run) -> None:
    state = {
        "run_id": run.folder.name,
        "update": run.update,
        "world_size": run.accelerator.num_processes,
        "lr": run.lr.state_dict(),
        "stopwatch": run.record.stopwatch.state(),
        "initial_weights_sha": run.initial_weights_sha,
        "nonfinite_readings": run.nonfinite_readings,
        "last_metrics": run.last_metrics,
    }
    with run.record.span("checkpoint"):
        checkpoint.save(run.accelerator, run.folder / "checkpoints", run.update, state)
    run.saved = run.update


def _resume(run: Run) -> None:
    """Open the records and continue from the newest checkpoint, if there is one."""
    accelerator = run.accelerator
    found = [checkpoint.latest(run.folder / "checkpoints") if accelerator.is_main_process else None]
    broadcast_object_list(found)
    path, state = found[0] or (None, {"update": 0})
    run.record = Recorder(run.folder, accelerator, run.config, run.budget, state["update"])
    if path is None:
        return
    checkpoint.load(accelerator, path)
    run.update = run.saved = state["update"]
    run.lr.load_state_dict(state["lr"])
    run.initial_weights_sha = state["initial_weights_sha"]
    run.nonfinite_readings = state["nonfinite_readings"]
    run.last_metrics = state["last_metrics"]
    run.record.stopwatch = Stopwatch(state["stopwatch"])
    run.record.event("resume", run.update, world_size=accelerator.num_processes)


def _result(run: Run) -> dict[str, Any]:
    """Touch the test split once and put the result together."""
    config, accelerator = run.config, run.accelerator
    train_seconds = run.record.stopwatch.train_seconds
    target, state = parse_target(config.target), accelerator.get_state_dict(run.model)
    metrics = {"test": {} if run.diverged else evaluate(run, "test"), **run.last_metrics}
    return {
        "status": "diverged" if run.diverged else "done",
        "run_id": run.folder.name,
        "study": config.study,
        "task": target.task,
        "model": target.model,
        "recipe": target.recipe,
        "recipe_settings": to_json(config)["recipe"],
        "schedule": schedule_name(config.schedule),
        "schedule_config": to_json(config)["schedule"]["fields"],
        "seed": config.seed,
        "arm": config.arm,
        "init": config.recipe.init,
        "updates": run.update,
        "epoch": run.epoch,
        "world_size": accelerator.num_processes,
        "micro_batch": run.micro_batch,
        "precision": config.recipe.precision,
        "metrics": metrics,
        "timing": {"train_seconds": train_seconds, **run.record.stopwatch.spans()},
        "initial_weights_sha": run.initial_weights_sha,
        "batch_order_sha": run.plan.sha(run.update),
        "final_weights_sha": weights_sha(state) if accelerator.is_main_process else "",
        "rollbacks": 0,
        "notes": list(run.notes),
        "versions": versions(),
        "device": str(accelerator.device.type),
        "argv": sys.argv,
    }


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


def _cut(global_batch: int, micro_batch: int | None, ranks: int) -> tuple[int, int]:
    """The micro-batch and the number of them that make up a rank's share of an update."""
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


def _accelerator(config: RunConfig, accumulation: int, ranks: int) -> Accelerator:
    deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
    no_device = not torch.cuda.is_available()
    accelerator = Accelerator(
        mixed_precision="bf16" if config.recipe.precision == "bf16" else "no",
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=accumulation, sync_with_dataloader=False
        ),
        # cpu=True would turn DeepSpeed off without a word; there gloo has to be asked for.
        cpu=no_device and not deepspeed,
        kwargs_handlers=[InitProcessGroupKwargs(backend="gloo")] if no_device and deepspeed else [],
        log_with="wandb" if config.wandb == "auto" else None,
    )
    if accelerator.num_processes != ranks:
        raise ConfigError(
            f"the launcher started {ranks} processes, but Accelerate sees "
            f"{accelerator.num_processes}: check distributed_type and use_cpu in the launch config"
        )
    return accelerator


@contextmanager
def _stop_on_signal(run: Run) -> Iterator[None]:
    """On SIGTERM and SIGINT finish the update, save and return; a second signal acts at once."""
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def ask(*_: Any) -> None:
        run.stop_asked = True
        restore()

    for number in previous:
        signal.signal(number, ask)
    try:
        yield
    finally:
        restore()
