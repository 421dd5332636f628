"""Find out that a rank is hung, say which and where, and end the run on all ranks.

Ranks wait for each other at every update, so one that hangs stops all of them, and what a
collective says when it has waited for too long names none. Here each rank has a thread that looks,
ten times within the time-out, how far its rank is, and tells the others through the store in which
the ranks met: no collective, and nothing on the device. If no rank has got any further in ten looks
in a row, the run ends. Looks are counted and not seconds: a job that was suspended has not hung.
"""

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import torch

from toolkit.process import FAILED
from toolkit.training.run import Run

LOOKS = 10
"""Looks without progress after which a rank is hung."""
LOOKS_TO_SPEAK = 2
"""Looks that the others wait for the rank that says what has happened, before they end."""
LOOKS_ALIVE = 5
"""Looks without a sign of life after which a rank's process is dead or suspended."""
_TORCH = str(Path(torch.__file__).parent)
_runs = count()
"""Ranks watch their runs in the same order, so the numbers are the same on each."""


class Place(NamedTuple):
    """Where a rank is, as it tells the others.

    Attributes:
        look: how often its thread has looked.
        steps: counts what it has done; ranks do the same things in the same order.
        waits: whether its main thread is inside PyTorch, as it is in a collective.
        at: file, line and function of that thread outside PyTorch.
    """

    look: int
    steps: int
    waits: bool
    at: str


class Looks:
    """What was seen of the ranks, look by look.

    Args:
        ranks: how many there are.
    """

    def __init__(self, ranks: int) -> None:
        self.places: list[Place | None] = [None] * ranks
        self._still = [0] * ranks  # looks without progress
        self._silent = [0] * ranks  # looks without a sign of life

    def add(self, seen: Sequence[Place | None]) -> None:
        """A look at all ranks; None for one that has not said anything yet."""
        for rank, (now, before) in enumerate(zip(seen, self.places, strict=True)):
            moved = now is not None and (before is None or now.steps != before.steps)
            spoke = now is not None and (before is None or now.look != before.look)
            self._still[rank] = 0 if moved else self._still[rank] + 1
            self._silent[rank] = 0 if spoke else self._silent[rank] + 1
        self.places = list(seen)

    @property
    def stuck(self) -> bool:
        """Whether no rank has got any further for so long that one must be hung."""
        return min(self._still) >= LOOKS

    def silent(self) -> list[int]:
        """The ranks whose process gives no sign of life."""
        return [rank for rank, looks in enumerate(self._silent) if looks >= LOOKS_ALIVE]

    def hung(self) -> list[int]:
        """The ranks that the others wait for.

        Those without a sign of life; else those that are behind; else those that are not inside
        PyTorch. All, if that leaves none.
        """
        if silent := self.silent():
            return silent
        places = dict(enumerate(place for place in self.places if place is not None))
        least = min(place.steps for place in places.values())
        behind = [rank for rank, place in places.items() if place.steps == least]
        if len(behind) < len(places):
            return behind
        return [rank for rank, place in places.items() if not place.waits] or list(places)

    def message(self, timeout: float) -> str:
        """What has happened, in one line."""
        silent, parts = self.silent(), []
        for rank in self.hung():
            place = self.places[rank]
            state = "gives no sign of life" if rank in silent else "hangs"
            seen = ", last seen" if rank in silent else ""
            parts.append(
                f"rank {rank} {state}" + ("" if place is None else f"{seen} at {place.at}")
            )
        return (
            f"no rank got any further for {timeout:g} s: {'; '.join(parts)}. The same command "
            "continues; if it is only slow, --rank-timeout gives it longer"
        )


@contextmanager
def watched(run: Run) -> Iterator[None]:
    """End the process if a rank of the run hangs within the block. All ranks enter it.

    With one process there is nothing to watch.
    """
    ranks, rank = run.accelerator.num_processes, run.accelerator.process_index
    if ranks == 1:
        yield
        return
    store = torch.distributed.PrefixStore(f"toolkit/watch/{next(_runs)}", _store())
    store.set_timeout(timedelta(seconds=run.config.rank_timeout))
    watch = Watch(store, rank, ranks, run.config.rank_timeout, lambda: _steps(run))
    main = threading.get_ident()

    def end(message: str, speaks: bool) -> None:
        if speaks:
            print(f"error: {message}", file=sys.stderr, flush=True)
        try:
            run.record.status("failed", run.update)
        finally:
            os._exit(FAILED)  # the main thread waits for a rank that will not come

    thread = threading.Thread(target=watch.look_on, args=(main, end), daemon=True)
    thread.start()
    try:
        yield
    finally:
        watch.over.set()


class Watch:
    """The thread that looks, in one rank.

    Args:
        store: what the ranks share.
        rank: this one.
        ranks: how many there are.
        timeout: seconds without progress after which a rank is hung.
        steps: says how far this rank is.
    """

    def __init__(
        self, store: Any, rank: int, ranks: int, timeout: float, steps: Callable[[], int]
    ) -> None:
        self.store, self.rank, self.timeout, self.steps = store, rank, timeout, steps
        self.looks = Looks(ranks)
        self.over = threading.Event()

    def look_on(self, main: int, end: Callable[[str, bool], object]) -> None:
        """Look until the watch is over or a rank is hung.

        Args:
            main: the thread that trains.
            end: called with what to say if a rank is hung, and whether this rank is to say it.
        """
        for number in count():
            if self.over.wait(self.timeout / LOOKS):
                return
            place, ranks = _place(number, self.steps(), main), range(len(self.looks.places))
            try:
                self.store.set(str(self.rank), json.dumps(place))
                seen, alone = [self._seen(rank) for rank in ranks], False
            except RuntimeError:  # whoever held the store has ended, and said why
                seen, alone = [place if rank == self.rank else None for rank in ranks], True
            self.looks.add(seen)
            if self.looks.stuck:
                alive = set(ranks) - set(self.looks.silent())
                speaks = not alone and self.rank == min(alive, default=self.rank)
                if not (speaks or alone):
                    # That rank looks within the time of one look; before it has spoken, the end of
                    # this one would be an error of its own in the collective where it waits.
                    self.over.wait(LOOKS_TO_SPEAK * self.timeout / LOOKS)
                end(self.looks.message(self.timeout), speaks)
                return

    def _seen(self, rank: int) -> Place | None:
        key = str(rank)
        return Place(*json.loads(self.store.get(key))) if self.store.check([key]) else None


def _steps(run: Run) -> int:
    return run.steps + run.record.stopwatch.steps


def _place(look: int, steps: int, thread: int) -> Place:
    frame = sys._current_frames().get(thread)
    waits = frame is not None and frame.f_code.co_filename.startswith(_TORCH)
    while frame is not None and frame.f_code.co_filename.startswith(_TORCH):
        frame = frame.f_back
    at = ""
    if frame is not None:
        at = f"{frame.f_code.co_filename}:{frame.f_lineno} ({frame.f_code.co_name})"
    return Place(look, steps, waits, at)


def _store() -> Any:
    """A connection to the store in which the ranks met, for this thread alone."""
    from torch.distributed import distributed_c10d

    return distributed_c10d._get_default_store().clone()
