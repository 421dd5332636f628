"""Run a study, or go on with it: ``[accelerate launch ...] -m toolkit.sweep STUDY``.

A finished run is one with a ``result.json``; the same command goes on where it was stopped, and
the same command on another machine that shares the folder helps. A run that fails is tried three
times, then kept with its logs. Exit codes: 0 all runs are finished, 1 some were given up, 2 wrong
usage or configuration, 75 stopped, to be continued, 130 by Ctrl-C.
"""

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from toolkit.config import RUNS
from toolkit.errors import ConfigError, unknown
from toolkit.process import (
    DONE,
    FAILED,
    INTERRUPTED,
    PREEMPTED,
    cores,
    is_rank_zero,
    run_command,
    set_threads,
    world_size,
)
from toolkit.records import provenance
from toolkit.records.mirror_handle import check_trackers
from toolkit.records.result import RESULT, duration
from toolkit.studies import costs, declaration, forking, pool, run_queue, shipped
from toolkit.studies.run_queue import Item
from toolkit.studies.study import Study
from toolkit.sweep_options import parser_of, place_of, runs_of, slurm_settings, worker_flags
from toolkit.words import agreeing, counted

SECONDS_BETWEEN_LINES = 15
"""How often the progress bar writes where there is no terminal."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return run_command(lambda: _command(argv))


def demo(argv: Sequence[str]) -> int:
    """Run the study ``demo`` and write its report; the flags are those of a sweep."""

    def command() -> int:
        options = parser_of(demo.__doc__, "toolkit demo", "demo").parse_args(argv)
        code = carry_out(shipped.load("demo"), options)
        from toolkit.report.__main__ import write_report

        if code == DONE and not (options.dry_run or options.measure or options.wandb_sweep):
            print(f"\n{write_report(runs_of(options) / 'demo')}")
        return code

    return run_command(command)


def _command(argv: Sequence[str] | None) -> int:
    options = parser_of(__doc__).parse_args(argv)
    study = shipped.load(options.study, options.output_dir, options.files)
    code = carry_out(study, options)
    elsewhere = (options.worker, options.run, options.slurm, options.wandb_sweep)
    if code in (DONE, FAILED) and not any((options.dry_run, options.measure, *elsewhere)):
        _point_to_report(study, options)
    return code


def _point_to_report(study: Study, options: argparse.Namespace) -> None:
    """Say which command reports on the study, if it can."""
    if is_rank_zero() and any((runs_of(options) / study.name).glob(f"*/{RESULT}")):
        place = [] if options.output_dir == Path() else ["--output-dir", str(options.output_dir)]
        command = shlex.join(["toolkit", "report", f"{RUNS}/{study.name}", *place])
        print(f"report: {command}", flush=True)


def carry_out(study: Study, options: argparse.Namespace, announced: bool = False) -> int:
    """Make the runs of a study, or show what the options ask for, and return the exit code.

    Args:
        study: the study.
        options: of ``toolkit sweep``.
        announced: whether the study was announced already.

    Raises:
        ConfigError: if it cannot be carried out.
        RunError: if its workers cannot.
    """
    runs = runs_of(options)
    try:
        every = run_queue.items(study, runs)
        items = _chosen([_as_asked(item, options) for item in every], options)
        if options.dry_run or options.measure:
            return _show_costs(options, study, items)
        if options.wandb_sweep:
            return _write_wandb_sweep(options, study, items)
        declare(study, options.study, every, runs)
        if options.retry_failed:
            forgiven = run_queue.forgive(items)
            print(
                f"{counted(forgiven, 'run')} that {agreeing(forgiven, 'was', 'were')} given up "
                f"{agreeing(forgiven, 'is', 'are')} tried again"
            )
        return _sweep(options, study, items, announced)
    except KeyboardInterrupt:
        print("stopped: the same command continues", file=sys.stderr)
        return INTERRUPTED


def _sweep(
    options: argparse.Namespace, study: Study, items: Sequence[Item], announced: bool
) -> int:
    if options.worker or options.run:
        return run_queue.work(items, lease=options.lease, wait=False)
    left = [item for item in items if item.open]
    if is_rank_zero() and not announced:
        print(f"{study.name}: {study.question}")
        print(f"{counted(len(items), 'run')}, {len(left)} to go", flush=True)
        print(*_undecidable(study), sep="", end="", flush=True)
    if options.slurm:
        return pool.submit(
            options.slurm,
            options.cluster,
            worker_flags(options),
            slurm_settings(options),
            runs_of(options) / "slurm",
        )
    workers, forked = _workers(options, left)
    told = {item.folder for item in items if item.finished}
    with _bar(study, items, options.progress, bool(workers) and not forked) as bar:

        def done() -> None:
            if forked:  # the lines of others are in their logs alone
                run_queue.tell_finished(items, told)
            bar.update(sum(item.finished for item in items) - bar.n)

        if workers:
            flags, logs = worker_flags(options), runs_of(options) / study.name / "workers"
            fork = partial(run_queue.work, items, lease=options.lease, wait=False)
            code = pool.run(
                workers, items, flags, logs, done, options.lease, fork if forked else None
            )
        else:
            code = run_queue.work(items, lease=options.lease, done=done)
    if code in (PREEMPTED, INTERRUPTED):
        print("stopped: the same command continues", file=sys.stderr)
    given_up = [item for item in items if not item.finished and not item.open]
    for item in given_up:
        if is_rank_zero():
            print(f"given up: {item}; see {item.failures[-1]}", file=sys.stderr)
    return code


def _workers(options: argparse.Namespace, left: Sequence[Item]) -> tuple[int, bool]:
    """As ``forking.workers``, and tells of those that nobody asked for."""
    workers, forked = forking.workers(options.slots_per_device, left)
    if forked and options.slots_per_device is None:
        print(f"{workers} at a time, as the models are tiny", flush=True)
    return workers, forked


def _as_asked(item: Item, options: argparse.Namespace) -> Item:
    """The run, which leaves and tells what the sweep is to; it is the same run.

    Raises:
        ConfigError: if it cannot be told so.
    """
    saves = item.config.save_predictions or options.save_predictions
    changes: dict[str, Any] = {"save_predictions": saves}
    if options.log_with:
        changes |= {"log_with": tuple(options.log_with), "wandb": "auto"}
    if options.project:
        changes["project"] = options.project
    try:
        config = replace(item.config, **changes)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if item.open:
        check_trackers(config)
    return replace(item, config=config)


def _chosen(items: Sequence[Item], options: argparse.Namespace) -> list[Item]:
    chosen = [item for item in items if not options.only or options.only in item.config.target]
    if not chosen:
        raise unknown("target", options.only, {item.config.target for item in items})
    if options.run:
        chosen = [item for item in chosen if item.folder.name == options.run]
        if not chosen:
            raise ConfigError(f"study {options.study} has no run {options.run}")
    return chosen


def declare(
    study: Study, source: str, items: Sequence[Item], runs: Path = RUNS, command: str = ""
) -> None:
    """Write study.json: what is judged, before the first result, and what the study was called by.

    Args:
        study: the study.
        source: what ``toolkit sweep`` knows it by.
        runs: the folder that holds the folders of studies.
        command: that makes its runs, if that is no sweep.

    Raises:
        ConfigError: if the folder has another declaration, or the study may not run from here.
    """
    commit, changed = provenance.code()
    if study.judging and (commit is None or changed):
        why = f"{changed[0]} is not committed" if changed else "this is no git checkout"
        raise ConfigError(f"{study.name} is to be published and runs from a commit: {why}")
    if is_rank_zero():
        declaration.declare(study, source, items, runs, command)


def _bar(study: Study, items: Sequence[Item], shown: bool, workers: bool) -> Any:
    """How many runs are done; in a file only where their lines are in the workers' own logs."""
    interval = 0.5 if sys.stderr.isatty() else SECONDS_BETWEEN_LINES
    return tqdm(
        total=len(items),
        initial=sum(item.finished for item in items),
        unit="run",
        desc=study.name,
        mininterval=interval,
        smoothing=0.05,  # kinds of runs take turns
        miniters=1,  # or a thread would have to look after it
        disable=not (shown and is_rank_zero() and (workers or sys.stderr.isatty())),
    )


def _undecidable(study: Study) -> Iterator[str]:
    """What no result can decide, said before the first run."""
    from toolkit.stats.verdicts import fewest_pairs

    fewest = fewest_pairs(len(study.family)) if study.family else 0
    for pair in dict.fromkeys(one.pair for one in study.family):
        seeds = min(study.pairs_of(one) for one in study.family if one.pair == pair)
        if seeds < fewest:
            yield (
                f"note: {counted(seeds, 'seed')} alone can call nothing better or worse on "
                f"{pair}: {counted(len(study.family), 'comparison')} "
                f"{agreeing(len(study.family), 'takes', 'take')} {fewest} or more\n"
            )


def _show_costs(options: argparse.Namespace, study: Study, items: Sequence[Item]) -> int:
    """Print a command a line, then the whole cost."""
    left = [item for item in items if item.open]
    known = costs.from_finished(runs_of(options))
    if options.measure:
        set_threads()
        for item in {costs.kind(item.config): item for item in left}.values():
            if costs.kind(item.config) not in known:
                print(
                    f"measuring {counted(options.measure, 'update')} of {item.config.target}",
                    flush=True,
                )
                known[costs.kind(item.config)] = costs.measure(item.config, options.measure)
    for item in left:
        cost = known.get(costs.kind(item.config))
        about = f", about {duration(cost.of(item.config))}" if cost else ""
        print(f"{_command_of(options, item)}  # {item}{about}")
    seconds, without = costs.total([item.config for item in left], known)
    print(f"\n{counted(len(items), 'run')}, {len(left)} to go; {_at_a_time(options, len(left))}")
    print("seconds are of one run after the other on this kind of machine:")
    for target in dict.fromkeys(item.config.target for item in left):
        runs = [item.config for item in left if item.config.target == target]
        together, missing = costs.total(runs, known)
        words = "unknown: no finished run of its kind"
        if not missing:
            each = known[costs.kind(runs[0])].update
            words = f"{duration(together)}, {each:.3g} s an update with its share of evaluation"
        print(f"  {target}: {counted(len(runs), 'run')}, {words}")
    print(f"  all: {duration(seconds)}" + (" and what is unknown" if without else ""))
    if without:
        print("  --measure 3 makes three updates of each unknown kind, and asks no more")
    print(*_undecidable(study), sep="", end="")
    return DONE


def _at_a_time(options: argparse.Namespace, left: int) -> str:
    """How many runs the sweep will make at once, as far as that is known before a model is made."""
    asked, at_once = options.slots_per_device, min(cores(), left)
    if asked is not None and asked > 0:
        return f"{asked} at a time on each GPU, or on the CPU"
    if asked is None and at_once > 1 and world_size() == 1:
        return f"{at_once} at a time if all models are tiny and there is no GPU, else one by one"
    return "one by one"


def _command_of(options: argparse.Namespace, item: Item) -> str:
    words = ["python", "-m", "toolkit.sweep", options.study, "--run", item.folder.name]
    return shlex.join([*words, *place_of(options)])


def _write_wandb_sweep(options: argparse.Namespace, study: Study, items: Sequence[Item]) -> int:
    import yaml

    left = [item.folder.name for item in items if item.open]
    sweep = {
        "name": study.name,
        "description": study.question,
        "method": "grid",
        "command": [
            *("${env}", "python", "-m", "toolkit.sweep", options.study),
            *(*place_of(options), "${args}"),
        ],
        "parameters": {"run": {"values": left}},
    }
    Path(options.wandb_sweep).write_text(yaml.safe_dump(sweep, sort_keys=False))
    print(
        f"{counted(len(left), 'run')}: wandb sweep {options.wandb_sweep}, then wandb agent SWEEP_ID"
    )
    return DONE


if __name__ == "__main__":
    raise SystemExit(main())
