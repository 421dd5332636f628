"""Fit a run and evaluate it. The only training loop of the toolkit."""

import gc
import math
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, broadcast_object_list, send_to_device
from torch import Tensor

from toolkit.config import WEIGHTS, schedule_name, to_json
from toolkit.errors import RunError
from toolkit.records.events import decision_to_json
from toolkit.records.provenance import code, machine, versions
from toolkit.records.recorder import Recorder, Stopwatch
from toolkit.schedules.reading import NO_ACTION
from toolkit.task import Batch, Split, parse_target
from toolkit.training import checkpoint
from toolkit.training.batches import MicroBatches, derive_seed, shares_of, training_loader
from toolkit.training.batchnorm import has_batch_statistics, retaken
from toolkit.training.build import Run, weights_sha
from toolkit.training.meter import LossMeter

AUGMENT_STREAM = 4
STATISTICS_OVER = 50
"""Micro-batches for the batch statistics of averaged weights, as schedule-free's authors advise."""
SPLITS = ("train", "validation", "test")
REHEARSED = 16
"""Test samples predicted in a rehearsal."""


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
    if run.accelerator.is_main_process:
        checkpoint.clear(run.folder / "checkpoints")
    return result


def evaluate(run: Run, split: str) -> dict[str, float]:
    """The metrics of ``validation`` or ``test``, over all ranks; empty on every rank but 0."""
    data: Split = getattr(run.splits, split)
    gathered = []
    with _judging(run):
        for batch in run.evaluation[split]:
            outputs = run.task.predict(run.model, batch)
            gathered.append([part.cpu() for part in run.accelerator.gather_for_metrics(outputs)])
        metrics = {}
        if run.accelerator.is_main_process:
            predictions, labels = (
                torch.cat(parts).numpy() for parts in zip(*gathered, strict=True)
            )
            metrics = run.task.metrics(predictions, labels, data)
    run.record.evaluation(split, run.update, run.epoch, metrics)
    return metrics


def rehearse(run: Run, updates: int) -> tuple[float, float]:
    """Make so many updates of a run that is not to be kept, and predict some test samples.

    There are no more updates than the run's budget.

    Returns:
        Seconds an update, and seconds a sample of an evaluation, without the metrics.
    """
    run.record = Recorder(run.folder, run.accelerator, run.config, updates)
    batches, updates = _training_batches(run), min(updates, run.budget)
    run.model.train()
    run.optimizer.train()
    begin = time.perf_counter()
    for _ in range(updates):
        _update(run, batches)
    run.meter.read(run.update, run.epoch)  # waits for the device
    trained = time.perf_counter()
    ids = np.random.default_rng(0).permutation(len(run.splits.test))[:REHEARSED].tolist()
    batch = send_to_device(run.splits.test.__getitems__(ids), run.accelerator.device)
    run.model.eval()
    run.optimizer.eval()
    with torch.no_grad():
        run.task.predict(run.model, batch)[0].cpu()
    return (trained - begin) / updates, (time.perf_counter() - trained) / len(ids)


def release(run: Run) -> None:
    """Free the run's memory, so that another can follow in the same process."""
    run.record.close()
    run.accelerator.free_memory(run.model, run.optimizer)
    run.evaluation.clear()
    gc.collect()
    run.accelerator.wait_for_everyone()
    AcceleratorState._reset_state()  # the next run may have another precision


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
        reading = last or run.lr.searching or run.update % config.read_every == 0
        if reading:
            action = _read(run, rates, factor)
            if action in ("trial", "restore"):
                batches = _training_batches(run)
        due = last or run.update % eval_every == 0
        if due and config.sees == "validation":
            _read_validation(run, rates, factor)
        run.lr.step()
        if run.lr.searching:  # its weights are on trial: neither to be judged nor to be kept
            continue
        if due:
            _check_ranks(run)
            run.last_metrics["validation"] = evaluate(run, "validation")
        # At a reading the meter is empty: nothing of it is lost with the process.
        save = save_every > 0 and run.update // save_every > run.saved // save_every
        if reading and not last and (run.stopping or save):
            _save(run)


def _update(run: Run, batches: "Iterator[Batch]") -> None:
    """One optimizer update over its micro-batches."""
    accelerator, record, clip = run.accelerator, run.record, run.config.recipe.clip
    with record.span("data"):
        window = [next(batches) for _ in range(run.shares.accumulation)]
    mean_count = _mean_count(run, window) if run.task.counts == "varying" else None
    for batch in window:
        with accelerator.accumulate(run.model):
            with record.span("forward_backward"):
                total, count = run.task.loss(run.model, batch)
                accelerator.backward(total / (count if mean_count is None else mean_count))
                run.meter.add(total.detach(), count)
            with record.span("optimizer"):
                if clip is not None and accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(run.model.parameters(), clip)
                run.optimizer.step()
                run.optimizer.zero_grad()
    run.update += 1


def _mean_count(run: Run, window: "Sequence[Batch]") -> Tensor:
    """Items of the update per micro-batch, over all ranks.

    Gradients are averaged over micro-batches and ranks; of losses divided by this number, that
    average is the gradient of the mean over all items.
    """
    items = sum(run.task.items(batch) for batch in window)
    local = torch.tensor(float(items), device=run.accelerator.device)
    total = run.accelerator.reduce(local, "sum")
    return total.clamp(min=1) / (run.shares.ranks * run.shares.accumulation)


def _read(run: Run, rates: list[float], factor: float) -> str:
    """Reduce the loss and let the schedule decide: the same numbers on every rank."""
    with run.record.span("reading"):
        reading, run.stopping = run.meter.read(run.update, run.epoch, run.stop_asked)
        decision = run.lr.observe(reading) if run.config.sees == "training" else NO_ACTION
    run.nonfinite_readings = 0 if math.isfinite(reading.loss) else run.nonfinite_readings + 1
    run.rollbacks += decision.action == "rollback"
    run.record.reading(reading, decision, rates, factor)
    return decision.action


def _read_validation(run: Run, rates: list[float], factor: float) -> None:
    """Let the schedule decide on the mean loss of the validation split, each sample once."""
    meter = LossMeter(run.accelerator, run.meter.dtype)
    split, size = run.splits.validation, run.config.recipe.eval_batch
    rank, ranks = run.accelerator.process_index, run.shares.ranks
    with _judging(run):
        for ids, own in shares_of(split, size, rank, ranks):
            batch = send_to_device(split.__getitems__(ids), run.accelerator.device)
            total, count = run.task.loss(run.model, batch)
            if own:
                meter.add(total, count)
        reading, _ = meter.read(run.update, run.epoch)  # waits for the device
    reading = reading._replace(kind="validation")
    decision = run.lr.observe(reading)
    if decision.action not in ("hold", "raise", "cut", "anneal"):
        raise RunError(
            f"{schedule_name(run.config.schedule)} asks for '{decision.action}' at update "
            f"{run.update}: a schedule that sees validation losses sets the LR, and no more"
        )
    run.record.validation_reading(reading, decision, rates, factor)


def _training_batches(run: Run) -> "Iterator[Batch]":
    # Every trial of a search sees the same batches, the first ones.
    return _batches_of(run, 0 if run.lr.searching else run.update, run.budget)


def _batches_of(run: Run, first: int, last: int) -> "Iterator[Batch]":
    """This rank's micro-batches of the updates from ``first`` to before ``last``."""
    accelerator, plan, config = run.accelerator, run.plan, run.config
    ranks, rank = run.shares.ranks, accelerator.process_index
    order = MicroBatches(plan, rank, ranks, run.shares.micro_batch, first, last)
    seed = derive_seed(config.seed, config.arm, AUGMENT_STREAM)
    for number, batch in enumerate(training_loader(run.splits.train, order)):
        epoch = plan.epoch(first + number // run.shares.accumulation)
        yield run.task.augment(send_to_device(batch, accelerator.device), seed, epoch)


@contextmanager
def _judging(run: Run) -> Iterator[None]:
    """Model and optimizer as they are judged, without gradients."""
    run.model.eval()
    run.optimizer.eval()  # schedule-free optimizers swap in their averaged weights
    with torch.no_grad(), run.record.span("evaluation"), _batch_statistics(run):
        yield
    run.optimizer.train()
    run.model.train()


def _batch_statistics(run: Run) -> AbstractContextManager[None]:
    """Where the weights to be judged are not those in training, batch norm's statistics of them."""
    if run.config.recipe.optimizer != "schedule-free" or not has_batch_statistics(run.model):
        return nullcontext()
    updates = math.ceil(STATISTICS_OVER / run.shares.accumulation)
    batches = _batches_of(run, 0, updates)
    forward = (partial(run.task.loss, run.model, batch) for batch in batches)
    return retaken(run.model, forward, partial(run.accelerator.reduce, reduction="mean"))


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
    lr = run.lr.state_dict()
    snapshot = lr.pop("snapshot", {})
    state = {
        "run_id": run.folder.name,
        "update": run.update,
        "world_size": run.accelerator.num_processes,
        "lr": lr,
        "rollbacks": run.rollbacks,
        "stopwatch": run.record.stopwatch.state(),
        "initial_weights_sha": run.initial_weights_sha,
        "nonfinite_readings": run.nonfinite_readings,
        "last_metrics": run.last_metrics,
    }
    with run.record.span("checkpoint"):
        checkpoint.save(run.accelerator, run.folder / "checkpoints", run.update, state, snapshot)
    run.saved = run.update


def _last_weights(run: Run) -> tuple[str, list[str]]:
    """Hash the weights as they were judged, and keep them if that is wanted. A collective.

    Returns:
        The hash on rank 0, and what to note in the result.
    """
    run.optimizer.eval()
    with _batch_statistics(run):
        state, notes = run.accelerator.get_state_dict(run.model), []
        sha = weights_sha(state) if run.accelerator.is_main_process else ""
        if sha and run.config.keep_weights and not run.diverged:
            try:
                checkpoint.keep_weights(state, run.folder / WEIGHTS)
            except OSError as error:  # hours of training are not lost to a full disk
                notes = [f"the weights could not be kept: {error}"]
    run.optimizer.train()
    return sha, notes


def _resume(run: Run) -> None:
    """Open the records and continue from the newest checkpoint, if there is one."""
    accelerator = run.accelerator
    found = [checkpoint.latest(run.folder / "checkpoints") if accelerator.is_main_process else None]
    broadcast_object_list(found)
    path, state = found[0] or (None, {"update": 0})
    run.record = Recorder(run.folder, accelerator, run.config, run.budget, state["update"])
    if path is None:
        facts, decision = run.lr.facts.to_json(), decision_to_json(run.lr.decision)
        run.record.event("start", 0, epoch=0.0, facts=facts, **decision)
        return
    _check_world_size(run, path, state["world_size"])
    snapshot = checkpoint.load(accelerator, path)
    run.update = run.saved = state["update"]
    try:
        run.lr.load_state_dict({**state["lr"], "snapshot": snapshot})
    except ValueError as error:
        raise RunError(f"{path} cannot be continued: {error}; --fresh starts over") from error
    run.rollbacks = state["rollbacks"]
    run.initial_weights_sha = state["initial_weights_sha"]
    run.nonfinite_readings = state["nonfinite_readings"]
    run.last_metrics = state["last_metrics"]
    run.record.stopwatch = Stopwatch(state["stopwatch"])
    run.record.event("resume", run.update, world_size=accelerator.num_processes)


def _check_world_size(run: Run, path: Path, saved: int) -> None:
    if run.accelerator.distributed_type == DistributedType.DEEPSPEED and saved != run.shares.ranks:
        raise RunError(
            f"{path} is of {saved} ranks, these are {run.shares.ranks}: DeepSpeed's checkpoints "
            f"continue on as many as wrote them; use {saved}, or --fresh to start over"
        )


def _result(run: Run) -> dict[str, Any]:
    """Touch the test split once and put the result together."""
    config, accelerator = run.config, run.accelerator
    train_seconds = run.record.stopwatch.train_seconds
    target = parse_target(config.target)
    sha, notes = _last_weights(run)
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
        "sees": config.sees,
        "seed": config.seed,
        "arm": config.arm,
        "init": config.recipe.init,
        "updates": run.update,
        "epoch": run.epoch,
        "samples": {name: len(getattr(run.splits, name)) for name in SPLITS},
        "world_size": accelerator.num_processes,
        "micro_batch": run.shares.micro_batch,
        "precision": config.recipe.precision,
        "metrics": metrics,
        "timing": {"train_seconds": train_seconds, **run.record.stopwatch.spans()},
        "initial_weights_sha": run.initial_weights_sha,
        "batch_order_sha": run.plan.sha(run.update),
        "final_weights_sha": sha,
        "rollbacks": run.rollbacks,
        "snapshots": run.snapshots(),
        "notes": [*run.notes, *notes],
        "versions": versions(),
        "machine": machine(),
        "code": code()._asdict(),
        "device": str(accelerator.device.type),
        "argv": sys.argv,
    }


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
