"""What ranks cost: an update on 1, 2, 4 gloo processes, and the same calculated for many GPUs.

Measured is a run with a fixed global batch on each number of processes of this machine, in turn:
its seconds of training an update, by part, and its collectives (``collectives.py``). The gradients'
all-reduce is in forward and backward, with which DDP overlaps it. Processes that share cores do not
get faster by being more: what is to be seen is what the parts add.

Calculated, not measured, is a ring all-reduce over N GPUs: 2 (N - 1) / N of the gradients' bytes
over the bandwidth of a link, and 2 (N - 1) latencies; a reading is an all-reduce and a broadcast
of a few bytes, so of latencies alone: 2 (N - 1) and N - 1, as in a ring, which is the worst case.

usage: python benchmarks/scale.py [--targets TARGET,...] [--processes 1,2,4] [--updates 60]
       [--repeats 3] [--calculate]
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
from statistics import median
from typing import NamedTuple

from toolkit.process import cores

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("data", "forward_backward", "optimizer", "reading")
FIRST = 40
"""Updates that are not counted among the collectives: the search of ``adaptive`` takes 30."""


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


def measured(
    targets: Sequence[str], processes: Sequence[int], updates: int, repeats: int
) -> Iterator[str]:
    """The table of what was measured here."""
    parts = " | ".join(part.replace("_", " and ") for part in PARTS)
    yield f"| target | schedule | ranks | ms an update | {parts} | collectives of 10 updates |"
    yield f"|{'---|' * (5 + len(PARTS))}"
    for target in targets:
        for schedule in ("constant", "adaptive"):
            timed: dict[int, list[dict[str, float]]] = {ranks: [] for ranks in processes}
            calls: dict[int, dict[str, int]] = {}
            for _ in range(repeats):
                for ranks in processes:
                    timing, calls[ranks] = one_run(target, schedule, ranks, updates)
                    timed[ranks].append(timing)
            for ranks, made in timed.items():
                whole, *each = (
                    f"{1000 * median(timing[part] for timing in made) / updates:.2f}"
                    for part in ("train_seconds", *PARTS)
                )
                told = ", ".join(f"{n} {name.strip('_')}" for name, n in calls[ranks].items())
                yield (
                    f"| {target} | {schedule} | {ranks} | {whole} | {' | '.join(each)} "
                    f"| {told or 'none'} |"
                )


def one_run(
    target: str, schedule: str, ranks: int, updates: int
) -> tuple[dict[str, float], dict[str, int]]:
    """The seconds of a run by part, and the collectives of ten of its updates."""
    flags = ("--recipe.updates", str(updates), "--eval-every", str(updates), "--save-every", "0")
    quiet = ("--wandb", "off", "--progress", "False", f"schedule:{schedule}")
    with tempfile.TemporaryDirectory() as folder:
        counted = (str(ROOT / "benchmarks/collectives.py"), folder, str(FIRST), str(FIRST + 10))
        out = ("--output-dir", folder)
        launched(ranks, "-m", "toolkit.train", target, *flags, *out, *quiet)
        result = json.loads(next(Path(folder).glob("runs/*/*/result.json")).read_text())
        launched(ranks, *counted, target, *flags, *quiet, "--study", "counted")
        calls = json.loads(Path(folder, "rank0.json").read_text())
    return result["timing"], calls


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", default="digits/vit_micro")
    parser.add_argument("--processes", default="1,2,4")
    parser.add_argument("--updates", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--calculate", action="store_true", help="the calculation alone")
    arguments = parser.parse_args()
    if arguments.updates < FIRST + 10:
        parser.error(f"--updates: at least {FIRST + 10}")
    if not arguments.calculate:
        found = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "accelerate"))
        print(f"python {platform.python_version()}, {found}, {platform.machine()}, {cores()} cores")
        print(f"command: python benchmarks/scale.py {' '.join(sys.argv[1:])}".rstrip(), end="\n\n")
        processes = [int(number) for number in arguments.processes.split(",")]
        targets = arguments.targets.split(",")
        for line in measured(targets, processes, arguments.updates, arguments.repeats):
            print(line, flush=True)
    print("\nCalculated, not measured:\n")
    print("\n".join(calculated()))


if __name__ == "__main__":
    main()
