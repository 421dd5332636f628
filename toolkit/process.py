"""This process among the ranks of a launch: who it is, how many threads it takes, how it ends."""

import gc
import os
import sys

DONE, FAILED, WRONG, PREEMPTED = 0, 1, 2, 75
"""Exit codes: finished; the run failed; wrong usage or configuration; stopped, to be continued."""


def is_rank_zero() -> bool:
    """Whether this is the process that writes and prints, known before Accelerate starts."""
    return os.environ.get("RANK", "0") == "0"


def world_size() -> int:
    """The number of processes that the launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def settle() -> int:
    """Share the cores among the processes of this machine, and return the threads of each."""
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed warns that it guessed so
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = max(1, (cores or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    torch.set_num_threads(threads)
    return threads


def leave(failed: bool = False) -> None:
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
