"""The only training loop of the toolkit: fit a run, and evaluate it.

::

    run = build(config)        # toolkit.training.build
    result = fit(run)
    release(run)

Everything here is done by all ranks alike: each calls these functions, in the same order. What a
run is made of, how it is saved and how it is evaluated have files of their own; the loop knows no
schedule, task, optimizer or launcher by name.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext

from accelerate.state import AcceleratorState
from torch import Tensor

from toolkit.config import schedule_name
from toolkit.errors import RunError, error_text, outcome
from toolkit.predictions import Predictions
from toolkit.records.result import Result
from toolkit.scales import LOSS, headline_first, scale_of
from toolkit.schedules.reading import NO_ACTION, Decision
from toolkit.signals import stop_on_signal
from toolkit.task import Batch, Split
from toolkit.training import checkpoint, checkpoint_folder, divergence
from toolkit.training.batches import training_batches
from toolkit.training.evaluation import (
    evaluation_mode,
    in_order,
    metrics_of,
    note_missing,
    outputs_of,
    save_predictions,
    validation_reading,
)
from toolkit.training.extension import before_anneal_due
from toolkit.training.gathering import Gathering
from toolkit.training.outcome import last_weights, result_of
from toolkit.training.ranks import check_same_rates, from_rank_zero, mean_items
from toolkit.training.run import Run
from toolkit.training.watch import watched
from toolkit.training.workers import told


def fit(run: Run) -> Result | None:
    """Train to the end of the budget, or go on with an unfinished run.

    Asked to stop, by a signal or ``Run.ask_to_stop``, it saves at the next reading and stops; in an
    evaluation it stops as soon as the ranks know (``gathering``), to make that when it goes on.

    Returns:
        The result, as written to ``result.json``; None if it was asked to stop: then the same
        command continues the run.

    Raises:
        RunError: if the run cannot be carried out.
    """
    with stop_on_signal():
        checkpoint.start_or_resume(run)
        with run.record.closed_on_error(), watched(run):
            run.record.status("running", run.update)
            _train(run)
            result = _result(run) if run.diverged or not run.stop_agreed else None
            _end(run, result)
    return result


def _end(run: Run, result: Result | None) -> None:
    """Write down what the run has come to; None if it is to be continued."""
    if result is None:
        run.record.status("preempted", run.update)
        run.record.close_files()
        return
    _check_folder(run)
    run.record.finish(result)
    run.record.status(result.status, run.update)
    if run.accelerator.is_main_process:
        checkpoint_folder.finish_run(run.folder, run.config, run.diverged)


def evaluate(run: Run, split: str, stoppable: bool = False) -> dict[str, float | None] | None:
    """The metrics of ``validation`` or ``test``, over all ranks; empty on every rank but 0.

    One that is not a finite number is None; that is said, and noted for the result.

    Args:
        run: whose weights are evaluated.
        split: ``validation`` or ``test``.
        stoppable: end in the middle if any rank is asked to stop; the run's ranks have agreed to
            stop then.

    Returns:
        None if it was ended in the middle.

    Raises:
        RunError: on every rank, if the task's metrics raise an error on rank 0, or are no numbers.
    """
    gathering, names = Gathering(run.accelerator), ()
    with run.record.span("evaluation"), evaluation_mode(run):
        for batch in told(run.evaluation_loaders[split]):
            names, outputs = zip(*outputs_of(run.task, run.model, batch).items(), strict=True)
            run.steps += 1
            if gathering.add(outputs, stoppable and run.stop_wanted):
                run.stop_agreed = True
                return None
        metrics: dict[str, float | None] = {}
        fault, error = "", None
        if run.accelerator.is_main_process:
            metrics, fault, error = _judged(run, split, names, gathering.outputs)
        if fault := from_rank_zero(fault):
            raise RunError(fault) from error
        if split == "validation":
            run.selection.consider(run, metrics)
    note_missing(run, split, metrics)
    falling = [name for name in metrics if not scale_of(run.scales, name).higher_is_better]
    run.record.evaluation(split, run.update, run.epoch, metrics, falling)
    return metrics


def _judged(
    run: Run, split: str, names: Sequence[str], gathered: Sequence[Sequence[Tensor]]
) -> tuple[dict[str, float | None], str, Exception | None]:
    """The task's metrics; those of the test split are saved with the predictions, if asked for.

    Returns:
        The metrics; and what failed, in words and as it was raised: the other ranks wait to hear of
        it.
    """
    data: Split = getattr(run.splits, split)
    saves = run.config.save_predictions

    def judged() -> tuple[Predictions, dict[str, float | None]]:
        predictions = in_order(names, gathered, len(data) if saves else None)
        found = metrics_of(run.task, predictions, data)
        first = next(iter(run.scales), None)
        # A task may be another's with metrics of its own; the loss it still has says nothing.
        own = first not in found and not (found.keys() & run.scales.keys()) - {LOSS}
        as_found = own and run.config.recipe.metric is None
        return predictions, headline_first(found, None if as_found else first)

    both, error = outcome(judged)
    if both is None:
        return {}, f"the metrics of the split {split} failed: {error_text(error)}", error
    predictions, metrics = both
    if saves and split == "test":
        _, error = outcome(lambda: save_predictions(run, predictions))
        if error is not None:
            what = "the predictions of the test split could not be written"
            return {}, f"{what}: {error_text(error)}", error
    return metrics, "", None


def make_update(run: Run, batches: "Iterator[Batch]") -> None:
    """One optimizer update over its micro-batches, the next of ``batches``."""
    accelerator, record, clip = run.accelerator, run.record, run.config.recipe.clip
    with record.span("data"):
        window = [next(batches) for _ in range(run.batch_split.accumulation)]
    divisor = mean_items(run, window)
    # Of a single micro-batch the gradients are synchronised anyhow.
    of_update = accelerator.accumulate if len(window) > 1 else nullcontext
    for batch in window:
        with of_update(run.model):
            with record.span("forward_backward"):
                total, count = run.loss(run.model, batch)
                # backward divides by the number of micro-batches, and averages over the ranks.
                accelerator.backward(total / (count if divisor is None else divisor))
                run.meter.add(total, count)
            # But for the last micro-batch these do nothing; under DeepSpeed they never do, for its
            # backward has made the update by now.
            with record.span("optimizer"):
                if clip is not None and accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(run.model.parameters(), clip)
                    run.grad_norm = math.nan if norm is None else norm
                run.optimizer.step()
                run.optimizer.zero_grad()
    run.lr.attempted()
    run.update += 1
    run.steps += 1
    for hook in run.after_update:
        hook(run)


def release(run: Run) -> None:
    """Free the run's memory, so that another can follow in the same process."""
    run.record.close()
    run.evaluation_loaders.clear()
    run.accelerator.free_memory(run.model, run.optimizer)  # collects garbage, too
    run.accelerator.wait_for_everyone()
    AcceleratorState._reset_state()  # the next run may have another precision


def _train(run: Run) -> None:
    """Update until the budget or the patience is spent, the run has diverged, or the ranks have
    agreed to stop."""
    batches = training_batches(run)
    run.model.train()
    run.optimizer.train()
    if run.evaluation_due:  # the run was stopped before it
        _validate(run, stoppable=True)
        run.selection.stop_if_due(run, reading_due=True)  # it goes on from one
    while _goes_on(run):
        make_update(run, batches)
        last = run.update == run.budget
        # At a reading the meter is empty: nothing of it is lost with the process.
        reading_due = last or run.lr.searching or run.update % run.config.read_every == 0
        if reading_due and _read(run).action in ("trial", "restore"):
            batches = training_batches(run)  # a trial has the first ones; after it they go on
        if run.evaluation_due and run.config.sees != "training":
            _read_validation(run)
        run.lr.step()
        if run.evaluation_due and not run.stop_agreed:
            _validate(run, stoppable=reading_due)
        run.selection.stop_if_due(run, reading_due)
        if reading_due and not run.diverged and before_anneal_due(run):
            _check_folder(run)
            checkpoint.keep_before_anneal(run)
        if reading_due and not run.diverged and (run.stop_agreed or run.checkpoint_due):
            _check_folder(run)
            checkpoint.save(run)


def _goes_on(run: Run) -> bool:
    over = run.update == run.budget or run.selection.stopped
    return not (over or run.diverged or run.stop_agreed)


def _validate(run: Run, stoppable: bool) -> None:
    """Evaluate on the validation split, unless the ranks agree to stop meanwhile.

    Args:
        run: at an update whose weights are to be evaluated.
        stoppable: whether a checkpoint can be written now.
    """
    _check_folder(run)
    check_same_rates(run)
    # Swapping the weights that are evaluated in and out rounds them: made twice, the run would not
    # go on as if uninterrupted.
    stoppable = stoppable and not run.evaluates_other_weights
    metrics = evaluate(run, "validation", stoppable)
    if metrics is not None:
        run.last_metrics["validation"] = metrics
        run.evaluated = run.update


def _read(run: Run) -> Decision:
    """Reduce the loss since the last reading, and let the schedule decide on it.

    The numbers are the same on every rank, so the decisions are. They have their effect on the LR
    with the next ``lr.step``: what is recorded is the LR of the update that was just made.
    """
    with run.record.span("reading"):
        reading, asked = run.meter.read(run.update, run.epoch, run.stop_wanted, run.overdue)
        run.stop_agreed, run.save_agreed = asked
        decision = run.lr.observe(reading) if run.config.sees != "validation" else NO_ACTION
    divergence.note_reading(run, reading.nonfinite, decision.action == "rollback")
    if decision.action == "restore":
        run.search_seconds = run.record.stopwatch.train_seconds
    # The device has been waited for: the norm is there.
    run.record.reading(reading, decision, run.lr.used, run.lr.factor, float(run.grad_norm))
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


def _result(run: Run) -> Result | None:
    """Touch the test split once and put the result together; None if asked to stop meanwhile."""
    train_seconds = run.record.stopwatch.train_seconds
    sha, notes = last_weights(run)
    # Without checkpoints there is nothing to make a stopped evaluation from.
    stoppable = run.saved_at == run.update
    test = {} if run.diverged else evaluate(run, "test", stoppable)
    return None if test is None else result_of(run, train_seconds, sha, notes, test)
