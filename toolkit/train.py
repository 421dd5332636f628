"""Train one run: ``[accelerate launch ...] -m toolkit.train TARGET [flags] [schedule:NAME ...]``.

The same command continues an unfinished run and prints the result of a finished one; ``--fresh``
starts over. Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 75 pre-empted.
"""

import gc
import json
import os
import shutil
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolkit.config import (
    NOT_PART_OF_THE_EXPERIMENT,
    NOT_PART_OF_THE_RECIPE,
    RunConfig,
    parse,
    resolve,
    run_id,
    to_json,
)
from toolkit.errors import ConfigError, RunFailed

DONE, FAILED, WRONG, PREEMPTED = 0, 1, 2, 75
RUNS = Path("runs")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    fresh = "--fresh" in argv
    try:
        config = resolve(parse([argument for argument in argv if argument != "--fresh"]))
        return train(config, fresh)
    except ConfigError as error:
        return _say(error, WRONG)
    except RunFailed as error:
        return _say(error, FAILED)


def train(config: RunConfig, fresh: bool = False) -> int:
    """Train a resolved configuration, or show its result, and return the exit code.

    Raises:
        ConfigError: if it cannot be carried out.
        RunFailed: if it went wrong, with the reason.
    """
    folder = RUNS / config.study / run_id(config)
    if fresh and _is_rank_zero():
        shutil.rmtree(folder, ignore_errors=True)
    check_folder(folder, config)
    if (folder / "result.json").exists() and not fresh:
        _show(json.loads((folder / "result.json").read_text()), folder)
        return DONE
    threads = settle_process()
    from toolkit import loop

    if fresh:
        _wait_for_rank_zero()
    run = loop.build(config, RUNS)
    if _is_rank_zero():
        _announce(run, threads)
    try:
        result = loop.fit(run)
    except (ConfigError, RunFailed):
        run.record.status("failed", run.update)
        raise
    except Exception as error:
        run.record.status("failed", run.update)
        (folder / f"error-{run.accelerator.process_index}.log").write_text(traceback.format_exc())
        raise RunFailed(f"{type(error).__name__}: {error}; see {folder}/error-*.log") from error
    accelerator = run.accelerator
    loop.release(run)
    del run
    gc.collect()
    accelerator.end_training()  # with nothing of the run alive, gloo does not abort at exit
    if result["status"] == "preempted":
        return PREEMPTED
    if _is_rank_zero():
        _show(result, folder)
    return DONE


def check_folder(folder: Path, config: RunConfig) -> None:
    """Refuse a run folder that holds another experiment.

    Raises:
        ConfigError: naming the folder and the fields that differ.
    """
    file = folder / "config.json"
    if not file.exists():
        return
    try:
        stored = json.loads(file.read_text())
        differing = [key for key, value in _experiment(to_json(config)).items() if _experiment(stored)[key] != value]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}; start over with --fresh") from error
    if differing:
        raise ConfigError(
            f"{folder} holds a run of another configuration ({', '.join(differing)} differ); "
            "start over with --fresh, or choose another --study"
        )


def settle_process() -> int:
    """Share the cores among the processes of this machine, and return the threads of each."""
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed warns that it guessed so

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = max(1, (cores or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    torch.set_num_threads(threads)
    return threads


def _experiment(stored: dict[str, Any]) -> dict[str, Any]:
    kept = {k: v for k, v in stored.items() if k not in NOT_PART_OF_THE_EXPERIMENT}
    recipe = {k: v for k, v in stored["recipe"].items() if k not in NOT_PART_OF_THE_RECIPE}
    return json.loads(json.dumps({**kept, "recipe": recipe}))  # type: ignore[no-any-return]


def _announce(run: Any, threads: int) -> None:
    recipe, ranks = run.config.recipe, run.accelerator.num_processes
    accumulation = run.accelerator.gradient_accumulation_steps
    print(
        f"{run.config.target}: {run.budget} updates of {recipe.global_batch} = {ranks} ranks x "
        f"{accumulation} micro-batches x {run.micro_batch}, {recipe.precision} on "
        f"{run.accelerator.device.type}, {threads} threads a rank; {run.folder}",
        flush=True,
    )


def _show(result: dict[str, Any], folder: Path) -> None:
    if not _is_rank_zero():
        return
    test = ", ".join(f"{name} {value:.2f}" for name, value in result["metrics"]["test"].items())
    seconds = result["timing"]["train_seconds"]
    print(
        f"{result['status']}: {test or 'no test metric'} on test after {result['updates']} "
        f"updates in {seconds:.1f} s of training; {folder}/result.json",
        flush=True,
    )


def _say(error: Exception, code: int) -> int:
    if _is_rank_zero():
        print(f"error: {error}", file=sys.stderr)
    return code


def _is_rank_zero() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _wait_for_rank_zero() -> None:
    from accelerate import PartialState

    import torch

    PartialState(cpu=not torch.cuda.is_available()).wait_for_everyone()


if __name__ == "__main__":
    raise SystemExit(main())
