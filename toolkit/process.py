"""This process: who it is among the ranks of a launch, its threads and memory, how it ends."""

import atexit
import ctypes
import gc
import io
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from toolkit.errors import ConfigError, RunError, StoppedError, error_text, one_line

DONE, FAILED, WRONG, PREEMPTED, INTERRUPTED = 0, 1, 2, 75, 130
"""Exit codes: finished; the run failed; wrong usage or configuration; stopped by a signal, to be
continued; stopped by the user's Ctrl-C, to be continued if anything had begun."""
TINY_WEIGHTS = 100_000
"""Weights below which a model is tiny: it trains on one thread."""
KEEP_MEMORY = "TOOLKIT_KEEP_MEMORY"
"""Environment variable: 0 leaves it to the C library when it gives memory back to the system."""
MALLOC_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
"""Environment variables by which the user has told glibc already."""
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
"""Parameters of glibc's ``mallopt``, of ``malloc.h``."""
TRIM_BYTES, PAD_BYTES = 2**31 - 1, 2**26
"""Bytes that stay in the process while they are free, and steps in which it asks for more: in small
ones an aligned allocation seldom fits where the last one was."""
HEAP_BYTES = (2**30, 2**25)
"""Sizes of an allocation up to which it is made of them: the first that this glibc takes, of which
older ones allow 32 MiB."""
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
"""Environment variable in which torchrun, and Accelerate with it, tells each of several ranks where
to leave the reason of its end."""
SECONDS_FOR_RANK_ZERO = 20.0
"""So long another rank waits for rank 0 to say what went wrong, if that has failed, too: a launcher
ends all ranks as soon as the first has ended with an error."""
OF_THE_LAUNCHER = "note: a traceback after this line is the launcher's own; --quiet leaves it out"
"""Said of Accelerate's launcher of one process, which reads no such file."""
OWN_FAULT = "a fault of the toolkit"
"""What the line says of an error that is nobody's but the toolkit's."""


BUFFERED = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)
"""What may hold something that was written and is not in its file yet."""


def is_rank_zero() -> bool:
    """Whether this is the process that writes and prints, known before Accelerate starts."""
    return os.environ.get("RANK", "0") == "0"


def world_size() -> int:
    """The number of processes that the launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def ranks_here() -> int:
    """The number of processes that the launcher started on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def cores() -> int:
    """The cores of this machine that this process and the other ranks on it may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cores_of_rank() -> int:
    """This process's share of ``cores``, at least one."""
    return max(1, cores() // ranks_here())


def set_threads(weights: int | None = None) -> int:
    """Share the cores among the processes of this machine, and return the threads of each.

    Who sets ``OMP_NUM_THREADS`` for a process of its own has no more than that; launchers set it
    unasked, so it does not count under them.

    A tiny model takes one thread: its operations are too short to share, and threads that wait for
    each other beside another busy program make an update fifty times slower.

    Args:
        weights: of the model that is to be trained; None before it is known.
    """
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed warns that it guessed so
    threads = cores_of_rank()
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) and not _is_launched():
        threads = min(threads, int(asked))
    if weights is not None and weights < TINY_WEIGHTS:
        threads = 1
    torch.set_num_threads(threads)
    return threads


def _is_launched() -> bool:
    """Whether torchrun or ``accelerate launch`` started this process."""
    return "LOCAL_WORLD_SIZE" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ


def keep_memory() -> bool:
    """Have freed memory stay in this process, on glibc.

    Or the activations of each update may be given back to the system and fetched again, page by
    page (``docs/performance.md``).

    Returns:
        Whether it was set. It is not under ``TOOLKIT_KEEP_MEMORY=0``, where the user's environment
        sets the same, or under another C library.
    """
    told = os.environ.get(KEEP_MEMORY) == "0" or any(map(os.environ.get, MALLOC_VARIABLES))
    if told or not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    kept = mallopt(M_TRIM_THRESHOLD, TRIM_BYTES) and mallopt(M_TOP_PAD, PAD_BYTES)
    return bool(kept) and any(mallopt(M_MMAP_THRESHOLD, size) for size in HEAP_BYTES)


def leave_process_group(failed: bool = False) -> None:
    """End this process's part in the group of ranks, when nothing of a run is referred to any more.

    A DistributedDataParallel model must go before its gloo group. If it holds the last reference,
    it waits for gloo's threads and keeps the interpreter's lock meanwhile, which a thread may need
    to let go of a tensor: the rank hangs, or aborts if this happens while the interpreter exits.

    Args:
        failed: the other ranks may be waiting for this one in a collective. It leaves a gloo group
            all the same, which ends their waiting; others would wait here, too, for their part.
    """
    distributed = sys.modules.get("torch.distributed")  # without it there is no group
    if distributed is None or not distributed.is_initialized():
        return
    gc.collect()
    if not failed or distributed.get_backend() == "gloo":
        distributed.destroy_process_group()


def run_command(command: Callable[[], int]) -> int:
    """Carry out a command, print what ends it in one line, and return its exit code.

    Args:
        command: returns an exit code. A ``ConfigError`` of it is code 2, a ``RunError`` 1, and so
            is a file or folder that the system refuses, a ``StoppedError`` 75; a reader of the
            output that has left (``| head``) is 1, without a word. Anything else is a fault of the
            toolkit: code 1, in one line that names the file with the traceback.
    """
    _end_quickly()
    try:
        try:
            code = command()
        except SystemExit:  # --help of argparse
            sys.stdout.flush()
            raise
        sys.stdout.flush()
        return code
    except ConfigError as error:
        code = print_error(error, WRONG)
    except StoppedError as stopped:
        if is_rank_zero():
            print(stopped, flush=True)
        code = PREEMPTED
    except RunError as error:
        code = print_error(error, FAILED)
    except KeyboardInterrupt:
        code = print_error("interrupted", INTERRUPTED)
    except BrokenPipeError:
        code = FAILED
        # Or the interpreter would complain when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        code = print_error(_other_error(error), FAILED)
    leave_process_group(failed=True)  # only here has what the error referred to gone
    _let_rank_zero_speak()
    return code


def _let_rank_zero_speak() -> None:
    """Wait on another rank than 0, which has failed, to be ended by the launcher; but not for ever.

    Rank 0 may have failed alone, or not at all: then this rank ends by itself.
    """
    if os.environ.get(ERROR_FILE) and not is_rank_zero():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # nothing is left that could be saved
        time.sleep(SECONDS_FOR_RANK_ZERO)


def _end_quickly() -> None:
    """Have the interpreter, when it ends, leave alone what is in reference cycles.

    It looks for them several times among the objects of all libraries, for 1.5 s after a run. What
    it would do there beside is done before: a group of ranks is left (``leave_process_group``), and
    files that a user's code has left open get what was written to them.
    """
    atexit.unregister(_flush_and_freeze)  # once is enough
    atexit.register(_flush_and_freeze)


def _flush_and_freeze() -> None:
    for one in gc.get_objects():
        if issubclass(type(one), BUFFERED):
            # A full disk, one closed or its buffer taken away; or half taken down, in a cycle.
            with suppress(OSError, ValueError):
                one.flush()
    gc.freeze()


def print_error(error: object, code: int) -> int:
    """Print an error as one line, from rank 0 alone, and return the exit code that goes with it.

    A launcher ends in a traceback of its own when a rank has failed, and a rank cannot keep it from
    that. So that the line is found all the same, a launcher of several ranks gets it, from each,
    for the table that it ends with; that of one process is announced.
    """
    line = f"error: {one_line(error)}"
    if file := os.environ.get(ERROR_FILE):
        # As torch.distributed.elastic's ErrorHandler writes it, but for the traceback. The launcher
        # calls the earliest failure the cause.
        seen = {"py_callstack": line, "timestamp": str(int(time.time()))}
        with suppress(OSError), Path(file).open("w") as told:
            json.dump({"message": {"message": line, "extraInfo": seen}}, told)
    if is_rank_zero():
        print(line, file=sys.stderr, flush=True)
        if code != INTERRUPTED and _is_launched() and "LOCAL_WORLD_SIZE" not in os.environ:
            print(OF_THE_LAUNCHER, file=sys.stderr, flush=True)
    return code


def _other_error(error: Exception) -> str:
    """What to say of an error that nobody has foreseen where it came up."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    text = f"{OWN_FAULT}: {error_text(error)}"
    try:
        opened, log = tempfile.mkstemp(prefix="toolkit-error-", suffix=".log")
        with os.fdopen(opened, "w", errors="backslashreplace") as file:
            file.write("".join(traceback.format_exception(error)))
    except OSError as refused:
        return f"{text} (its traceback cannot be written: {refused.strerror})"
    return f"{text}; please report it with {log}"
