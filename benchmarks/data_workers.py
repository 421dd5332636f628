"""What worker processes are worth: seconds of an update with 0, 1, 2, ... of them, side by side.

JPEGs of 400 x 300 pixels are made of noise, and a model trains on them at 224 pixels: once as the
task ``images`` does, which decodes them before the training and reads pixels then, once with a
split that decodes them when it is asked for a batch (``decoding.py``). Each side is built in a
process of its own and makes a few updates whenever it is its turn, so that a busy machine is busy
for all; wall-clock time, as a worker's cost is another process's. The first turn does not count.

usage: python benchmarks/data_workers.py [--workers 0,1,2] [--models test_resnet,...]
       [--repeats 3] [--turns 8] [--images 256] [--threads 1]
"""

import argparse
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

from toolkit.process import cores

HERE = Path(__file__).resolve().parent
TASKS = {"decoded before": "images", "decoded when asked": str(HERE / "decoding.py")}
UPDATES, BATCH = 2, 16
"""Updates of a turn, and images of an update."""


def write_images(folder: Path, count: int) -> None:
    """JPEGs of two classes, as large as photographs of this size are."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)
    for number in range(count):
        file = folder / "ab"[number % 2] / f"{number:05}.jpg"
        file.parent.mkdir(exist_ok=True)
        small = draw.integers(0, 256, (30, 40, 3)).astype(np.uint8)
        Image.fromarray(small).resize((400, 300)).save(file, quality=90)


def play(target: str, data: Path, workers: int, turns: int, connection: Connection) -> None:
    """Be one side: make a turn whenever told to, and tell its seconds."""
    from toolkit.config import parse
    from toolkit.training.batches import training_batches
    from toolkit.training.build import build
    from toolkit.training.loop import make_update

    os.chdir(data.parent)
    flags = ("--recipe.data", str(data), "--recipe.init", "random", "--wandb", "off")
    sizes = ("--recipe.updates", str(UPDATES * turns), "--recipe.global-batch", str(BATCH))
    run = build(parse([target, *flags, *sizes, "--workers", str(workers), "schedule:constant"]))
    run.record = Silent()  # type: ignore[assignment]
    batches = training_batches(run)
    run.model.train()
    for _ in range(turns):
        connection.recv()
        begun = time.perf_counter()
        for _ in range(UPDATES):
            make_update(run, batches)
            run.lr.step()
        connection.send((time.perf_counter() - begun) / UPDATES)


class Silent:
    """A record that keeps nothing: what is timed are the updates alone."""

    def span(self, _: str) -> "Silent":
        return self

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def repetition(target: str, data: Path, workers: Sequence[int], turns: int) -> list[list[float]]:
    """Seconds of an update, turn by turn, of each number of workers; processes are new."""
    context = multiprocessing.get_context("spawn")
    ends, processes = [], []
    for number in workers:
        end, theirs = context.Pipe()
        processes.append(
            context.Process(target=play, args=(target, data, number, turns, theirs), daemon=False)
        )
        processes[-1].start()
        ends.append(end)
    taken: list[list[float]] = [[] for _ in workers]
    for turn in range(turns):
        for one in range(turn, turn + len(workers)):  # another begins each time
            side = one % len(workers)
            ends[side].send(None)
            seconds = ends[side].recv()
            if turn:
                taken[side].append(seconds)
    for process in processes:
        process.join()
    return taken


def table(
    model: str, data: Path, workers: Sequence[int], repeats: int, turns: int
) -> Iterator[str]:
    """The lines of a model, for both ways to decode."""
    for name, task in TASKS.items():
        made = [repetition(f"{task}/{model}", data, workers, turns) for _ in range(repeats)]
        for side, number in enumerate(workers):
            each = [median(one[side]) for one in made]
            ratios = [a / median(one[0]) for a, one in zip(each, made, strict=True)]
            shown = ", ".join(f"{ratio:.2f}" for ratio in sorted(ratios))
            yield f"| {model} | {name} | {number} | {1000 * median(each):.0f} | {shown} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", default="0,1,2")
    parser.add_argument("--models", default="test_resnet")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1, help="of the model")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    workers = [int(number) for number in arguments.workers.split(",")]
    found = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "accelerate"))
    print(f"python {platform.python_version()}, {found}, {platform.machine()}, {cores()} cores")
    print(f"command: python benchmarks/data_workers.py {' '.join(sys.argv[1:])}".rstrip())
    print(f"\n| model | images | workers | ms an update | of {workers[0]} workers |")
    print("|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_DATASETS_CACHE"] = f"{folder}/cache"
        data = Path(folder, "images")
        data.mkdir()
        write_images(data, arguments.images)
        for model in arguments.models.split(","):
            for line in table(model, data, workers, arguments.repeats, arguments.turns):
                print(line, flush=True)


if __name__ == "__main__":
    main()
