"""Train one run: ``[accelerate launch ...] -m toolkit.train TARGET [SCHEDULE] [flags]``.

The same command continues an unfinished run and prints the result of a finished one; ``--fresh``
starts over. Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 75 pre-empted, 130
interrupted by Ctrl-C. Where a launcher hides them, ``state.json`` in the run's folder says so.
"""

import os
import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

from toolkit.config import (
    RUNS,
    RunConfig,
    parent_of,
    parse_command,
    resolve,
    run_folder,
    run_id,
    schedule_name,
)
from toolkit.errors import ConfigError, MissingDataError, RunError, error_text, outcome
from toolkit.identity import with_fingerprint
from toolkit.process import (
    DONE,
    PREEMPTED,
    is_rank_zero,
    leave_process_group,
    run_command,
    set_threads,
    world_size,
)
from toolkit.records.config_file import check_folder, folders_of_any_data
from toolkit.records.console import CONSOLE, beside, came_to, keep, kept, say
from toolkit.records.prediction_file import PREDICTIONS
from toolkit.records.result import RESULT, Result, read_result
from toolkit.signals import stop_on_signal
from toolkit.studies import claims
from toolkit.studies.claims import Hold
from toolkit.training.checkpoint_folder import CHECKPOINTS, KEPT, finish_run, has_any
from toolkit.training.checkpoint_folder import say as warn
from toolkit.training.extension import kept_by_parent
from toolkit.words import counted

STOPPED = "TOOLKIT_STOPPED"
"""Names a file that a run leaves if it was stopped and can go on, for job scripts: a launcher makes
exit code 1 of that as of a failure."""
WITHOUT = "it diverged, or was finished without --save-predictions; --fresh makes it once more"


def main(
    argv: Sequence[str] | None = None, after_update: Sequence[Callable[[Any], None]] = ()
) -> int:
    """Run the command line and return its exit code; for ``after_update`` see ``train``."""
    arguments = sys.argv[1:] if argv is None else argv

    def command() -> int:
        asked, fresh, runs = parse_command(arguments)
        try:
            config = with_fingerprint(resolve(asked))
        except MissingDataError as error:
            if fresh:
                raise
            return _show_without_data(asked, error, runs)
        return train(config, fresh, after_update, runs)

    with stop_on_signal() as asked:
        code = asked.exit_code(run_command(command))
    if code == PREEMPTED and is_rank_zero() and (file := os.environ.get(STOPPED)):
        return run_command(lambda: _leave(Path(file)))
    return code


def _leave(file: Path) -> int:
    """Leave the file that says that the run was stopped and can go on; returns the exit code."""
    file.touch()
    return PREEMPTED


def train(
    config: RunConfig,
    fresh: bool = False,
    after_update: Sequence[Callable[[Any], None]] = (),
    runs: Path = RUNS,
) -> int:
    """Train a resolved configuration, or show its result, and return the exit code.

    Args:
        config: the run.
        fresh: start over, whatever is in the run's folder.
        after_update: called with the run after each optimizer update, on every rank.
        runs: the folder that holds the folders of studies.

    Raises:
        ConfigError: if it cannot be carried out.
        RunError: if it went wrong, with the reason.
    """
    config = with_fingerprint(config)
    folder = run_folder(config, runs)
    decide: Callable[[Callable[[], bool]], bool] = _alone
    if world_size() > 1:
        from toolkit.training.ranks import agreed, meet_ranks

        set_threads()
        meet_ranks(config.rank_timeout)
        decide = agreed
    with ExitStack() as stack:
        stack.push(partial(_leave_no_trace, folder))
        holds: list[Hold] = []  # of rank 0, which claims for all
        if decide(lambda: _begin(config, folder, fresh, stack, holds)):
            if is_rank_zero():
                stack.enter_context(kept(folder / CONSOLE))
            code = _fit(config, folder, after_update, holds)
        else:
            code = DONE
            if is_rank_zero():
                result = read_result(folder)
                _show(result, folder)
                if config.save_predictions and not (folder / PREDICTIONS).exists():
                    say(f"note: {folder} has no {PREDICTIONS}: {WITHOUT}")
                # A kill may have come between the result and the end of the checkpoints.
                finish_run(folder, config, result.diverged)
                keeps = config.keep_last_checkpoint or config.keep_before_anneal
                if keeps and not (folder / KEPT).exists():
                    say(f"note: {folder} has kept nothing to extend: --fresh makes it once more")
        for hold in holds:
            hold.finished = code == DONE
    leave_process_group()
    return code


def _leave_no_trace(folder: Path, kind: type[BaseException] | None, *_: object) -> None:
    """Remove the folder of a run that cannot be carried out, if a claim is all that it holds."""
    refused = kind is not None and issubclass(kind, ConfigError)
    if not (refused and is_rank_zero() and folder.is_dir()):
        return
    if all(claims.NAME.fullmatch(path.name) for path in folder.iterdir()):
        claims.forget(folder)
        with suppress(OSError):  # a folder above that holds other runs
            for empty in (folder, folder.parent, folder.parent.parent):
                empty.rmdir()


def _alone(decide: Callable[[], bool]) -> bool:
    """What a process decides that has no other ranks to tell, and need not load what tells them."""
    return decide()


def _begin(
    config: RunConfig, folder: Path, fresh: bool, stack: ExitStack, holds: list[Hold]
) -> bool:
    """Claim the run for as long as the stack lasts; whether there is anything to train.

    Raises:
        ConfigError: if the folder cannot be used, or cannot be emptied for ``--fresh``; or if there
            is nothing that it could extend.
        RunError: if another process is at this run.
    """
    if fresh and folder.is_symlink():
        raise ConfigError(f"--fresh: {folder} is a link, which is not followed: remove it yourself")
    if not fresh:
        check_folder(folder, config)
        if _is_whole(folder):
            return False
    if config.extend and (fresh or not has_any(folder / CHECKPOINTS)):
        kept_by_parent(config, folder.parents[1])
    holds.append(stack.enter_context(claims.wait_and_take(folder)))
    if fresh:
        _empty(folder)
    return _finished(folder) is None  # whoever had the run may have finished it


def _empty(folder: Path) -> None:
    """Remove what earlier attempts left in a run's folder; the claims stay.

    Raises:
        ConfigError: if something cannot be removed, naming it.
    """
    for path in sorted(folder.iterdir()):
        if claims.NAME.fullmatch(path.name):
            continue
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        except OSError as error:
            raise ConfigError(
                f"--fresh: {error.filename or path} cannot be removed: {error.strerror or error}"
            ) from error


def _fit(
    config: RunConfig,
    folder: Path,
    after_update: Sequence[Callable[[Any], None]],
    holds: Sequence[Hold],
) -> int:
    set_threads()
    from toolkit.training import loop
    from toolkit.training.build import build

    run = build(config, folder.parents[1])
    run.after_update.extend(after_update)
    for hold in holds:
        run.check_claim = hold.check
    if is_rank_zero():
        _announce(run)
    result, error = outcome(lambda: loop.fit(run))
    if error is not None:
        raise _failure(error, folder, run.update, run.accelerator.process_index) from error
    if result is not None:
        _show(result, folder)
    elif is_rank_zero():
        say(f"stopped after update {run.update}: the same command continues")
    loop.release(run)  # the mirrors send what was said so far, and end
    return PREEMPTED if result is None else DONE


def _is_whole(folder: Path) -> bool:
    """Whether a run's folder has a result that can be read."""
    try:
        return (folder / RESULT).exists() and bool(read_result(folder))
    except ConfigError:
        return False


def _finished(folder: Path) -> Result | None:
    """The result of a run; None if the run is to go on. Rank 0 alone asks.

    That is so, too, if the result is broken and there is a checkpoint: the file is set aside.

    Raises:
        ConfigError: for a broken result without a checkpoint.
    """
    file, checkpoints = folder / RESULT, folder / CHECKPOINTS
    try:
        return read_result(folder) if file.exists() else None
    except ConfigError:
        if not has_any(checkpoints):
            raise
        aside = file.with_name(f"damaged-{RESULT}")
        file.replace(aside)
        warn(
            checkpoints,
            f"{file} is broken: kept as {aside.name}, going on from the run's checkpoint",
        )
        return None


def _failure(error: Exception, folder: Path, update: int, rank: int) -> RunError:
    """Write down what ended the run, and say it in one line."""
    from toolkit.records.recorder import removed, write_status

    if not folder.exists():  # whichever write noticed it, nothing is written in its place
        return error if isinstance(error, RunError) else removed(folder)
    if rank == 0:
        write_status(folder, "failed", update)
    if isinstance(error, RunError) and error.__cause__ is None:
        keep(f"error: {error}")
        return error
    log = folder / f"error-{rank}.log"
    log.write_text("".join(traceback.format_exception(error)), errors="backslashreplace")
    text = f"{error if isinstance(error, RunError) else error_text(error)}; see {log}"
    if rank > 0:  # it may be the only one that failed
        print(f"error on rank {rank}: {text}", file=sys.stderr)
    keep(f"error: {text}")
    return RunError(text)


def _announce(run: Any) -> None:
    """Say what is trained, on what, how and where."""
    import torch

    from toolkit.records.mirror_handle import mirrored_to, uploaded_to
    from toolkit.training import manifest
    from toolkit.training.outcome import SPLITS
    from toolkit.training.ranks import launch_of

    config, recipe, split = run.config, run.config.recipe, run.batch_split
    sizes = ", ".join(f"{name} {len(getattr(run.splits, name)):,}" for name in SPLITS)
    epochs = run.budget / run.batch_plan.updates_per_epoch
    threads = counted(torch.get_num_threads(), "thread")
    some = run.trained_parameters < run.parameters
    trained = f", {run.trained_parameters:,} of them trained" * some
    if (rank := getattr(recipe, "lora_rank", None)) is not None:
        trained += f" (LoRA of rank {rank})"
    launch, also = launch_of(run.accelerator), beside(recipe)
    shared = f"{manifest.name_of(launch)}, " * (launch != manifest.DDP)
    start, name, parent = run.lr.decision, schedule_name(config.schedule), parent_of(config)
    say(
        f"{config.target}, seed {config.seed}: {name} from base LR "
        f"{recipe.lr:g}, {recipe.optimizer}{uploaded_to(config)}",
        f"  samples: {sizes}",
        f"  model: {run.parameters:,} parameters{trained}, {recipe.init} first weights",
        f"  budget: {epochs:.3g} epoch{'s' * (epochs != 1)}, {counted(run.budget, 'update')} of "
        f"{recipe.global_batch} samples = "
        f"{counted(split.ranks, 'rank')} x {counted(split.accumulation, 'micro-batch')} x "
        f"{split.micro_batch}",
        *([f"  with: {', '.join(also)}"] if also else []),
        f"  on: {run.accelerator.device.type}, {recipe.precision}, {shared}{threads} a rank",
        f"  in: {run.folder}, {mirrored_to(config)}",
        *([f"  extends: {run.folder.with_name(run_id(parent))}"] if parent is not None else []),
        *([f"  {name}: {start.reason}"] if start.action == "snapshot" and parent is None else []),
        *(f"note: {note}" for note in run.notes),
    )


def _show_without_data(config: RunConfig, missing: MissingDataError, runs: Path) -> int:
    """Show what this command came to when its data were here; several results if of several data.

    Raises:
        MissingDataError: what was given, if there is no result.
    """
    finished = [one for one in folders_of_any_data(config, runs) if (one / RESULT).exists()]
    if not finished:
        raise missing
    for folder in finished:
        result = read_result(folder)
        if is_rank_zero():
            say(f"the data are not here; this is the result of {result.data or 'unknown data'}")
        _show(result, folder)
    return DONE


def _show(result: Result, folder: Path) -> None:
    if is_rank_zero():
        say(*came_to(result, folder))


if __name__ == "__main__":
    raise SystemExit(main())
