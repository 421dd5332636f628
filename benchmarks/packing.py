"""A sweep of tiny models on all cores beside the same sweep in one process with one thread.

The sides take turns, each in a fresh folder: seconds on the clock, seconds of the processor (of the
workers, too), and whether every run has the same weights on all sides. *Start* is what the sweep's
own process takes of the processor until the first run begins. *On idle cores* is calculated from
the processor's time: the start, and the rest shared by the cores, beside all of that of one
process; it holds where other programs use the machine. The most that can be gained is the same
with one process's own start and rest.

usage: python benchmarks/packing.py [--turns 3] [--beside CHECKOUT] [STUDY ...]

``--beside`` has the workers of another checkout take turns, too, as ``--slots-per-device`` starts
them there. Studies: those of ``toolkit sweep``, and ``short`` (24 runs of 200 updates).
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil

if TYPE_CHECKING:
    from toolkit.studies.study import Study

ROOT = Path(__file__).resolve().parent.parent


def short() -> "Study":
    """Three schedules on digits, 8 seeds, 200 updates a run."""
    from toolkit.studies.study import Study

    return Study.grid(
        "digits/vit_micro",
        ["constant", "cosine", "adaptive"],
        seeds=8,
        recipe={"updates": 200, "epochs": None},
        name="short",
        wandb="off",
    )


class Side(NamedTuple):
    """A way to make a sweep: the checkout, its flags, and the threads of a process."""

    name: str
    checkout: Path
    flags: tuple[str, ...]
    threads: int


class Made(NamedTuple):
    """What a sweep took, in seconds, and the weights by run id."""

    clock: float
    processor: float
    start: float
    weights: dict[str, str]

    def on(self, cores: int) -> float:
        """Seconds on so many idle cores, by the processor's time."""
        return self.start + (self.processor - self.start) / cores


def make(study: str, side: Side) -> Made:
    """Make a sweep in a fresh folder.

    Raises:
        SystemExit: if it failed.
    """
    source = f"{Path(__file__).resolve()}:short" if study == "short" else study
    with tempfile.TemporaryDirectory(prefix="packing-") as folder:
        command = [sys.executable, "-m", "toolkit.sweep", source, "--output-dir", folder]
        environment = {**os.environ, "PYTHONPATH": str(side.checkout)}
        environment["OMP_NUM_THREADS"] = str(side.threads)
        began = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--no-progress", *side.flags],
            cwd=side.checkout,
            env=environment,
            stdout=subprocess.DEVNULL,
        )
        start, used = _watch(process.pid, Path(folder))
        clock = time.perf_counter() - began
        process.returncode, processor = used
        if process.returncode:
            raise SystemExit(f"{side.name}: exit code {process.returncode}")
        weights = {
            file.parent.name: json.loads(file.read_text())["final_weights_sha"]
            for file in Path(folder).glob("runs/*/*/result.json")
        }
    return Made(clock, processor, start, weights)


def _watch(pid: int, folder: Path) -> tuple[float, tuple[int, float]]:
    """Wait for a sweep to end.

    Returns:
        Its processor's seconds until the first run began; its exit code, and those in the end, with
        its workers'.
    """
    start = 0.0
    while True:
        ended, status, used = os.wait4(pid, os.WNOHANG)
        if ended:
            return start, (os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime)
        if not start and any(folder.glob("runs/*/*/events.jsonl")):
            times = psutil.Process(pid).cpu_times()
            start = times.user + times.system
        time.sleep(0.02)


def sides(beside: Path | None) -> list[Side]:
    """One process, the default, and the workers of another checkout."""
    cores = len(os.sched_getaffinity(0))
    found = [
        Side("one process", ROOT, ("--slots-per-device", "0"), 1),
        Side(f"{cores} workers", ROOT, (), cores),
    ]
    if beside:
        flags = ("--slots-per-device", str(cores))
        found.append(Side(f"{cores} workers before", beside.resolve(), flags, cores))
    return found


def measure(study: str, turns: int, every: list[Side]) -> None:
    """Print a line for each sweep, and the medians of the turns."""
    made: dict[str, list[Made]] = {side.name: [] for side in every}
    cores = len(os.sched_getaffinity(0))
    print(
        f"\n{study}\n\n| turn | side | clock, s | processor, s | start, s | times as fast: clock "
        "| on idle cores |\n|---|---|---|---|---|---|---|"
    )
    for turn in range(turns):
        for side in every if turn % 2 == 0 else every[::-1]:
            made[side.name].append(make(study, side))
        one = made[every[0].name][turn]
        for side in every:
            this = made[side.name][turn]
            if this.weights != one.weights:
                raise SystemExit(f"{side.name}: other weights than in one process")
            idle = 1.0 if this is one else one.processor / this.on(cores)
            print(
                f"| {turn + 1} | {side.name} | {this.clock:.1f} | {this.processor:.1f} "
                f"| {this.start:.1f} | {one.clock / this.clock:.2f} | {idle:.2f} |",
                flush=True,
            )
    ones = made[every[0].name]
    for side in every[1:]:
        pairs = list(zip(ones, made[side.name], strict=True))
        clock = statistics.median(one.clock / this.clock for one, this in pairs)
        idle = statistics.median(one.processor / this.on(cores) for one, this in pairs)
        print(f"\n{side.name}: {clock:.2f} times as fast by the clock, {idle:.2f} on idle cores")
    most = statistics.median(one.processor / one.on(cores) for one in ones)
    runs = len(ones[0].weights)
    print(f"\nat most {most:.2f}; {runs} runs, the weights of each equal on all sides")


def main() -> None:
    """Measure the studies that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("studies", nargs="*", default=["short", "demo"], metavar="STUDY")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--beside", type=Path, metavar="CHECKOUT")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from toolkit.records.provenance import versions

    packages = ", ".join(f"{name} {version}" for name, version in versions().items())
    print(f"Python {platform.python_version()}, {packages}; {len(os.sched_getaffinity(0))} cores")
    for study in arguments.studies:
        measure(study, arguments.turns, sides(arguments.beside))


if __name__ == "__main__":
    main()
