"""The only training loop of the toolkit: fit a run, and evaluate it.

::

    run = build(config)        # toolkit.training.build
    result = fit(run)
    release(run)

Everything here is done by all ranks alike: each calls these functions, in the same order. What a
run is made of, how it is saved and how it is evaluated have files of their own; the loop knows no
schedule, task, optimizer or launcher by name.
"""

import gc
import math
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.state import AcceleratorState

from toolkit.config import schedule_name, to_json
from toolkit.errors import RunError
from toolkit.records.provenance import code, machine, versions
from toolkit.schedules.reading import HOLD, Decision
from toolkit.task import Batch, Split, parse_target
from toolkit.training import checkpoint
from toolkit.training.batches import training_batches
from toolkit.training.build import Run
from toolkit.training.evaluation import evaluation_mode, validation_reading
from toolkit.training.outcome import last_weights
from toolkit.training.ranks import check_same_rates, mean_items

SPLITS = ("train", "validation", "test")


def fit(run: Run) -> dict[str, Any]:
    """Train to the end of the budget, or go on with an unfinished run.

    Returns:
        The result, as written to ``result.json``; with status ``preempted``, which is not
        written, if the process was asked to stop.

    Raises:
        RunError: if the run cannot be carried out.
    """
    checkpoint.start_or_resume(run)
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
    with run.record.span("evaluation"), evaluation_mode(run):
        for batch in run.evaluation_loaders[split]:
            outputs = run.task.predict(run.model, batch)
            # Each rank had batches of its own; the last round may have filled up with repetitions,
            # which this leaves out.
            gathered.append([part.cpu() for part in run.accelerator.gather_for_metrics(outputs)])
        metrics = {}
        if run.accelerator.is_main_process:
            predictions, labels = (
                torch.cat(parts).numpy() for parts in zip(*gathered, strict=True)
            )
            metrics = run.task.metrics(predictions, labels, data)
    run.record.evaluation(split, run.update, run.epoch, metrics)
    return metrics


def make_update(run: Run, batches: "Iterator[Batch]") -> None:
    """One optimizer update over its micro-batches, the next of ``batches``."""
    accelerator, record, clip = run.accelerator, run.record, run.config.recipe.clip
    with record.span("data"):
        window = [next(batches) for _ in range(run.shares.accumulation)]
    divisor = mean_items(run, window)
    for batch in window:
        with accelerator.accumulate(run.model):
            with record.span("forward_backward"):
                total, count = run.task.loss(run.model, batch)
                # backward divides by the number of micro-batches, and averages over the ranks.
                accelerator.backward(total / (count if divisor is None else divisor))
                run.meter.add(total.detach(), count)
            # But for the last micro-batch these do nothing; under DeepSpeed they never do, for its
            # backward has made the update by now.
            with record.span("optimizer"):
                if clip is not None and accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(run.model.parameters(), clip)
                run.optimizer.step()
                run.optimizer.zero_grad()
    run.update += 1
    for hook in run.after_update:
        hook(run)


def release(run: Run) -> None:
    """Free the run's memory, so that another can follow in the same process."""
    run.record.close()
    run.accelerator.free_memory(run.model, run.optimizer)
    run.evaluation_loaders.clear()
    gc.collect()
    run.accelerator.wait_for_everyone()
    AcceleratorState._reset_state()  # the next run may have another precision


def _train(run: Run) -> None:
    """Update until the budget is spent, the run has diverged, or the ranks have agreed to stop."""
    batches = training_batches(run)
    run.model.train()
    run.optimizer.train()
    while run.update < run.budget and not run.diverged and not run.stop_agreed:
        make_update(run, batches)
        last = run.update == run.budget
        reading_due = last or run.lr.searching or run.update % run.config.read_every == 0
        evaluation_due = last or run.update % run.eval_every == 0
        if reading_due and _read(run).action in ("trial", "restore"):
            batches = training_batches(run)  # a trial has the first ones; after it they go on
        if evaluation_due and run.config.sees == "validation":
            _read_validation(run)
        run.lr.step()
        if run.lr.searching:  # its weights are on trial: neither to be evaluated nor to be kept
            continue
        if evaluation_due:
            check_same_rates(run)
            run.last_metrics["validation"] = evaluate(run, "validation")
        # At a reading the meter is empty: nothing of it is lost with the process.
        if reading_due and not last and (run.stop_agreed or run.checkpoint_due):
            checkpoint.save(run)


def _read(run: Run) -> Decision:
    """Reduce the loss since the last reading, and let the schedule decide on it.

    The numbers are the same on every rank, so the decisions are. They have their effect on the LR
    with the next ``lr.step``: what is recorded is the LR of the update that was just made.
    """
    with run.record.span("reading"):
        reading, run.stop_agreed = run.meter.read(run.update, run.epoch, run.stop_asked)
        decision = run.lr.observe(reading) if run.config.sees == "training" else HOLD
    run.nonfinite_readings = 0 if math.isfinite(reading.loss) else run.nonfinite_readings + 1
    run.rollbacks += decision.action == "rollback"
    run.record.reading(reading, decision, run.lr.used, run.lr.factor)
    return decision


def _read_validation(run: Run) -> None:
    """Let the schedule decide on the mean loss of the validation split."""
    reading = validation_reading(run)
    decision = run.lr.observe(reading)
    if decision.action not in ("hold", "raise", "cut", "anneal"):
        raise RunError(
            f"{schedule_name(run.config.schedule)} asks for '{decision.action}' at update "
            f"{run.update}: a schedule that sees validation losses sets the LR, and no more"
        )
    run.record.validation_reading(reading, decision, run.lr.used, run.lr.factor)


def _result(run: Run) -> dict[str, Any]:
    """Touch the test split once and put the result together."""
    config, accelerator = run.config, run.accelerator
    train_seconds = run.record.stopwatch.train_seconds
    target = parse_target(config.target)
    sha, notes = last_weights(run)
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
