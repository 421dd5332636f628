"""What the toolkit's loop costs beside a bare loop and beside its rivals: ``make bench``.

For each workload every side trains in a process of its own, and all of them share one core and take
turns: the train split hands out no batch to a side whose turn it is not. A turn is some updates and
is measured in CPU seconds, so that neither other programs nor the machine's drifting speed favour a
side. That is repeated with fresh processes, for where the memory of a process happens to lie alone
makes it some per cent faster or slower.

A ratio is side / bare, of the sums over the turns, so that nothing rare (a snapshot, a block of
events) is left out; the interval is Student's over the repetitions. The first turns are not
counted: in them ``adaptive`` searches. Overhead is in microseconds an update over the bare loop,
and its limits are shares of a rival's overhead in the same turns.

usage: python benchmarks/overhead.py [--repeats 4] [--scale 1.0] [--sides SIDE,...]
       [--beside CHECKOUT] [WORKLOAD ...]
--beside has the toolkit of another checkout run, too: before and after in the same turns.
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
from statistics import median
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
PACKAGES = ("torch", "accelerate", "transformers", "timm", "lightning-fabric")
PRELOADED = ("torch", "accelerate", "transformers.trainer", "timm", "lightning_fabric")
"""Imported once for all sides; none of the toolkit's modules is."""
BESIDE = " beside"
SEARCH = 60
"""Updates at least that are not counted: the search of ``adaptive`` takes 30."""


class Workload(NamedTuple):
    """What is trained, and how long.

    Attributes:
        target: TASK/MODEL.
        turn: updates of a turn.
        turns: turns of a side that are counted.
        tiny: whether it is the loop's own cost that is looked at: limits are shares of a rival's
            overhead, else ratios.
    """

    target: str
    turn: int
    turns: int
    tiny: bool


WORKLOADS = {
    "one parameter": Workload("workloads.py/one_parameter", 50, 20, True),
    "vit_micro": Workload("digits/vit_micro", 20, 20, True),
    "ResNet-18": Workload("workloads.py/resnet18", 2, 10, False),
    "LSTM": Workload("workloads.py/lstm", 2, 10, False),
    "MiniLM": Workload("workloads.py/minilm", 1, 10, False),
}


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
RATIO_LIMITS = {
    "vit_micro": (Limit("constant", "Trainer at equal settings", 0.97),),
    "ResNet-18": (*LOOP, Limit("constant", "Trainer at equal settings", 0.97)),
    "LSTM": (*LOOP, Limit("constant", "Trainer at equal settings", 0.97)),
    "MiniLM": (*LOOP, Limit("constant", "Trainer at equal settings", 1.0)),
}


class Gate:
    """Lets a side make one turn after the other, each when it is told to.

    Args:
        connection: over which the CPU seconds of a turn are told, and the next is allowed.
        turn: updates of a turn.
    """

    def __init__(self, connection: Connection, turn: int) -> None:
        self.connection, self.turn, self.fetched, self.begun = connection, turn, 0, 0.0

    def pass_by(self) -> None:
        """Called before a batch is handed out."""
        if self.fetched % self.turn == 0:
            self.connection.send(time.process_time() - self.begun)
            self.connection.recv()
            self.begun = time.process_time()
        self.fetched += 1


class Gated:
    """A split behind a gate."""

    def __init__(self, split: Any, gate: Gate) -> None:
        self.split, self.gate = split, gate

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, ids: list[int]) -> Any:
        self.gate.pass_by()
        return self.split.__getitems__(ids)


def play(side: str, workload: Workload, updates: int, root: str, connection: Connection) -> None:
    """Be one side, in a process of its own.

    Args:
        side: its name.
        workload: what it trains.
        updates: the budget.
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

    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = f"{HERE}/" if ".py/" in workload.target else ""
    target = task.parse_target(folder + workload.target)
    loaded = task.load(target.task)
    recipe = replace(
        task.recipe_of(loaded, target), optimizer="adamw", epochs=None, updates=updates, clip=None
    )
    gate = Gate(connection, workload.turn)
    if side in rivals.OURS:
        rivals.OURS[side](str(target), lambda split: Gated(split, gate), recipe, updates)
        return
    data = Gated(loaded.splits(target.model, recipe).train, gate)
    rivals.LOOPS[side](loaded, loaded.model(target.model, recipe), data, recipe, updates)


def repetition(workload: Workload, sides: Mapping[str, str], seed: int) -> dict[str, list[float]]:
    """Let every side make its turns, in fresh processes.

    Args:
        workload: what is trained.
        sides: each side's checkout.
        seed: of the order in which they take turns.

    Returns:
        The CPU seconds of each side's turns.
    """
    for module in PRELOADED:
        __import__(module)
    context = multiprocessing.get_context("fork")
    warm = math.ceil(SEARCH / workload.turn) if workload.tiny else 3
    updates = workload.turn * (warm + workload.turns + 1)
    ends, processes = {}, []
    for side, root in sides.items():
        ends[side], theirs = context.Pipe()
        arguments = (side.removesuffix(BESIDE), workload, updates, root, theirs)
        processes.append(context.Process(target=play, args=arguments, daemon=True))
        processes[-1].start()
        ends[side].recv()  # it has been built, and waits
    order, taken = random.Random(seed), {side: [] for side in sides}  # type: ignore[var-annotated]
    for turn in range(warm + workload.turns):
        for side in order.sample(list(sides), len(sides)):
            ends[side].send(True)
            seconds = ends[side].recv()
            if turn >= warm:
                taken[side].append(seconds)
    for process in processes:
        process.kill()
        process.join()
    return taken


def repeated(
    name: str, sides: Mapping[str, str], repeats: int, scale: float
) -> list[dict[str, list[float]]]:
    """The repetitions of a workload, each in an interpreter of its own."""
    made = []
    for seed in range(repeats):
        command = [sys.executable, __file__, "--one", json.dumps([name, dict(sides), seed, scale])]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        made.append(json.loads(done.stdout.splitlines()[-1]))
    return made


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Student's 95 % interval of the mean."""
    from toolkit.stats import t_interval

    return t_interval(values)


def ratios(made: Sequence[Mapping[str, list[float]]], side: str, rival: str) -> list[float]:
    """Of each repetition, the time of a side over that of a rival."""
    return [sum(one[side]) / sum(one[rival]) for one in made]


def overheads(made: Sequence[Mapping[str, list[float]]], side: str, turn: int) -> list[float]:
    """Of each repetition, the microseconds of an update over the bare loop's."""
    return [1e6 * (sum(one[side]) - sum(one["bare"])) / (len(one["bare"]) * turn) for one in made]


def table(name: str, made: Sequence[Mapping[str, list[float]]]) -> Iterator[str]:
    """A workload's table, a line for each side."""
    workload = WORKLOADS[name]
    yield f"\n### {name}\n"
    yield "| side | ms an update | over bare, us | side / bare | 95 % |"
    yield "|---|---|---|---|---|"
    for side in made[0]:
        each = median(sum(one[side]) / len(one[side]) / workload.turn for one in made)
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


def limits(name: str, made: Sequence[Mapping[str, list[float]]]) -> Iterator[str]:
    """What was asked of a workload, and whether it is met."""
    turn = WORKLOADS[name].turn

    def shares(side: str, rival: str) -> list[float]:
        theirs = overheads(made, rival, turn)
        return [a / b for a, b in zip(overheads(made, side, turn), theirs, strict=True)]

    kinds: tuple[tuple[str, Any, Callable[[str, str], list[float]]], ...] = (
        ("overhead of", LIMITS, shares),
        ("time of", RATIO_LIMITS, lambda side, rival: ratios(made, side, rival)),
    )
    for what, given, values in kinds:
        for limit in given.get(name, ()):
            if not {limit.side, limit.rival} <= made[0].keys():
                continue
            found = values(limit.side, limit.rival)
            low, high = interval(found)
            met = "yes" if median(found) <= limit.most else "no"
            yield (
                f"| {what} {limit.side} / {limit.rival} | {median(found):.3f} "
                f"| {low:.3f} to {high:.3f} | {limit.most:g} | {met} |"
            )


def main() -> None:
    """Time every workload and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workloads", nargs="*", default=list(WORKLOADS), metavar="WORKLOAD")
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--scale", type=float, default=1.0, help="times as many turns")
    parser.add_argument("--sides", default="", help="these alone, by commas, and bare")
    parser.add_argument("--beside", default="", metavar="CHECKOUT")
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
        workload = WORKLOADS[name]
        workload = workload._replace(turns=max(2, round(workload.turns * scale)))
        print(json.dumps(repetition(workload, sides, seed)))
        return
    import rivals

    here = str(HERE.parent)
    asked = set(filter(None, arguments.sides.split(",")))
    names = [n for n in (*rivals.LOOPS, *rivals.OURS) if not asked or n in {*asked, "bare"}]
    sides = dict.fromkeys(names, here)
    if arguments.beside:
        other = str(Path(arguments.beside).resolve())
        sides |= {f"{n}{BESIDE}": other for n in names if n in rivals.OURS}
    found = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    print(f"python {platform.python_version()}, {found}, {platform.machine()}, one thread")
    print(f"command: python benchmarks/overhead.py {' '.join(sys.argv[1:])}".rstrip())
    for name in arguments.workloads:
        made = repeated(name, sides, arguments.repeats, arguments.scale)
        print("\n".join(table(name, made)), flush=True)


if __name__ == "__main__":
    main()
