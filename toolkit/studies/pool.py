"""A pool of workers on one study: local processes, or SLURM jobs.

The pool starts workers and replaces those that die. Which run a worker takes next is the worker's
own choice (``run_queue``): the pool hands out nothing.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.config import RUNS
from toolkit.errors import ConfigError, RunError
from toolkit.extras import check_installed
from toolkit.process import DONE, FAILED, INTERRUPTED, PREEMPTED, WRONG
from toolkit.signals import stop_on_signal
from toolkit.studies import claims
from toolkit.studies.forking import Forked
from toolkit.studies.run_queue import ATTEMPTS, Item, record_failure

POLL_SECONDS = 0.5
GRACE_SECONDS = 60
"""How long workers may take to save and end."""
LINES = 5
"""Of a worker's log, in an error."""


_of_this_job: list[int] = []
"""The process id of the worker, where this process is a job of submitit's."""


@dataclass
class Slot:
    """One place for a worker in the pool.

    Attributes:
        log: what its workers print.
        environment: of the process; it says which GPU the worker sees.
        cores: that its workers keep to; empty where the system cannot say so.
        process: the worker that is at work.
        over: nothing is left for it to do.
        deaths: of its latest workers in a row, those that ended without having been at a run.
        before: how far the study was when its worker started.
    """

    log: Path
    environment: Mapping[str, str]
    cores: tuple[int, ...]
    process: "subprocess.Popen[bytes] | Forked | None" = None
    over: bool = False
    deaths: int = 0
    before: tuple[int, int] = (0, 0)


def run(
    per_device: int,
    items: Sequence[Item],
    flags: Sequence[str],
    logs: Path,
    done: Callable[[], object],
    lease: float = claims.LEASE,
    fork: Callable[[], int] | None = None,
) -> int:
    """Keep ``per_device`` workers on every GPU, or on the CPU, until nothing is left.

    A worker that dies is replaced; the run that it was at counts as failed once.

    Args:
        per_device: workers a device.
        items: the runs, to see how far they are.
        flags: the arguments of ``toolkit.sweep`` that start a worker.
        logs: a folder for what the workers print.
        done: called twice a second, to show how far the study is.
        lease: seconds after which a silent worker's run is free.
        fork: what a worker does that is forked from this process, and has one core and one thread
            (see ``forking``); without it workers are started with ``flags``.

    Returns:
        An exit code, as of ``toolkit.studies.run_queue.work``.

    Raises:
        ConfigError: if a run cannot be carried out as configured, as a worker said.
        RunError: if three workers of a place in a row ended before they were at any run.
    """
    logs.mkdir(parents=True, exist_ok=True)
    slots = _slots(per_device, logs, one_core=fork is not None)
    # However often the user asks: the workers are not left behind.
    with stop_on_signal(patient=True) as asked:
        try:
            while not asked() and not all(slot.over for slot in slots):
                for slot in slots:
                    _tend(slot, items, flags, lease, fork)
                done()
                time.sleep(POLL_SECONDS)
        finally:
            _end(slots)
    done()
    if any(item.open for item in items):
        return asked.exit_code(PREEMPTED)
    return FAILED if any(not item.finished for item in items) else DONE


def submit(
    workers: int,
    cluster: str,
    flags: Sequence[str],
    settings: Mapping[str, Any],
    logs: Path = RUNS / "slurm",
) -> int:
    """Submit an array of workers through submitit, and return.

    With the clusters ``local`` and ``debug`` it waits for them.

    Raises:
        ConfigError: if submitit is not installed, or does not know a setting.
    """
    check_installed("submitit", "--slurm")
    import submitit

    executor = submitit.AutoExecutor(folder=logs / "%j", cluster=cluster)
    try:
        executor.update_parameters(name="toolkit", **settings)
    except (NameError, TypeError, ValueError) as error:
        raise ConfigError(f"--slurm-set: {error}") from error
    with executor.batch():
        jobs = [executor.submit(Job(tuple(flags))) for _ in range(workers)]
    print(f"submitted {', '.join(job.job_id for job in jobs)}; logs in {logs}", flush=True)
    return max(job.result() for job in jobs) if cluster != "slurm" else DONE


@dataclass(frozen=True)
class Job:
    """A worker as submitit starts it; a job at its time limit is queued again."""

    flags: tuple[str, ...]

    def __call__(self) -> int:
        command = _command(self.flags)
        with subprocess.Popen(command) as worker:  # noqa: S603  # this Python, with our module
            _of_this_job.append(worker.pid)
            return worker.wait()

    def checkpoint(self) -> Any:
        """What submitit asks for before the time limit: the next job goes on from the files.

        Called in a signal's handler, after which submitit ends the job and the worker with it.
        """
        import submitit

        for pid in _of_this_job:
            # Its own copy of the signal, if it got one, is the same request.
            with suppress(ProcessLookupError, ChildProcessError):  # it has ended
                os.kill(pid, signal.SIGTERM)
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        return submitit.helpers.DelayedSubmission(self)


def _slots(per_device: int, logs: Path, one_core: bool) -> list[Slot]:
    import torch

    gpus = torch.cuda.device_count()
    count = per_device * max(gpus, 1)
    slots = []
    for number in range(count):
        cores = _share_of_cores(number, count)[: 1 if one_core else None]
        environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, len(cores)))}
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = _gpu(number // per_device)
        slots.append(Slot(logs / f"worker-{number}.log", environment, cores))
    return slots


def _gpu(number: int) -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return visible.split(",")[number] if visible else str(number)


def _share_of_cores(number: int, count: int) -> tuple[int, ...]:
    """Cores of one of ``count`` workers: its own, or a shared one if there are fewer cores."""
    if not hasattr(os, "sched_getaffinity"):
        return ()
    cores = sorted(os.sched_getaffinity(0))
    if count >= len(cores):
        return (cores[number % len(cores)],)
    return tuple(cores[number::count])


def _tend(
    slot: Slot,
    items: Sequence[Item],
    flags: Sequence[str],
    lease: float,
    fork: Callable[[], int] | None = None,
) -> None:
    """Start the worker of a slot, or look how it ended."""
    if slot.process is None:
        left = [item for item in items if item.open]
        slot.over = not left
        if any(_is_free(item, lease) for item in left):
            slot.before = _progress(items)
            slot.process = (
                Forked(slot.log, slot.environment, slot.cores, fork)
                if fork
                else _start(slot, flags)
            )
        return
    code = slot.process.poll()
    if code is None:
        return
    pid, slot.process = slot.process.pid, None
    if code == WRONG:
        raise ConfigError(f"{_last_lines(slot.log)}; see {slot.log}")
    if code not in (DONE, FAILED, PREEMPTED, INTERRUPTED):  # those had nothing left that was free
        _blame(pid, code, slot, items)
    elif code != PREEMPTED and _progress(items) == slot.before:
        # Python's own code for an error at import is FAILED, too. Not each such end is one: all
        # runs may have been taken when it looked. But then this one is not followed by others.
        _count_death(code, slot)
    else:
        slot.deaths = 0


def _progress(items: Sequence[Item]) -> tuple[int, int]:
    """Runs that are finished, and failed attempts."""
    return sum(item.finished for item in items), sum(len(item.failures) for item in items)


def _is_free(item: Item, lease: float) -> bool:
    try:
        claim = claims.current(item.folder)
        return claim is None or not claims.is_alive(claim, lease)
    except OSError:  # of a file system that may be back at the next look
        return False


def _blame(pid: int, code: int, slot: Slot, items: Sequence[Item]) -> None:
    """Count the death of a worker as a failed attempt at the run whose claim it held."""
    for item in items:
        claim = claims.current(item.folder) if item.open else None
        # Claims that it released stay in the folders of runs that failed without it dying.
        if claim and claim.here and claim.pid == pid and not claim.released:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            text = f"the worker ended with {how}\n\n{_last_lines(slot.log, 50)}\n"
            record_failure(item.folder, text)
            claims.void(claim)  # or it would count again for a later process of this number
            slot.deaths = 0
            return
    _count_death(code, slot)


def _count_death(code: int, slot: Slot) -> None:
    """A worker ended before its first claim or between two: another takes its place, or none."""
    slot.deaths += 1
    if slot.deaths >= ATTEMPTS:
        raise RunError(
            f"{slot.deaths} workers in a row ended without having been at a run, the last with "
            f"exit code {code}: {_last_lines(slot.log)}; see {slot.log}"
        )


def _start(slot: Slot, flags: Sequence[str]) -> "subprocess.Popen[bytes]":
    with slot.log.open("ab") as log:
        process = subprocess.Popen(  # noqa: S603  # this Python, with our module
            _command(flags),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=dict(slot.environment),
            start_new_session=True,  # Ctrl-C is for this process, which asks the workers to stop
        )
    if slot.cores:
        os.sched_setaffinity(process.pid, slot.cores)
    return process


def _command(flags: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "toolkit.sweep", *flags]


def _end(slots: Sequence[Slot]) -> None:
    """Ask all workers to save and end, and wait."""
    running = [slot.process for slot in slots if slot.process and slot.process.poll() is None]
    for process in running:
        process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    for process in running:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _last_lines(log: Path, lines: int = LINES) -> str:
    return " / ".join(log.read_text(errors="replace").splitlines()[-lines:])
