"""What the toolkit's loop costs beside a bare loop and beside its rivals: ``make bench``.

For each workload every side trains in a process of its own, and all of them share one core and take
turns: the train split hands out no batch to a side whose turn it is not. A turn is some updates and
is measured in CPU seconds, so that neither other programs nor the machine's drifting speed favour a
side. That is repeated with fresh processes, for where the memory of a process happens to lie alone
makes it some per cent faster or slower.

A ratio is side / bare, of the sums over the turns, so that nothing rare (a snapshot, a block of
events) is left out; the interval is Student's over the repetitions. The first updates have no turns:
in them ``adaptive`` searches. What that cost stands in the ratio of whole runs, of 1,000 updates.
Overhead is in microseconds an update over the bare loop, and its limits are shares of a rival's
overhead in the same turns.

On texts all sides train on the toolkit's batches, of similar length, padded to their longest; but
the Trainer as its example scripts set it pads all texts to the most tokens that are allowed.

usage: python benchmarks/overhead.py [--repeats 4] [--scale 1.0] [--sides SIDE,...]
       [--beside CHECKOUT] [--keep FOLDER] [WORKLOAD ...]
--beside has the toolkit of another checkout run, too: before and after in the same turns. With
--keep each repetition is left in a folder, and one that lies there is not made again.
"""

import argparse
import json
import math
import multiprocessing
import os
import platform
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

from torch.nn import functional as F

HERE = Path(__file__).resolve().parent
PACKAGES = ("torch", "accelerate", "transformers", "timm", "lightning-fabric")
PRELOADED = ("torch", "accelerate", "transformers.trainer", "timm", "lightning_fabric")
"""Imported once for all sides; none of the toolkit's modules is."""
BESIDE = " beside"
FREE = 40
"""Updates of ``adaptive`` before its first turn; its search takes 30."""
BUDGET = 1000
"""Updates of every run; it ends when its turns are over."""
WARM_TURNS = 3
"""Turns of every side that are not counted."""


class Workload(NamedTuple):
    """What is trained, and how long.

    Attributes:
        target: TASK/MODEL.
        turn: updates of a turn.
        turns: turns of a side that are counted.
        tiny: whether it is the loop's own cost that is looked at: limits are shares of a rival's
            overhead, else ratios.
        settings: fields of the recipe that are others than its own.
    """

    target: str
    turn: int
    turns: int
    tiny: bool
    settings: Mapping[str, Any] = {}

    @property
    def longest(self) -> int:
        """Tokens to which the Trainer's example scripts pad; 0 where there are no real texts."""
        return int(self.settings.get("max_length", 0))


MINILM = {"init": "random", "first_layers": 6, "width": 384, "global_batch": 4}
"""All-MiniLM-L6-v2's shape."""
WORKLOADS = {
    "one parameter": Workload("workloads.py/one_parameter", 50, 20, True),
    "vit_micro": Workload("digits/vit_micro", 20, 20, True),
    "ResNet-18": Workload("workloads.py/resnet18", 2, 20, False),
    "LSTM": Workload("workloads.py/lstm", 4, 20, False),
    "MiniLM": Workload("workloads.py/minilm", 2, 12, False),
}
TEXTS = {
    "IMDB": Workload("imdb/bert-base-uncased", 1, 12, False, {**MINILM, "max_length": 512}),
    "SQuAD v2": Workload("squad_v2/roberta-base", 1, 12, False, {**MINILM, "max_length": 384}),
}
"""Real texts: they take a data folder and half an hour each, so they are made when asked for."""
ALL = {**WORKLOADS, **TEXTS}
LARGE_SIDES = (
    *("bare", "Accelerate", "Trainer at equal settings", "Trainer as its examples"),
    *("constant", "adaptive", "constant giving memory back"),
)
"""Sides of workloads that are not tiny."""


class Limit(NamedTuple):
    """What a side may cost: at most ``most`` times a rival's overhead, or a rival's time."""

    side: str
    rival: str
    most: float


LIMITS = {
    "one parameter": (
        Limit("constant", "Accelerate", 0.6),
        Limit("adaptive", "Accelerate", 0.8),
        Limit("constant reading 1 in 50", "Fabric", 1.0),
    ),
    "vit_micro": (
        Limit("constant", "Accelerate", 0.85),
        Limit("adaptive", "Accelerate", 1.0),
    ),
}
"""As shares of overheads."""
LOOP = (Limit("constant", "bare", 1.02), Limit("adaptive", "constant", 1.02))
FASTER = Limit("constant", "Trainer at equal settings", 0.97)
AS_FAST = Limit("constant", "Trainer at equal settings", 1.0)
TEXT = (*LOOP, AS_FAST, Limit("constant", "Trainer as its examples", 0.77))
RATIO_LIMITS = {
    "vit_micro": (FASTER,),
    "ResNet-18": (*LOOP, FASTER, Limit("constant", "bare", 0.95)),
    "LSTM": (*LOOP, FASTER, Limit("constant", "bare", 0.95)),
    "MiniLM": (*LOOP, AS_FAST, Limit("constant", "bare", 0.95)),
    "IMDB": TEXT,
    "SQuAD v2": TEXT,
}
"""0.95 is asked of two of the three; it is what memory that stays in the process is to bring."""
WHOLE_RUN = 1.06
"""What a whole run under ``adaptive`` may take of one under ``constant``, search included."""


class Gate:
    """Lets a side make one turn after the other, each when it is told to.

    Args:
        connection: over which the CPU seconds of the updates since the last word are told, and the
            next turn is allowed.
        turn: updates of a turn.
        free: updates before the first turn.
    """

    def __init__(self, connection: Connection, turn: int, free: int) -> None:
        self.connection, self.turn, self.free = connection, turn, free
        self.fetched, self.begun = 0, 0.0

    def pass_by(self) -> int:
        """Called before a batch is handed out; returns how many have been."""
        due = self.fetched - self.free
        if due >= 0 and due % self.turn == 0:
            self.connection.send(time.process_time() - self.begun)
            self.connection.recv()
            self.begun = time.process_time()
        elif not self.fetched:
            self.begun = time.process_time()
        self.fetched += 1
        return self.fetched - 1


class Gated:
    """A split behind a gate.

    Args:
        split: what it hands out.
        gate: is passed at each batch.
        ids: gives the samples of an update, where they are others than those asked for.
        longest: tokens to which texts are padded; 0 for the longest of a batch.
    """

    def __init__(
        self,
        split: Any,
        gate: Gate,
        ids: Callable[[int], Any] | None = None,
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
        batch = self.split.__getitems__(ids if self.ids is None else self.ids(number).tolist())
        return self._padded(batch) if self.longest else batch

    def _padded(self, batch: Any) -> Any:
        fill = {**self.split.fill, "attention_mask": 0}
        return {
            name: F.pad(rows, (0, self.longest - rows.shape[1]), value=fill[name])
            if name in fill
            else rows
            for name, rows in batch.items()
        }


def play(side: str, workload: Workload, root: str, connection: Connection) -> None:
    """Be one side, in a process of its own.

    Args:
        side: its name.
        workload: what it trains.
        root: the checkout whose toolkit it takes.
        connection: to whoever lets it make its turns.
    """
    # A hook of the environment may have imported a toolkit, from wherever it found one.
    for name in [name for name in sys.modules if name.partition(".")[0] == "toolkit"]:
        del sys.modules[name]
    sys.path[:0] = [root, str(HERE)]
    import rivals
    import torch

    from toolkit import task
    from toolkit.training.batches import BatchPlan

    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = f"{HERE}/" if ".py/" in workload.target else ""
    target = task.parse_target(folder + workload.target)
    loaded = task.load(target.task)
    recipe: Any = replace(
        task.recipe_of(loaded, target), optimizer="adamw", epochs=None, updates=BUDGET, clip=None
    )
    recipe = replace(recipe, **workload.settings)
    gate = Gate(connection, workload.turn, FREE if side == "adaptive" else 1)
    if side in rivals.OURS:
        rivals.OURS[side](str(target), lambda split: Gated(split, gate), recipe, BUDGET)
        return
    split: Any = loaded.splits(target.model, recipe).train
    ids, longest = None, 0
    if workload.longest:
        plan = BatchPlan(len(split), recipe.global_batch, 0, split.lengths)
        ids, longest = plan.ids, workload.longest * (side in rivals.PADDING)
    data = Gated(split, gate, ids, longest)
    rivals.LOOPS[side](loaded, loaded.model(target.model, recipe), data, recipe, BUDGET)


class Taken(NamedTuple):
    """CPU seconds that the sides have taken in one repetition.

    Attributes:
        turns: of each side's turns.
        free: of its updates before the first turn.
    """

    turns: dict[str, list[float]]
    free: dict[str, float]


def repetition(workload: Workload, sides: Mapping[str, str], seed: int) -> Taken:
    """Let every side make its turns, in fresh processes.

    Args:
        workload: what is trained.
        sides: each side's checkout.
        seed: of the order in which they take turns.
    """
    for module in PRELOADED:
        __import__(module)
    context = multiprocessing.get_context("fork")
    ends, processes, free = {}, [], {}
    for side, root in sides.items():
        ends[side], theirs = context.Pipe()
        arguments = (side.removesuffix(BESIDE), workload, root, theirs)
        processes.append(context.Process(target=play, args=arguments, daemon=True))
        processes[-1].start()
        theirs.close()  # a side that fails ends its own, which is heard here
        free[side] = ends[side].recv()  # it has been built, and waits
    order, turns = random.Random(seed), {side: [] for side in sides}  # type: ignore[var-annotated]
    for turn in range(WARM_TURNS + workload.turns):
        for side in order.sample(list(sides), len(sides)):
            ends[side].send(True)
            seconds = ends[side].recv()
            if turn >= WARM_TURNS:
                turns[side].append(seconds)
    for process in processes:
        process.kill()
        process.join()
    return Taken(turns, free)


def repeated(
    name: str, sides: Mapping[str, str], repeats: int, scale: float, keep: Path | None
) -> list[Taken]:
    """The repetitions of a workload, each in an interpreter of its own.

    Args:
        name: of the workload.
        sides: each side's checkout.
        repeats: how many.
        scale: times as many turns.
        keep: a folder for the repetitions, and with those of a run that was interrupted.
    """
    made = []
    for seed in range(repeats):
        file = None if keep is None else keep / f"{name.replace(' ', '_')}-{seed}.json"
        if file is not None and file.exists():
            made.append(Taken(*json.loads(file.read_text())))
            continue
        command = [sys.executable, __file__, "--one", json.dumps([name, dict(sides), seed, scale])]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        line = done.stdout.splitlines()[-1]
        made.append(Taken(*json.loads(line)))
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(line)
    return made


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Student's 95 % interval of the mean."""
    from toolkit.stats import t_interval

    return t_interval(values)


def ratios(made: Sequence[Taken], side: str, rival: str) -> list[float]:
    """Of each repetition, the time of a side over that of a rival."""
    return [sum(one.turns[side]) / sum(one.turns[rival]) for one in made]


def overheads(made: Sequence[Taken], side: str, turn: int) -> list[float]:
    """Of each repetition, the microseconds of an update over the bare loop's."""
    return [
        1e6 * (sum(one.turns[side]) - sum(one.turns["bare"])) / (len(one.turns["bare"]) * turn)
        for one in made
    ]


def whole_runs(made: Sequence[Taken], turn: int) -> list[float]:
    """Of each repetition, the time of a whole run under ``adaptive`` over one under ``constant``."""
    found = []
    for one in made:
        adaptive, constant = (
            sum(one.turns[side]) / (len(one.turns[side]) * turn)
            for side in ("adaptive", "constant")
        )
        found.append((one.free["adaptive"] + (BUDGET - FREE) * adaptive) / (BUDGET * constant))
    return found


def table(name: str, made: Sequence[Taken]) -> Iterator[str]:
    """A workload's table, a line for each side."""
    workload = ALL[name]
    yield f"\n### {name}\n"
    yield "| side | ms an update | over bare, us | side / bare | 95 % |"
    yield "|---|---|---|---|---|"
    for side in made[0].turns:
        each = median(fmean(one.turns[side]) / workload.turn for one in made)
        over = median(overheads(made, side, workload.turn))
        found = ratios(made, side, "bare")
        low, high = interval([math.log(value) for value in found])
        yield (
            f"| {side} | {1000 * each:.3f} | {over:+.0f} | {median(found):.3f} "
            f"| {math.exp(low):.3f} to {math.exp(high):.3f} |"
        )
    if found_limits := list(limits(name, made)):
        yield "\n| limit | found | 95 % | at most | met |\n|---|---|---|---|---|"
        yield from found_limits


def limits(name: str, made: Sequence[Taken]) -> Iterator[str]:
    """What was asked of a workload, and whether it is met."""
    turn, sides = ALL[name].turn, made[0].turns.keys()

    def shares(side: str, rival: str) -> list[float]:
        theirs = overheads(made, rival, turn)
        return [a / b for a, b in zip(overheads(made, side, turn), theirs, strict=True)]

    kinds: tuple[tuple[str, Any, Callable[[str, str], list[float]]], ...] = (
        ("overhead of", LIMITS, shares),
        ("time of", RATIO_LIMITS, lambda side, rival: ratios(made, side, rival)),
    )
    for what, given, values in kinds:
        for limit in given.get(name, ()):
            if {limit.side, limit.rival} <= sides:
                asked = f"{what} {limit.side} / {limit.rival}"
                yield _met(asked, values(limit.side, limit.rival), limit.most)
    if {"adaptive", "constant"} <= sides and not ALL[name].tiny:
        asked = f"whole run of {BUDGET:,} updates, adaptive / constant"
        yield _met(asked, whole_runs(made, turn), WHOLE_RUN)


def _met(asked: str, found: Sequence[float], most: float) -> str:
    """The line of something that was asked for."""
    low, high = interval(found)
    met = "yes" if median(found) <= most else "no"
    return f"| {asked} | {median(found):.3f} | {low:.3f} to {high:.3f} | {most:g} | {met} |"


def main() -> None:
    """Time every workload and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workloads", nargs="*", default=list(WORKLOADS), metavar="WORKLOAD")
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--scale", type=float, default=1.0, help="times as many turns")
    parser.add_argument("--sides", default="", help="these alone, by commas, and bare")
    parser.add_argument("--beside", default="", metavar="CHECKOUT")
    parser.add_argument("--keep", type=Path, default=None, metavar="FOLDER")
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.repeats < 2:
        parser.error("--repeats: an interval takes at least 2")
    for threads in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[threads] = "1"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    if arguments.one:
        name, sides, seed, scale = json.loads(arguments.one)
        workload = ALL[name]
        workload = workload._replace(turns=max(2, round(workload.turns * scale)))
        print(json.dumps(repetition(workload, sides, seed)))
        return
    import rivals

    here = str(HERE.parent)
    asked = set(filter(None, arguments.sides.split(",")))
    if unknown := {*arguments.workloads} - ALL.keys():
        parser.error(f"{', '.join(unknown)}: workloads are {', '.join(ALL)}")
    found = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    print(f"python {platform.python_version()}, {found}, {platform.machine()}, one thread")
    print(f"command: python benchmarks/overhead.py {' '.join(sys.argv[1:])}".rstrip())
    for name in arguments.workloads:
        usual = rivals.TINY_SIDES if ALL[name].tiny else LARGE_SIDES
        names = [
            n for n in (*rivals.LOOPS, *rivals.OURS) if n in ({*asked, "bare"} if asked else usual)
        ]
        sides = dict.fromkeys(names, here)
        if arguments.beside:
            other = str(Path(arguments.beside).resolve())
            sides |= {f"{n}{BESIDE}": other for n in names if n in rivals.OURS}
        made = repeated(name, sides, arguments.repeats, arguments.scale, arguments.keep)
        print("\n".join(table(name, made)), flush=True)


if __name__ == "__main__":
    main()
