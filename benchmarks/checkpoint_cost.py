"""What a checkpoint costs under adaptive, beside torch.save of model and optimizer, in turn.

A ResNet-18 under AdamW (``workloads.py``, 11 million weights) is trained until there are two
snapshots. Then each turn writes both, and waits for the disk: the plain one as a loop of one's own
would, the checkpoint with its manifest, which has the SHA-256 of each file. Memory is what the
process takes at its highest beyond what it had before the turn.

usage: python benchmarks/checkpoint_cost.py [--turns 5] [--updates 60]
"""

import argparse
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch

from toolkit.config import parse
from toolkit.process import cores, set_threads
from toolkit.records.json_files import sync
from toolkit.training import checkpoint, loop
from toolkit.training.build import build
from toolkit.training.checkpoint_folder import CHECKPOINTS
from toolkit.training.run import Run

TARGET = "benchmarks/workloads.py/resnet18"


def highest() -> int:
    """The most memory that the process has had since ``forget_highest``, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def forget_highest() -> None:
    """Have the system measure ``highest`` from now on."""
    Path("/proc/self/clear_refs").write_text("5")


class Cost(NamedTuple):
    """Of writing into an empty folder: bytes there, seconds, those of CPU, bytes of memory."""

    size: int
    seconds: float
    cpu: float
    memory: int


def cost(write: Callable[[], object], folder: Path) -> Cost:
    """What it costs; the folder is removed."""
    forget_highest()
    before, begin, cpu = highest(), time.perf_counter(), time.process_time()
    write()
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    memory = highest() - before
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    shutil.rmtree(folder)
    return Cost(size, seconds, cpu, memory)


def save_plain(run: Run, folder: Path) -> None:
    """Model and optimizer in one file."""
    folder.mkdir()
    file = folder / "plain.pt"
    parts = {"model": run.model.state_dict(), "optimizer": run.optimizer.state_dict()}
    torch.save(parts, file)
    sync(file)


def measure(run: Run, turns: int) -> None:
    """Print the costs, the medians of the turns."""
    plain, folder = run.folder / "plain", run.folder / CHECKPOINTS
    ways = {
        "torch.save of model and optimizer": (partial(save_plain, run, plain), plain),
        "checkpoint": (partial(checkpoint.save, run), folder),
    }
    found: dict[str, list[Cost]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, way in ways.items():
            found[name].append(cost(*way))
    kept = run.snapshots()
    print(f"{kept.taken} snapshots were taken, {kept.bytes / 1e6:.0f} MB are kept", end="\n\n")
    print("| | MB | s | s of CPU | memory, MB |\n|---|---|---|---|---|")
    for name, made in found.items():
        size, seconds, cpu, memory = (median(values) for values in zip(*made, strict=True))
        span = f"{min(one.seconds for one in made):.2f} to {max(one.seconds for one in made):.2f}"
        print(
            f"| {name} | {size / 1e6:.0f} | {seconds:.2f} ({span}) | {cpu:.2f} "
            f"| {memory / 1e6:.0f} |"
        )


def main() -> None:
    """Train, and measure at the last reading but one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--updates", type=int, default=60)
    arguments = parser.parse_args()
    set_threads()
    found = f"python {platform.python_version()}, torch {metadata.version('torch')}"
    print(f"{found}, {platform.machine()}, {cores()} cores, {torch.get_num_threads()} threads")
    flags = f"--updates {arguments.updates} --save-every 0 --eval-every 100000 --wandb off"
    with tempfile.TemporaryDirectory() as folder:
        run = build(parse([TARGET, *flags.split(), "adaptive"]), Path(folder))

        def look(run: Run) -> None:
            if run.update == arguments.updates - 1:
                measure(run, arguments.turns)

        run.after_update.append(look)
        loop.fit(run)
        loop.release(run)


if __name__ == "__main__":
    main()
