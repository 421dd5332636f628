"""Processes that read batches ahead of the training, for splits that read or decode files.

They change no batch: which samples make up which batch is told to them, and augmentation draws from
the ids, in the run's own process. So a run with them is the run without, to the bit, and there is
nothing of theirs to save.
"""

import os
import shutil
import signal
import traceback
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from threading import Thread, current_thread, main_thread
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader

from toolkit.errors import ConfigError, RunError, error_text, outcome
from toolkit.process import cores_of_rank, ranks_here
from toolkit.signals import STOP_SIGNALS
from toolkit.task import Batch, Split, Splits

MOST = 8
"""Workers that a rank has at most, unless it is told a number."""
AHEAD = 2
"""Batches that each worker has ready or in progress; torch's default."""
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108
"""Where batches pass from process to process on Linux; containers may have no more than 64 MB."""


class Loading(NamedTuple):
    """How batches get from a split to the device.

    Attributes:
        workers: processes that read each split while it is in use; 0 for the run's own.
        pinned: put batches into memory that a GPU fetches from while the host goes on.
    """

    workers: int = 0
    pinned: bool = False

    def loader(self, split: Split, **batching: Any) -> "DataLoader[Batch]":
        """The batches of a split; ``told`` makes an error of a worker one of this process."""
        more: dict[str, Any] = {}
        if self.workers:
            # torch warns of more workers than cores: who gives such a number means it.
            warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
            # Forked, so that a split need not be pickled, nor the user's file imported again.
            more = {"multiprocessing_context": "fork", "worker_init_fn": _begin}
            more |= {"num_workers": self.workers, "prefetch_factor": AHEAD}
        # With a generator of its own a loader draws nothing from the global one, so evaluation and
        # resuming leave dropout alone.
        return DataLoader(
            _Told(split) if self.workers else split,  # type: ignore[arg-type]
            collate_fn=_as_is,
            generator=torch.Generator(),
            pin_memory=self.pinned,
            **more,
            **batching,
        )


def loading_for(
    asked: int | None, splits: Splits, sizes: Iterable[int], device: torch.device
) -> Loading:
    """How the batches of a run are loaded.

    Args:
        asked: workers of each rank; None for as many as make sense: none where a split has its
            samples in memory, else the cores of the rank that its training leaves idle, ``MOST`` at
            most, and no more than there is shared memory for.
        splits: those of the task.
        sizes: samples of a batch in training and in evaluation; both may be loaded at a time.
        device: where the model is.
    """
    pinned = device.type == "cuda"
    if asked is not None:
        return Loading(asked, pinned)
    if not getattr(splits.train, "reads_files", False):
        return Loading(0, pinned)
    busy = torch.get_num_threads() if device.type == "cpu" else 1
    idle = min(MOST, cores_of_rank() - busy)
    if idle > 0 and SHARED_MEMORY.is_dir():
        sample, _ = outcome(lambda: _bytes_of_sample(splits.train))
        if sample:  # or the first batch says what is wrong
            each = sample * sum(sizes) * (AHEAD + 1)
            idle = min(idle, shutil.disk_usage(SHARED_MEMORY).free // (each * ranks_here()))
    return Loading(max(idle, 0), pinned)


def _bytes_of_sample(split: Split) -> int:
    parts = split.__getitems__([0]).values()
    return sum(part.nbytes for part in parts if isinstance(part, torch.Tensor))


def told(batches: Iterable[Any]) -> Iterator[Batch]:
    """The batches of a loader, in this process.

    Raises:
        ConfigError: if that is what reading one has raised in a worker.
        RunError: for any other error there, or if a worker has died.
    """
    for batch in _of_workers(batches) if getattr(batches, "num_workers", 0) else batches:
        if isinstance(batch, _Failed):
            raise batch.kind(batch.text) from RuntimeError(f"in a worker:\n{batch.trace}")
        yield batch


def _of_workers(batches: Iterable[Any]) -> Iterator[Any]:
    """What workers have read; what a split raises there does not come this way.

    A worker that dies is noticed by torch, or before that by whoever was about to take a batch from
    its memory: each in words of its own. And torch would raise its error from a signal, wherever
    the run is at that moment: in the midst of an update, of a file, or of the end that another
    error brings about. Who waits for the worker's next batch hears of its death anyhow.
    """
    before = signal.getsignal(signal.SIGCHLD)
    begun = iter(batches)
    if current_thread() is main_thread():  # or torch has not changed it either
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)
    try:
        yield from begun
    except (RuntimeError, OSError, EOFError) as error:
        raise RunError(
            f"a process that reads batches has died ({error_text(error)}): was it killed, or is "
            "memory short? --workers 0 reads without"
        ) from error


HERE = Loading()
"""Batch by batch, when it is asked for, by the process that asks."""


class _Failed(NamedTuple):
    """What a worker sends in place of a batch that could not be read."""

    kind: type[Exception]
    text: str
    trace: str


class _Told:
    """A split, in a worker, that returns what it would raise.

    What torch makes of an error that crosses the border of a process is a page of text, and one
    that cannot be pickled hangs the run.
    """

    def __init__(self, split: Split) -> None:
        self._split = split

    def __len__(self) -> int:
        return len(self._split)

    def __getitems__(self, ids: list[int]) -> "Batch | _Failed":
        batch, error = outcome(lambda: self._split.__getitems__(ids))
        if error is None:
            return batch  # type: ignore[return-value]
        ours = isinstance(error, ConfigError)
        text = str(error) if isinstance(error, ConfigError | RunError) else error_text(error)
        trace = "".join(traceback.format_exception(error))
        return _Failed(ConfigError if ours else RunError, text, trace)


def _as_is(batch: Batch) -> Batch:
    return batch


def _begin(_: int) -> None:
    """In a worker, before its first batch: signals to stop are for the run's own process.

    Ctrl-C and SLURM signal all processes, and the run still needs its batches until it has saved.
    It ends a worker that does not end by itself with TERM, so that counts if it comes from there.
    """
    for number in STOP_SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    Thread(target=_end_when_told, args=(os.getppid(),), daemon=True).start()


def _end_when_told(parent: int) -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)
