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
from collections.abc import Iterator
from typing import Any

import torch
from accelerate.state import AcceleratorState

from toolkit.config import schedule_name
from toolkit.errors import RunError, error_text
from toolkit.process import stop_on_signal
from toolkit.records.result import Result
from toolkit.schedules.reading import NO_ACTION, Decision
from toolkit.task import Batch, Split
from toolkit.training import checkpoint, checkpoint_folder, divergence
from toolkit.training.batches import training_batches
from toolkit.training.build import Run
from toolkit.training.evaluation import evaluation_mode, validation_reading
from toolkit.training.outcome import last_weights, result_of
from toolkit.training.ranks import check_same_rates, from_rank_zero, mean_items


def fit(run: Run) -> Result | None:
    """Train to the end of the budget, or go on with an unfinished run.

    Returns:
        The result, as written to ``result.json``; None if the process was asked to stop: then the
        same command continues the run.

    Raises:
        RunError: if the run cannot be carried out.
    """
    with stop_on_signal(run.ask_to_stop):
        checkpoint.start_or_resume(run)
        run.record.status("running", run.update)
        _train(run)
    if run.update < run.budget and not run.diverged:
        run.record.status("preempted", run.update)
        run.record.close()
        return None
    result = _result(run)
    _check_folder(run)
    run.record.finish(result)
    run.record.status(result.status, run.update)
    if run.accelerator.is_main_process:
        checkpoint_folder.finish(run.folder, run.config.keep_weights and not run.diverged)
    return result


def evaluate(run: Run, split: str) -> dict[str, float]:
    """The metrics of ``validation`` or ``test``, over all ranks; empty on every rank but 0.

    Raises:
        RunError: on every rank, if the task's metrics raise an error on rank 0.
    """
    data: Split = getattr(run.splits, split)
    gathered = []
    with run.record.span("evaluation"), evaluation_mode(run):
        for batch in run.evaluation_loaders[split]:
            outputs = run.task.predict(run.model, batch)
            # Each rank had batches of its own; the last round may have filled up with repetitions,
            # which this leaves out.
            gathered.append([part.cpu() for part in run.accelerator.gather_for_metrics(outputs)])
        metrics: dict[str, float] = {}
        error: Exception | None = None
        if run.accelerator.is_main_process:
            predictions, labels = (
                torch.cat(parts).numpy() for parts in zip(*gathered, strict=True)
            )
            metrics, error = _metrics(run, data, predictions, labels)
        if fault := from_rank_zero("" if error is None else error_text(error)):
            raise RunError(f"the metrics of the split {split} failed: {fault}") from error
    run.record.evaluation(split, run.update, run.epoch, metrics)
    return metrics


def _metrics(
    run: Run, data: Split, predictions: Any, labels: Any
) -> tuple[dict[str, float], Exception | None]:
    """The task's metrics, or what they failed with: the other ranks wait to hear of it."""
    try:
        return run.task.metrics(predictions, labels, data), None
    except Exception as error:
        return {}, error


def make_update(run: Run, batches: "Iterator[Batch]") -> None:
    """One optimizer update over its micro-batches, the next of ``batches``."""
    accelerator, record, clip = run.accelerator, run.record, run.config.recipe.clip
    with record.span("data"):
        window = [next(batches) for _ in range(run.batch_split.accumulation)]
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
        if evaluation_due and run.config.sees != "training" and not run.lr.searching:
            _read_validation(run)
        run.lr.step()
        if run.lr.searching:  # its weights are on trial: neither to be evaluated nor to be kept
            continue
        if evaluation_due:
            _check_folder(run)
            check_same_rates(run)
            run.last_metrics["validation"] = evaluate(run, "validation")
        # At a reading the meter is empty: nothing of it is lost with the process.
        if reading_due and not last and (run.stop_agreed or run.checkpoint_due):
            _check_folder(run)
            checkpoint.save(run)


def _read(run: Run) -> Decision:
    """Reduce the loss since the last reading, and let the schedule decide on it.

    The numbers are the same on every rank, so the decisions are. They have their effect on the LR
    with the next ``lr.step``: what is recorded is the LR of the update that was just made.
    """
    with run.record.span("reading"):
        reading, run.stop_agreed = run.meter.read(run.update, run.epoch, run.stop_asked)
        decision = run.lr.observe(reading) if run.config.sees != "validation" else NO_ACTION
    divergence.note_reading(run, reading.nonfinite, decision.action == "rollback")
    if decision.action == "restore":
        run.search_seconds = run.record.stopwatch.train_seconds
    run.record.check_files()
    run.record.reading(reading, decision, run.lr.used, run.lr.factor)
    return decision


def _check_folder(run: Run) -> None:
    """Before anything of weight is written: the run's folder is there, and still this run's.

    Raises:
        RunError: if it was removed.
    """
    run.check_claim()
    run.record.check_files()


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


def _result(run: Run) -> Result:
    """Touch the test split once and put the result together."""
    train_seconds = run.record.stopwatch.train_seconds
    sha, notes = last_weights(run)
    test = {} if run.diverged else evaluate(run, "test")
    return result_of(run, train_seconds, sha, notes, test)
