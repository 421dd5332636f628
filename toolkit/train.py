"""Train one run: ``[accelerate launch ...] -m toolkit.train TARGET [flags] [schedule:NAME ...]``.

The same command continues an unfinished run and prints the result of a finished one; ``--fresh``
starts over. Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 75 pre-empted.
"""

import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from toolkit.config import RunConfig, parse, resolve, run_folder
from toolkit.errors import MissingDataError, RunError, error_text
from toolkit.identity import with_fingerprint
from toolkit.process import (
    DONE,
    PREEMPTED,
    is_rank_zero,
    leave_process_group,
    run_command,
    set_threads,
)
from toolkit.records.config_file import check_folder, folders_of_any_data
from toolkit.records.result import RESULT, Result, read_result


def main(
    argv: Sequence[str] | None = None, after_update: Sequence[Callable[[Any], None]] = ()
) -> int:
    """Run the command line and return its exit code; for ``after_update`` see ``train``."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    fresh = "--fresh" in arguments

    def command() -> int:
        asked = parse([argument for argument in arguments if argument != "--fresh"])
        try:
            config = with_fingerprint(resolve(asked))
        except MissingDataError as error:
            if fresh:
                raise
            return _show_without_data(asked, error)
        return train(config, fresh, after_update)

    return run_command(command)


def train(
    config: RunConfig, fresh: bool = False, after_update: Sequence[Callable[[Any], None]] = ()
) -> int:
    """Train a resolved configuration, or show its result, and return the exit code.

    Args:
        config: the run.
        fresh: start over, whatever is in the run's folder.
        after_update: called with the run after each optimizer update, on every rank.

    Raises:
        ConfigError: if it cannot be carried out.
        RunError: if it went wrong, with the reason.
    """
    config = with_fingerprint(config)
    folder = run_folder(config)
    if fresh and is_rank_zero():  # the other ranks neither read nor write there
        shutil.rmtree(folder, ignore_errors=True)
    if not fresh:
        check_folder(folder, config)
        if (folder / RESULT).exists():
            if is_rank_zero():  # a kill may have come between the result and their end
                shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            _show(read_result(folder), folder)
            return DONE
    set_threads()
    from toolkit.training import loop
    from toolkit.training.build import build

    run = build(config)
    run.after_update.extend(after_update)
    if is_rank_zero():
        _announce(run)
    try:
        result = loop.fit(run)
    except Exception as error:
        raise _failure(error, folder, run.update, run.accelerator.process_index) from error
    updates = run.update
    loop.release(run)
    del run
    leave_process_group()
    if result is None:
        if is_rank_zero():
            print(f"stopped after update {updates}: the same command continues")
        return PREEMPTED
    _show(result, folder)
    return DONE


def _failure(error: Exception, folder: Path, update: int, rank: int) -> RunError:
    """Write down what ended the run, and say it in one line."""
    from toolkit.records.recorder import write_status

    folder.mkdir(parents=True, exist_ok=True)
    if rank == 0:
        write_status(folder, "failed", update)
    if isinstance(error, RunError):
        return error
    log = folder / f"error-{rank}.log"
    log.write_text(traceback.format_exc())
    text = f"{error_text(error)}; see {log}"
    if rank > 0:  # it may be the only one that failed
        print(f"error on rank {rank}: {text}", file=sys.stderr)
    return RunError(text)


def _announce(run: Any) -> None:
    import torch

    recipe, split, threads = run.config.recipe, run.batch_split, torch.get_num_threads()
    print(
        f"{run.config.target}: {run.budget} updates of {recipe.global_batch} = {split.ranks} "
        f"ranks x {split.accumulation} micro-batches x {split.micro_batch}, {recipe.precision} "
        f"on {run.accelerator.device.type}, threads a rank: {threads}; {run.folder}",
        *(f"note: {note}" for note in run.notes),
        sep="\n",
        flush=True,
    )


def _show_without_data(config: RunConfig, missing: MissingDataError) -> int:
    """Show what this command came to when its data were here; several results if of several data.

    Raises:
        MissingDataError: what was given, if there is no result.
    """
    finished = [one for one in folders_of_any_data(config) if (one / RESULT).exists()]
    if not finished:
        raise missing
    for folder in finished:
        result = read_result(folder)
        if is_rank_zero():
            print(f"the data are not here; this is the result of {result.data or 'unknown data'}")
        _show(result, folder)
    return DONE


def _show(result: Result, folder: Path) -> None:
    if not is_rank_zero():
        return
    test = ", ".join(f"{name} {value:.2f}" for name, value in result.metrics.test.items())
    print(
        f"{result.status}: {test or 'no test metric'} on test after {result.updates} "
        f"updates in {result.timing.train_seconds:.1f} s of training; {folder / RESULT}",
        flush=True,
    )


if __name__ == "__main__":
    raise SystemExit(main())
