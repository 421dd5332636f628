"""This process among the ranks of a launch: who it is, how many threads it takes, how it ends."""

import os

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
