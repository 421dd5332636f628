"""Whether a commit changes results: the same small runs on two checkouts, compared to the bit.

A fixed set of runs on the handwritten digits is made on commit BASE, in a temporary git worktree,
and on the working tree (HEAD below), side by side, each side in processes of one thread on one
core. For each run the hashes of weights and batch order, the metrics, and every reading with its
decision must be equal; wall-clock times are left out. No hash is stored: floats differ between
processors, not between two runs on one. Only the command line is used, so modules may move.

One server imports the libraries, none of the toolkit, and forks each process from there; one run
goes through ``accelerate launch``, the other ranks get the variables that torchrun would set.

usage: python benchmarks/loss_compare.py [BASE] [--allow FIELD,...]     or: make loss-compare
BASE is a commit, by default HEAD; --allow leaves out fields that are meant to change, e.g.
``reason,metrics.loss``. Exit codes: 0 all equal, 1 a difference or a failed run, 2 wrong usage.
"""

import argparse
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

from loss_runs import (
    FIELDS,
    METRIC,
    USER_FILES,
    Run,
    Traces,
    first_difference,
    fixed_set,
    load,
    missing,
)

ROOT = Path(__file__).resolve().parent.parent
SERVER = multiprocessing.get_context("forkserver")
LIBRARIES = ("accelerate", "deepspeed", "evaluate", "sklearn.datasets", "timm", "torch", "tyro")
TIMEOUT_SECONDS, GRACE_SECONDS = 240, 20
PREEMPTED = 75


class Side(NamedTuple):
    """A checkout, the folder that it works in, and the core that its processes keep to."""

    name: str
    checkout: Path
    folder: Path
    core: int


class RunError(Exception):
    """A run did not end as it should; the message says how, and on which side."""


def perform(side: Side, run: Run) -> Traces:
    """Make a run on one side.

    Raises:
        RunError: if it fails, or does not show what it is for.
    """
    if run.replays:
        folder = _folder_of(side, run.replays)
        _start(side, run, ["toolkit.replay", str(folder), "--json", *run.flags.split()], 0)
        traces = load(_log(side, run, 0, "out"))
    else:
        for start in range(1, run.starts + 1):
            _start(side, run, _training(side, run), 0 if start == run.starts else PREEMPTED)
        traces = load(_folder_of(side, run.name))
    if what := missing(run, traces):
        raise RunError(f"no {what} in {side.name}")
    return traces


def _folder_of(side: Side, study: str) -> Path:
    """The folder of the only run in a study."""
    folders = list((side.folder / "runs" / study).glob("*"))
    if len(folders) != 1:
        raise RunError(f"{side.name} has {len(folders)} runs in the study '{study}'")
    return folders[0]


def _training(side: Side, run: Run) -> list[str]:
    flags = ["--wandb", "off", "--progress", "False", "--study", run.name, *run.flags.split()]
    command = ["toolkit.train", run.target, *flags]
    if not run.launcher:
        return command
    file = str(side.checkout / "launch_configs/cpu2.yaml")
    options = ["--quiet", "--config_file", file, "--main_process_port", "0", "-m"]
    return ["accelerate.commands.launch", *options, *command]


def _start(side: Side, run: Run, command: Sequence[str], expected: int) -> None:
    """Run ``python -m COMMAND`` in a process for each rank, to its end."""
    ranks = 1 if run.launcher else run.ranks
    shared: dict[str, str] = {}
    if ranks > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        shared |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    processes = []
    for rank in range(ranks):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else {}
        arguments = (side, run, list(command), rank, {**shared, **own})
        processes.append(SERVER.Process(target=_process, args=arguments))
        processes[-1].start()
    _end(processes)
    for rank, process in enumerate(processes):
        if process.exitcode != expected:
            said = _log(side, run, rank, "err").read_text().strip().splitlines()
            raise RunError(f"{side.name} ends with {process.exitcode}: {(said or ['?'])[-1]}")


def _end(processes: Sequence[BaseProcess]) -> None:
    """Wait for processes; in the end ask them to stop, as a launcher passes on, and stop them."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    for process in [process for process in processes if process.is_alive()]:
        process.terminate()
        process.join(GRACE_SECONDS)
        process.kill()
        process.join()


def _process(
    side: Side, run: Run, command: list[str], rank: int, variables: Mapping[str, str]
) -> None:
    """What ``python -m`` does with a command, with a side's checkout and in its folder."""
    os.chdir(side.folder)
    os.environ.update(variables, PYTHONPATH=str(side.checkout))
    if hasattr(os, "sched_setaffinity"):  # the toolkit takes a thread for each core it may use
        os.sched_setaffinity(0, {side.core})
    for number, name in ((1, "out"), (2, "err")):
        with _log(side, run, rank, name).open("w") as file:
            os.dup2(file.fileno(), number)
    # A hook of the environment may have imported a toolkit, from wherever it found one.
    for name in [name for name in sys.modules if name.partition(".")[0] == "toolkit"]:
        del sys.modules[name]
    sys.path[:0] = [str(side.folder), str(side.checkout)]
    sys.argv = list(command)
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)


def _log(side: Side, run: Run, rank: int, name: str) -> Path:
    return side.folder / f"{run.name}-{rank}.{name}"


def schedules_of(checkout: Path) -> list[str]:
    """The schedules that a checkout lists."""
    code = "from toolkit.schedules import SCHEDULES; print(*SCHEDULES)"
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, cwd=checkout, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.split()


@contextmanager
def two_sides(commit: str) -> Iterator[tuple[Side, Side]]:
    """The commit in a worktree that is removed afterwards, and the working tree."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    with tempfile.TemporaryDirectory() as name:
        checkout = Path(name, "checkout")
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", checkout, commit], check=True)
        try:
            sides = (
                Side("BASE", checkout, Path(name, "base"), cores[0]),
                Side("HEAD", ROOT, Path(name, "head"), cores[-1]),
            )
            for side in sides:
                side.folder.mkdir()
                for file, text in USER_FILES.items():
                    (side.folder / file).write_text(text)
            yield sides
        finally:
            subprocess.run([*git, "remove", "--force", checkout], check=True)


def judge(sides: Sequence[Side], allowed: Collection[str]) -> Iterator[str]:
    """Make all runs, a line of the table for each, and yield the verdicts."""
    listed = [schedules_of(side.checkout) for side in sides]
    for side, own, other in zip(sides, listed, reversed(listed), strict=True):
        for name in [name for name in own if name not in other]:
            print(f"{name:<24} only in {side.name}, not compared")
    runs = fixed_set(name for name in listed[1] if name in listed[0])
    pools = [ThreadPoolExecutor(1) for _ in sides]
    made = [
        [pool.submit(perform, side, run) for run in runs]
        for pool, side in zip(pools, sides, strict=True)
    ]
    try:
        for run, base, head in zip(runs, *made, strict=True):
            verdict = _verdict(base, head, allowed)
            print(f"{run.name:<24} {verdict}", flush=True)
            yield verdict
    finally:
        for pool in pools:
            pool.shutdown(cancel_futures=True)


def _verdict(base: Future[Traces], head: Future[Traces], allowed: Collection[str]) -> str:
    errors = [error for error in (base.exception(), head.exception()) if error]
    if errors:
        return "; ".join(f"{type(error).__name__}: {error}" for error in errors)
    return first_difference(base.result(), head.result(), allowed) or "equal"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("base", nargs="?", default="HEAD", metavar="BASE")
    parser.add_argument("--allow", default="", metavar="FIELD,...")
    arguments = parser.parse_args(argv)
    allowed = set(filter(None, arguments.allow.split(",")))
    if unknown := {name for name in allowed - set(FIELDS) if not name.startswith(METRIC)}:
        known = f"the fields are {', '.join(FIELDS)}, {METRIC}NAME"
        parser.error(f"--allow {','.join(sorted(unknown))}: {known}")
    commit = f"{arguments.base}^{{commit}}"
    git = ["git", "-C", str(ROOT), "rev-parse", "--verify", "--quiet", commit]
    if subprocess.run(git, stdout=subprocess.DEVNULL).returncode:
        parser.error(f"{arguments.base} is no commit of this repository")
    os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    os.environ.pop("TOOLKIT_DATA", None)
    SERVER.set_forkserver_preload(list(LIBRARIES))
    begin = time.monotonic()
    with two_sides(arguments.base) as sides:
        verdicts = list(judge(sides, allowed))
    equal = verdicts.count("equal")
    left_out = f", without {', '.join(sorted(allowed))}" if allowed else ""
    seconds = time.monotonic() - begin
    print(f"{equal} of {len(verdicts)} runs are equal{left_out}; {seconds:.0f} s")
    return 0 if equal == len(verdicts) else 1


if __name__ == "__main__":
    raise SystemExit(main())
