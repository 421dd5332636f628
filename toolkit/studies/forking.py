"""Workers that are forked from a process with all libraries loaded: a sweep pays for them once.

A process that is forked is a copy of this one without its other threads. So there is none where a
thread of Python's may hold a lock meanwhile, nor beside an accelerator, which does not outlive a
fork. Threads of native libraries are pools at rest: those of a library that takes care of forks,
or of OpenMP, which a worker of one thread does not use.
"""

import atexit
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from tqdm import tqdm

from toolkit import signals
from toolkit.errors import outcome
from toolkit.process import TINY_WEIGHTS, cores, run_command, world_size
from toolkit.studies import costs
from toolkit.studies.run_queue import Item


class Forked:
    """A worker that was forked from this process, with those methods of ``Popen`` that a pool uses.

    Args:
        log: what it prints goes to the end of this file.
        environment: variables that it has, beside those of this process.
        own_cores: that it keeps to.
        work: returns its exit code; errors end it as they do a command.
    """

    def __init__(
        self,
        log: Path,
        environment: Mapping[str, str],
        own_cores: Sequence[int],
        work: Callable[[], int],
    ) -> None:
        _end_monitor()
        arguments = (os.getpid(), log, environment, own_cores, work)
        # With a module of ours its main one, or a user's script: neither is imported again.
        self._process = multiprocessing.get_context("fork").Process(target=_begin, args=arguments)
        self._process.start()
        self.pid = self._process.pid or 0

    def poll(self) -> int | None:
        """Its exit code, or minus the signal that ended it; None while it is at work."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, and return its exit code.

        Raises:
            TimeoutExpired: of ``subprocess``, if it is still at work after so many seconds.
        """
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired("a forked worker", timeout or 0.0)
        return code

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


def workers(asked: int | None, left: Sequence[Item]) -> tuple[int, bool]:
    """How many workers a sweep has on each device, and whether they are forked.

    Args:
        asked: so many; with None one a core where they can be forked, else none.
        left: the open runs.

    Returns:
        0 where the process of the sweep is to make the runs itself.
    """
    if asked is not None:
        return asked, asked > 0 and _ready(left)
    count = min(cores(), len(left))
    return (count, True) if count > 1 and _ready(left) else (0, False)


def _ready(left: Sequence[Item]) -> bool:
    """Load what the open runs need, and say whether workers may be forked to make them.

    They may where all models are tiny, so that a worker takes one thread, on Linux, without an
    accelerator and without a launcher of several ranks. The first model that is not tiny, or a run
    that is refused, ends the loading.
    """
    if not sys.platform.startswith("linux") or world_size() > 1:
        return False
    import torch

    if torch.accelerator.is_available():
        return False
    kinds = {costs.kind(item.config): item for item in left}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # or a pool of OpenMP's might begin
    tiny = all(_is_tiny(item) for item in kinds.values())
    torch.set_num_threads(threads)
    if not tiny:
        return False
    _end_monitor()
    gc.freeze()  # a collection in a worker would copy the pages of all that was loaded
    return threading.active_count() == 1


def _is_tiny(item: Item) -> bool:
    """Build a run and throw it away: the libraries, and what its task keeps, stay."""
    import toolkit.metrics  # noqa: F401  # an evaluation imports it
    from toolkit.training import loop  # noqa: F401
    from toolkit.training.build import build

    config = item.config
    quiet = replace(
        config,
        recipe=replace(config.recipe, init="random"),
        log_with=("none",),
        progress=False,
    )
    with TemporaryDirectory() as folder:
        # What is wrong with it is written down where the run itself is attempted.
        run, _ = outcome(lambda: build(quiet, Path(folder)))
    return run is not None and run.parameters < TINY_WEIGHTS


def _begin(
    parent: int,
    log: Path,
    environment: Mapping[str, str],
    own_cores: Sequence[int],
    work: Callable[[], int],
) -> None:
    """What a forked process does, from its first line to its exit code."""
    atexit._clear()  # what is registered there is to be done once, by the parent
    os.setsid()  # Ctrl-C is for the parent, which asks the workers to stop
    for number, flags in enumerate((os.O_RDONLY, os.O_WRONLY | os.O_CREAT | os.O_APPEND)):
        opened = os.open(log if number else os.devnull, flags, 0o666)
        if opened != number:  # as where this process has no input
            os.dup2(opened, number)
            os.close(opened)
    os.dup2(1, 2)
    sys.stdout = open(1, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.environ.update(environment)
    os.sched_setaffinity(0, own_cores)

    def command() -> int:
        signals.begin_anew(parent)
        return work()

    code = run_command(command)
    atexit._run_exitfuncs()  # multiprocessing leaves them out
    sys.exit(code)


def _end_monitor() -> None:
    """End the thread that looks after tqdm's bars; the next bar starts another."""
    if tqdm.monitor is not None:
        tqdm.monitor.exit()
        tqdm.monitor = None
