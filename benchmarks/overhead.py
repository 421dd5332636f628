"""What the toolkit's loop costs beside a bare loop and beside its rivals: ``make bench``.

For each workload every side trains in a process of its own, and all of them share one core and take
turns: the train split hands out no batch to a side whose turn it is not. A turn is some updates and
is measured in CPU seconds, so that neither other programs nor the machine's drifting speed favour a
side. That is repeated with fresh processes, for where the memory of a process happens to lie alone
makes it some per cent faster or slower.

A ratio is side / bare, of the sums over the turns, so that nothing rare (a snapshot, a block of
events) is left out; the interval is Student's over the repetitions. The first updates have no
turns: in them ``adaptive`` searches. What that cost stands in the ratio of whole runs, of 1,000
updates. Overhead is in microseconds an update over the bare loop, and its limits are shares of a
rival's overhead in the same turns.

On texts all sides train on the toolkit's batches, of similar length, padded to their longest; but
the Trainer as its example scripts set it pads all texts to the most tokens that are allowed.

usage: python benchmarks/overhead.py [--repeats 3] [--scale 1.0] [--sides SIDE,...]
       [--beside CHECKOUT] [--keep FOLDER] [--check] [WORKLOAD ...]
--beside has the toolkit of another checkout run, too: before and after in the same turns. With
--keep each repetition is left in a folder, and one that lies there is not made again. --check only
looks whether what is asked for can be made.
"""

import argparse
import hashlib
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

from turns import BESIDE, BUDGET, FREE, HERE, Taken, Workload, repetition

PACKAGES = ("torch", "accelerate", "transformers", "timm", "lightning-fabric")
MINILM = {"init": "random", "first_layers": 6, "width": 384, "global_batch": 4}
"""All-MiniLM-L6-v2's shape."""
WORKLOADS = {
    "one parameter": Workload("workloads.py/one_parameter", 40, 20, True),
    "vit_micro": Workload("digits/vit_micro", 40, 20, True),
    "ResNet-18": Workload("workloads.py/resnet18", 2, 20, False),
    "LSTM": Workload("workloads.py/lstm", 4, 20, False),
    "MiniLM": Workload("workloads.py/minilm", 2, 20, False),
}
TEXTS = {
    "IMDB": Workload("imdb/bert-base-uncased", 1, 30, False, {**MINILM, "max_length": 512}),
    "SQuAD v2": Workload("squad_v2/roberta-base", 1, 30, False, {**MINILM, "max_length": 384}),
}
"""Real texts: they take a data folder and long, so they are made when asked for."""
NEEDED = {"IMDB": ("imdb", "tokenizers"), "SQuAD v2": ("squad_v2", "tokenizers")}
"""Folders that they need."""
ALL = {**WORKLOADS, **TEXTS}
GIVING = "constant giving memory back"
OURS = ("constant", "adaptive", "constant reading 1 in 50", GIVING)
TRAINERS = ("Trainer at equal settings", "Trainer as its examples")
SIDES = ("bare", "Fabric", "Accelerate", "timm's shape", *TRAINERS, *OURS)
TINY_SIDES = tuple(side for side in SIDES if side != GIVING)
LARGE_SIDES = ("bare", "Accelerate", *TRAINERS, "constant", "adaptive", GIVING)
TEXT_SIDES = ("bare", *TRAINERS, "constant", "adaptive")
"""Fewer, for each holds 1 to 3 GB while it waits for its turn."""


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
FASTER = Limit("constant", "Trainer at equal settings", 0.97)
AS_FAST = Limit("constant", "Trainer at equal settings", 1.0)
LOOP = (
    Limit("constant", "bare", 1.02),
    Limit(GIVING, "bare", 1.02),
    Limit("adaptive", "constant", 1.02),
)
KEPT = (Limit("constant", "bare", 0.95), Limit("constant", GIVING, 0.95))
"""Asked of two of three: what memory that stays in the process is to bring. They count where a side
gives it back."""
TEXT = (*LOOP, AS_FAST, Limit("constant", "Trainer as its examples", 0.77))
RATIO_LIMITS = {
    "vit_micro": (FASTER,),
    "ResNet-18": (*LOOP, *KEPT, FASTER),
    "LSTM": (*LOOP, *KEPT, FASTER),
    "MiniLM": (*LOOP, *KEPT, AS_FAST),
    "IMDB": TEXT,
    "SQuAD v2": TEXT,
}
WHOLE_RUN = 1.06
"""What a whole run under ``adaptive`` may take of one under ``constant``, search included."""


class Asked(NamedTuple):
    """A repetition: of what, between whom, and from which sources.

    Attributes:
        name: of the workload.
        workload: what is trained.
        sides: each side's checkout.
        seed: of the repetition.
        sources: SHA-256 of the code of each checkout.
    """

    name: str
    workload: Workload
    sides: dict[str, str]
    seed: int
    sources: dict[str, str]


class KeptError(ValueError):
    """A kept repetition is of something else than what is asked for now."""


def sources_sha(root: str) -> str:
    """SHA-256 of the Python files of a checkout's toolkit and tasks."""
    digest = hashlib.sha256()
    for folder in ("toolkit", "tasks"):
        for file in sorted(Path(root, folder).rglob("*.py")):
            digest.update(f"{file.relative_to(root).as_posix()}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def kept_or_made(asked: Asked, keep: Path | None, script: str = __file__) -> Taken:
    """A repetition, made in an interpreter of its own if it is not in the folder of kept ones.

    Args:
        asked: what it is of.
        keep: a folder for the repetitions, and with those of a run that was interrupted.
        script: that makes one, told by ``--one``.

    Raises:
        KeptError: if the one in the folder is of other sides, turns or sources.
    """
    line = json.dumps(asked)
    file = None if keep is None else keep / f"{asked.name.replace(' ', '_')}-{asked.seed}.json"
    if file is not None and file.exists():
        kept = json.loads(file.read_text())
        if kept["asked"] != json.loads(line):
            raise KeptError(
                f"{file} is of other sides, turns or code: remove it, or give another --keep"
            )
        return Taken(*kept["taken"])
    command = [sys.executable, script, "--one", line]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    taken = json.loads(done.stdout.splitlines()[-1])
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(json.dumps({"asked": asked, "taken": taken}))
        part.replace(file)
    return Taken(*taken)


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
    """Of each repetition, the time of a run under ``adaptive`` over one under ``constant``."""
    found = []
    for one in made:
        adaptive, constant = (
            sum(one.turns[side]) / (len(one.turns[side]) * turn)
            for side in ("adaptive", "constant")
        )
        found.append((one.free["adaptive"] + (BUDGET - FREE) * adaptive) / (BUDGET * constant))
    return found


def table(name: str, workload: Workload, made: Sequence[Taken]) -> Iterator[str]:
    """A workload's table, a line for each side."""
    yield f"\n### {name}\n"
    yield (
        "| side | ms an update | over bare, us | side / bare | 95 % | page faults an update "
        "| MB | bytes of events an update |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for side in made[0].turns:
        each = median(fmean(one.turns[side]) / workload.turn for one in made)
        over = median(overheads(made, side, workload.turn))
        found = ratios(made, side, "bare")
        low, high = interval([math.log(value) for value in found])
        faults, megabytes, events = (
            f"{median(values[side] for values in column):,.0f}"
            for column in (
                [one.faults for one in made],
                [one.megabytes for one in made],
                [one.event_bytes for one in made],
            )
        )
        yield (
            f"| {side} | {1000 * each:.3f} | {over:+.0f} | {median(found):.3f} "
            f"| {math.exp(low):.3f} to {math.exp(high):.3f} | {faults} | {megabytes} | {events} |"
        )
    if found_limits := list(limits(name, workload, made)):
        yield "\n| limit | found | 95 % | at most | met |\n|---|---|---|---|---|"
        yield from found_limits


def limits(name: str, workload: Workload, made: Sequence[Taken]) -> Iterator[str]:
    """What was asked of a workload, and whether it is met."""
    turn, sides = workload.turn, made[0].turns.keys()

    def shares(side: str, rival: str) -> list[float]:
        theirs = overheads(made, rival, turn)
        return [a / b for a, b in zip(overheads(made, side, turn), theirs, strict=True)]

    kinds: tuple[tuple[str, Any, Callable[[str, str], list[float]]], ...] = (
        ("overhead of", LIMITS, shares),
        ("time of", RATIO_LIMITS, lambda side, rival: ratios(made, side, rival)),
    )
    for what, given, values in kinds:
        for limit in given.get(name, ()):
            if {limit.side, limit.rival, *([GIVING] if limit in KEPT else [])} <= sides:
                asked = f"{what} {limit.side} / {limit.rival}"
                yield _met(asked, values(limit.side, limit.rival), limit.most)
    if {"adaptive", "constant"} <= sides and name != "one parameter":
        turned = FREE + len(made[0].turns["adaptive"]) * turn
        asked = f"whole run of {BUDGET:,} updates, adaptive / constant, from {turned} of them"
        yield _met(asked, whole_runs(made, turn), WHOLE_RUN)


def _met(asked: str, found: Sequence[float], most: float) -> str:
    """The line of something that was asked for."""
    low, high = interval(found)
    met = "yes" if median(found) <= most else "no"
    return f"| {asked} | {median(found):.3f} | {low:.3f} to {high:.3f} | {most:g} | {met} |"


def sides_of(workload: Workload, asked: Sequence[str], beside: str) -> dict[str, str]:
    """The checkout of each side: of the usual ones, or of those asked for and ``bare``.

    Args:
        workload: what they train.
        asked: their names; none for the usual ones.
        beside: another checkout whose toolkit trains, too; empty for none.
    """
    large = TEXT_SIDES if workload.longest else LARGE_SIDES
    usual = set(TINY_SIDES if workload.tiny else large)
    if workload.device != "cpu":
        usual.discard(GIVING)  # activations are not the host's there
    names = [side for side in SIDES if side in ({*asked, "bare"} if asked else usual)]
    sides = dict.fromkeys(names, str(HERE.parent))
    if beside:
        other = str(Path(beside).resolve())
        sides |= {f"{name}{BESIDE}": other for name in names if name in OURS}
    return sides


def fault_of(names: Sequence[str], workloads: Mapping[str, Workload], sides: Sequence[str]) -> str:
    """What is wrong with what is asked for, in a line; empty if nothing is.

    Args:
        names: of the workloads asked for.
        workloads: those that there are.
        sides: asked for by name.
    """
    if unknown := [name for name in names if name not in workloads]:
        return f"{', '.join(unknown)}: workloads are {', '.join(workloads)}"
    if unknown := [side for side in sides if side not in SIDES]:
        return f"--sides: {', '.join(unknown)}: sides are {', '.join(SIDES)}"
    for name in names:
        if workloads[name].updates > BUDGET:
            return f"--scale: {workloads[name].updates:,} updates of {name}, of at most {BUDGET:,}"
        wants_fabric = "Fabric" in (sides or (TINY_SIDES if workloads[name].tiny else ()))
        if wants_fabric and find_spec("lightning_fabric") is None:
            return "side Fabric: no package lightning-fabric: pip install -e '.[bench]'"
        for folder in NEEDED.get(name, ()):
            if not Path(os.environ.get("TOOLKIT_DATA") or os.devnull, folder).is_dir():
                return f"{name}: no folder {folder} in $TOOLKIT_DATA, which has the real texts"
    return ""


def versions(packages: Sequence[str] = PACKAGES) -> str:
    """Of those packages that there are."""
    there = {one.name.lower().replace("_", "-") for one in metadata.distributions()}
    found = ", ".join(f"{name} {metadata.version(name)}" for name in packages if name in there)
    return f"python {platform.python_version()}, {found}, {platform.machine()}"


def parser_of(description: str, workloads: Sequence[str]) -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("workloads", nargs="*", default=list(workloads), metavar="WORKLOAD")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="times as many turns")
    parser.add_argument("--sides", default="", help="these alone, by commas, and bare")
    parser.add_argument("--beside", default="", metavar="CHECKOUT")
    parser.add_argument("--keep", type=Path, default=None, metavar="FOLDER")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)
    return parser


def scaled(workloads: Mapping[str, Workload], scale: float) -> dict[str, Workload]:
    """The workloads with so many times as many turns, at least two."""
    return {
        name: one._replace(turns=max(2, round(one.turns * scale)))
        for name, one in workloads.items()
    }


def make_one(line: str) -> None:
    """Make the repetition that is asked for, and print what it took."""
    _, workload, sides, seed, _ = json.loads(line)
    print(json.dumps(repetition(Workload(*workload), sides, seed)))


def print_tables(
    arguments: argparse.Namespace, workloads: Mapping[str, Workload], script: str
) -> int:
    """Time what is asked for, and print a table for each workload.

    Returns:
        The exit code.
    """
    sides = [side for side in arguments.sides.split(",") if side]
    fault = fault_of(arguments.workloads, workloads, sides)
    if arguments.repeats < 2:
        fault = "--repeats: an interval takes at least 2"
    if fault:
        print(fault, file=sys.stderr)
        return 2
    if arguments.check:
        return 0
    print(f"{versions()}\ncommand: python {' '.join(sys.argv)}", flush=True)
    for name in arguments.workloads:
        chosen = sides_of(workloads[name], sides, arguments.beside)
        sources = {root: sources_sha(root) for root in chosen.values()}
        asked = Asked(name, workloads[name], chosen, 0, sources)
        try:
            made = [
                kept_or_made(asked._replace(seed=seed), arguments.keep, script)
                for seed in range(arguments.repeats)
            ]
        except KeptError as error:
            print(error, file=sys.stderr)
            return 2
        except subprocess.CalledProcessError:
            print(f"{name}: a side failed, as told above", file=sys.stderr)
            return 1
        print("\n".join(table(name, workloads[name], made)), flush=True)
    return 0


def main() -> int:
    """Time every workload and print its tables."""
    arguments = parser_of(__doc__.splitlines()[0], list(WORKLOADS)).parse_args()
    for threads in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[threads] = "1"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    if arguments.one:
        make_one(arguments.one)
        return 0
    return print_tables(arguments, scaled(ALL, arguments.scale), __file__)


if __name__ == "__main__":
    sys.exit(main())
