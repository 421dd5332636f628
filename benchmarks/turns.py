"""Sides that train the same workload in turns, each in a process of its own: for ``overhead.py``.

The train split of a side hands out no batch before its turn, and tells what the updates since the
last word took: CPU seconds, or on a GPU the seconds until it has done all it was given.
"""

import multiprocessing
import os
import random
import resource
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import psutil

HERE = Path(__file__).resolve().parent
PRELOADED = ("torch", "accelerate", "transformers.trainer", "timm", "lightning_fabric")
"""Imported once for all sides; none of the toolkit's modules is."""
BESIDE = " beside"
"""Ends the name of a side that has the toolkit of another checkout."""
BUDGET = 1000
"""Updates of every run; it ends when its turns are over."""
FREE = 40
"""Updates of ``adaptive`` before its first turn: its search takes at most 30 of 1,000."""
WARM_TURNS = 3
"""Turns of every side that are not counted."""


class Workload(NamedTuple):
    """What is trained, and how long.

    Attributes:
        target: TASK/MODEL; a TASK that is a file lies in this folder.
        turn: updates of a turn.
        turns: turns of a side that are counted.
        tiny: whether it is the loop's own cost that is looked at: limits are shares of a rival's
            overhead, else ratios.
        settings: fields of the recipe that are others than its own.
        device: cpu or cuda.
    """

    target: str
    turn: int
    turns: int
    tiny: bool
    settings: Mapping[str, Any] = {}
    device: str = "cpu"

    @property
    def longest(self) -> int:
        """Tokens to which the Trainer's example scripts pad; 0 where there are no real texts."""
        return int(self.settings.get("max_length", 0))

    @property
    def updates(self) -> int:
        """Of the longest side, until its turns are over."""
        return FREE + (WARM_TURNS + self.turns) * self.turn


class Spent(NamedTuple):
    """What the updates since the last word took: seconds and page faults."""

    seconds: float
    faults: int


class Ended(NamedTuple):
    """What a side has come to after its last turn.

    Attributes:
        megabytes: of memory that it holds, of which what all sides have imported is shared.
        event_bytes: of its record, an update; 0 for loops that keep none.
    """

    megabytes: float
    event_bytes: float


class Taken(NamedTuple):
    """What the sides have taken in one repetition.

    Attributes:
        turns: seconds of each side's turns.
        free: seconds of its updates before the first turn.
        faults: page faults of an update in its turns.
        megabytes, event_bytes: as ``Ended`` has them.
    """

    turns: dict[str, list[float]]
    free: dict[str, float]
    faults: dict[str, float]
    megabytes: dict[str, float]
    event_bytes: dict[str, float]


class OverError(BaseException):
    """A side's turns are over; no ``except Exception`` of a loop is to take it for a failure."""


def cpu_clock() -> float:
    """CPU seconds of this process."""
    return time.process_time()


def gpu_clock() -> float:
    """Seconds, once the GPU has done all that this process gave it."""
    import torch

    torch.cuda.synchronize()
    return time.perf_counter()


CLOCKS = {"cpu": cpu_clock, "cuda": gpu_clock}


class Gate:
    """Lets a side make one turn after the other, each when it is told to.

    Args:
        connection: over which what was ``Spent`` is told, and the next turn is allowed: True, or
            False where there are no more.
        turn: updates of a turn.
        free: updates before the first turn.
        clock: tells the seconds.

    Attributes:
        megabytes: of memory that the process held when its turns were over.
    """

    def __init__(
        self, connection: Connection, turn: int, free: int, clock: Callable[[], float] = cpu_clock
    ) -> None:
        self.connection, self.turn, self.free, self.clock = connection, turn, free, clock
        self.fetched, self.begun, self.faults = 0, 0.0, 0
        self.megabytes = 0.0

    def pass_by(self) -> int:
        """Called before a batch is handed out.

        Returns:
            The batch's number, from 0 at the first turn; negative before it.

        Raises:
            OverError: after the last turn.
        """
        number = self.fetched - self.free
        self.fetched += 1
        if number >= 0 and number % self.turn == 0:
            self.connection.send(Spent(self.clock() - self.begun, _faults() - self.faults))
            if not self.connection.recv():
                self.megabytes = psutil.Process().memory_info().rss / 1e6
                raise OverError
            self._begin()
        elif self.fetched == 1:
            self._begin()
        return number

    def _begin(self) -> None:
        self.faults, self.begun = _faults(), self.clock()


def _faults() -> int:
    """Page faults of this process that took no reading from a disk."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


class Gated:
    """A split behind a gate.

    Args:
        split: what it hands out.
        gate: is passed at each batch.
        ids: gives the samples of a turn's batch by its number, where they are others than those
            asked for.
        longest: tokens to which texts are padded; 0 for the longest of a batch.
    """

    def __init__(
        self,
        split: Any,
        gate: Gate,
        ids: Callable[[int], list[int]] | None = None,
        longest: int = 0,
    ) -> None:
        self.split, self.gate, self.ids, self.longest = split, gate, ids, longest

    @property
    def lengths(self) -> Any:
        """Of its samples, if they are to be grouped by it."""
        return getattr(self.split, "lengths", None)

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, ids: list[int]) -> Any:
        number = self.gate.pass_by()
        chosen = ids if self.ids is None or number < 0 else self.ids(number)
        batch = self.split.__getitems__(chosen)
        return self._padded(batch) if self.longest else batch

    def _padded(self, batch: Any) -> Any:
        from torch.nn import functional as F

        fill = {**self.split.fill, "attention_mask": 0}
        return {
            name: F.pad(rows, (0, self.longest - rows.shape[1]), value=fill[name])
            if name in fill
            else rows
            for name, rows in batch.items()
        }


def end_with_parent() -> None:
    """Have this process end when the one that started it does, however that ends.

    A forked side has a copy of the parent's end of its own connection: it would wait for its turn
    for ever.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def play(side: str, workload: Workload, seed: int, root: str, connection: Connection) -> None:
    """Be one side, in a process of its own.

    Args:
        side: its name.
        workload: what it trains.
        seed: of the order of real texts.
        root: the checkout whose toolkit it takes.
        connection: to whoever lets it make its turns.
    """
    end_with_parent()
    # A hook of the environment may have imported a toolkit, from wherever it found one.
    for name in [name for name in sys.modules if name.partition(".")[0] == "toolkit"]:
        del sys.modules[name]
    sys.path[:0] = [root, str(HERE)]
    import rivals
    import torch

    from toolkit import task

    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = f"{HERE}/" if ".py/" in workload.target else ""
    target = task.parse_target(folder + workload.target)
    loaded = task.load(target.task)
    recipe: Any = replace(
        task.recipe_of(loaded, target), optimizer="adamw", epochs=None, updates=BUDGET, clip=None
    )
    recipe = replace(recipe, **workload.settings)
    free = FREE if side == "adaptive" else 1
    gate = Gate(connection, workload.turn, free, CLOCKS[workload.device])

    def gated(split: Any) -> Gated:
        longest = workload.longest if side in rivals.PADDING else 0
        ids = batches_of_turns(split, workload, recipe, seed) if workload.longest else None
        return Gated(split, gate, ids, longest)

    event_bytes = 0.0
    if side in rivals.OURS:
        event_bytes = rivals.OURS[side](str(target), gated, recipe, BUDGET, OverError)
    else:
        split = loaded.splits(target.model, recipe).train
        model = loaded.model(target.model, recipe)
        with suppress(OverError):
            rivals.LOOPS[side](loaded, model, gated(split), recipe, BUDGET, workload.device)
    connection.send(Ended(gate.megabytes, event_bytes))


def batches_of_turns(
    split: Any, workload: Workload, recipe: Any, seed: int
) -> Callable[[int], list[int]]:
    """The toolkit's batches of texts of similar length, for every side the same ones in its turns.

    As many as the turns that are counted have updates, over and over: so a side that is a batch
    ahead, as Accelerate's and the Trainer's are, has trained on the same ones all the same.
    """
    from toolkit.training.batches import BatchPlan

    plan = BatchPlan(len(split), recipe.global_batch, seed, split.lengths)
    return lambda number: plan.ids(number % (workload.turn * workload.turns)).tolist()


def repetition(workload: Workload, sides: Mapping[str, str], seed: int) -> Taken:
    """Let every side make its turns, in fresh processes.

    Args:
        workload: what is trained.
        sides: each side's checkout.
        seed: of the order in which they take turns, and of real texts.
    """
    on_gpu = workload.device == "cuda"  # which no process can use that was forked from another
    for module in PRELOADED if not on_gpu else ():
        if find_spec(module) is not None:
            __import__(module)
    context: Any = multiprocessing.get_context("spawn" if on_gpu else "fork")
    ends, processes, free, ended = dict[str, Connection](), [], {}, {}
    try:
        for side, root in sides.items():
            ends[side], theirs = context.Pipe()
            arguments = (side.removesuffix(BESIDE), workload, seed, root, theirs)
            processes.append(context.Process(target=play, args=arguments, daemon=True))
            processes[-1].start()
            theirs.close()  # a side that fails ends its own, which is heard here
            free[side] = ends[side].recv().seconds  # it has been built, and waits
        spent = _in_turns(workload, ends, random.Random(seed))
        for side in sides:
            ends[side].send(False)
            ended[side] = ends[side].recv()
    finally:
        for process in processes:
            process.kill()  # a run of the toolkit's takes a TERM for a wish to be continued
            process.join()
    updates = workload.turn * workload.turns
    return Taken(
        {side: [one.seconds for one in made] for side, made in spent.items()},
        free,
        {side: sum(one.faults for one in made) / updates for side, made in spent.items()},
        {side: one.megabytes for side, one in ended.items()},
        {side: one.event_bytes for side, one in ended.items()},
    )


def _in_turns(
    workload: Workload, ends: Mapping[str, Connection], order: random.Random
) -> dict[str, list[Spent]]:
    """What each side's counted turns took."""
    spent: dict[str, list[Spent]] = {side: [] for side in ends}
    for turn in range(WARM_TURNS + workload.turns):
        for side in order.sample(list(ends), len(ends)):
            ends[side].send(True)
            one = ends[side].recv()
            if turn >= WARM_TURNS:
                spent[side].append(one)
    return spent
