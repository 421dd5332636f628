"""What ranks cost: an update on 1, 2, 4 gloo processes, and the same calculated for many GPUs.

Measured is a run with a fixed global batch on each number of processes of this machine, in turn
(``collectives.py``), the fastest of its repetitions: of some updates the seconds of training, by
part; and of the next ones, under torch's profiler, the collectives and their bytes, and of the
backward pass the time in which gradients were under way, and that in which nothing but them was
waited for. Processes that share cores do not get faster by being more: what is to be seen is what
the parts add.

Calculated, not measured, is a ring all-reduce over N GPUs: 2 (N - 1) / N of the gradients' bytes
over the bandwidth of a link, and 2 (N - 1) latencies; a reading is an all-reduce and a broadcast
of a few bytes, so of latencies alone: 2 (N - 1) and N - 1, as in a ring, which is the worst case.

usage: python benchmarks/scale.py [--targets TARGET,...] [--processes 1,2,4] [--repeats 3]
       [--calculate]
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from toolkit.process import cores

ROOT = Path(__file__).resolve().parent.parent
TARGETS = ("digits/vit_micro", "benchmarks/workloads.py/resnet18")
PARTS = ("data", "forward_backward", "optimizer", "reading")
FIRST, TIMED, PROFILED = 52, 20, 10
"""Updates until those that are profiled; the last of them, that are timed, after the 30 that the
search of ``adaptive`` takes; and those that are profiled."""


class Network(NamedTuple):
    """An assumed network between GPUs.

    Attributes:
        name: what it is like.
        bandwidth: bytes a second over the slowest link of the ring.
        latency: seconds of a step of the ring.
    """

    name: str
    bandwidth: float
    latency: float


NETWORKS = {
    8: Network("one machine, NVLink", 200e9, 5e-6),
    64: Network("8 machines, 100 Gbit/s each", 12.5e9, 20e-6),
}
"""GPUs -> what is assumed to be between them."""
PARAMETERS = {"ResNet-18": 11.2e6, "BERT-base": 110e6, "BERT-large": 335e6}
"""Parameters whose gradients are reduced, in fp32."""


def ring(size: float, ranks: int, network: Network) -> float:
    """Seconds of a ring all-reduce of so many bytes."""
    steps = 2 * (ranks - 1)
    return steps * (size / ranks / network.bandwidth + network.latency)


def calculated() -> Iterator[str]:
    """The table of what is expected of many GPUs."""
    yield "| model | GPUs | assumed | gradients, ms an update | a reading, ms | of it |"
    yield "|---|---|---|---|---|---|"
    for model, parameters in PARAMETERS.items():
        for ranks, network in NETWORKS.items():
            gradients = ring(4 * parameters, ranks, network)
            reading = 3 * (ranks - 1) * network.latency
            yield (
                f"| {model} | {ranks} | {network.name}: {network.bandwidth / 1e9:g} GB/s, "
                f"{network.latency * 1e6:g} us | {1000 * gradients:.2f} | {1000 * reading:.2f} "
                f"| {100 * reading / gradients:.0f} % |"
            )


def launched(processes: int, *command: str) -> None:
    """A program on so many ranks over gloo."""
    free = {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    ranks = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    line = [sys.executable, "-m", *ranks, *command]
    done = subprocess.run(line, env={**os.environ, **free}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(line)} failed:\n{done.stderr[-2000:]}")


def measured(targets: Sequence[str], processes: Sequence[int], repeats: int) -> Iterator[str]:
    """The table of what was measured here."""
    parts = " | ".join(part.replace("_", " and ") for part in PARTS)
    profiled = "backward | gradients under way | waited for | collectives of an update"
    yield f"| target | schedule | ranks | ms an update | {parts} | {profiled} |"
    yield f"|{'---|' * (8 + len(PARTS))}"
    for target in targets:
        for schedule in ("constant", "adaptive"):
            made: dict[int, list[dict[str, Any]]] = {ranks: [] for ranks in processes}
            for _ in range(repeats):
                for ranks in processes:
                    made[ranks].append(one_run(target, schedule, ranks))
            for ranks, runs in made.items():
                # What else the machine does only adds to it.
                seen = min(runs, key=lambda run: run["before"]["train_seconds"])
                seconds = [seen["before"][part] / TIMED for part in ("train_seconds", *PARTS)]
                seconds += [time / PROFILED for time in seen["seconds"].values()]
                each = " | ".join(f"{1000 * time:.2f}" for time in seconds)
                told = "; ".join(
                    f"{number / PROFILED:g} {name.replace('_', '-')}, {size / PROFILED:,.0f} B"
                    for name, (number, size) in seen["calls"].items()
                )
                name = target.removeprefix("benchmarks/")
                yield f"| {name} | {schedule} | {ranks} | {each} | {told or 'none'} |"


def one_run(target: str, schedule: str, ranks: int) -> dict[str, Any]:
    """What rank 0 of a run has seen."""
    last = FIRST + PROFILED
    flags = ("--recipe.updates", str(last), "--eval-every", str(last), "--save-every", "0")
    quiet = ("--wandb", "off", "--progress", "False", f"schedule:{schedule}")
    with tempfile.TemporaryDirectory() as folder:
        program = (str(ROOT / "benchmarks/collectives.py"), folder, str(FIRST), str(last))
        launched(ranks, *program, target, *flags, *quiet)
        seen: dict[str, Any] = json.loads(Path(folder, "rank0.json").read_text())
    return seen


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--processes", default="1,2,4")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--calculate", action="store_true", help="the calculation alone")
    arguments = parser.parse_args()
    if not arguments.calculate:
        found = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "accelerate"))
        print(f"python {platform.python_version()}, {found}, {platform.machine()}, {cores()} cores")
        print(f"command: python benchmarks/scale.py {' '.join(sys.argv[1:])}".rstrip(), end="\n\n")
        processes = [int(number) for number in arguments.processes.split(",")]
        targets = arguments.targets.split(",")
        for line in measured(targets, processes, arguments.repeats):
            print(line, flush=True)
    print("\nCalculated, not measured:\n")
    print("\n".join(calculated()))


if __name__ == "__main__":
    main()
