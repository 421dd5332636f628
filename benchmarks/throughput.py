"""What the toolkit's loop costs beside a bare PyTorch loop: ``make bench``.

Both train the same model on the same data with the same fused optimizer and precision, in turn, in
one process. The ratio is toolkit / bare, round by round, so that it holds on a machine whose speed
drifts. The toolkit's side logs every update, reads the loss every update and keeps the schedule.

usage: python benchmarks/throughput.py [--rounds 12] [--precision fp32] [TARGET:UPDATES ...]
"""

import argparse
import gc
import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import bare
import numpy as np
import torch

from toolkit import task
from toolkit.config import RunConfig, resolve
from toolkit.process import set_threads
from toolkit.records.provenance import versions
from toolkit.stats import t_interval
from toolkit.training import loop
from toolkit.training.build import build

HERE = Path(__file__).parent
DEFAULT = ["digits/vit_micro:200", f"{HERE}/synthetic.py/resnet18:16"]


def main() -> None:
    """Time every pair and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", nargs="*", default=DEFAULT, metavar="TARGET:UPDATES")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    arguments = parser.parse_args()
    threads, device = set_threads(), "cuda" if torch.cuda.is_available() else "cpu"
    torch_version, accelerate = (versions()[name] for name in ("torch", "accelerate"))
    print(
        f"torch {torch_version}, accelerate {accelerate}, {device}, {threads} threads, "
        f"{arguments.precision}, {arguments.rounds} rounds"
    )
    print(f"{'pair':<34} {'bare':>10} {'toolkit':>10}   toolkit / bare (95 % interval)")
    for pair in arguments.pairs:
        target, _, updates = pair.rpartition(":")
        print(measure(target, int(updates), arguments.rounds, arguments.precision, device))


def measure(target: str, updates: int, rounds: int, precision: Any, device: str) -> str:
    """One row: medians in ms an update, the geometric mean of the ratios and its t-interval."""
    parsed = task.parse_target(target)
    recipe = task.recipe_of(task.load(parsed.task), parsed)
    recipe = replace(recipe, optimizer="adamw", epochs=None, updates=updates, precision=precision)
    config = resolve(RunConfig(target=str(parsed), recipe=recipe, wandb="off", save_every=0))
    ours: list[float] = []
    theirs: list[float] = []
    for number in range(rounds + 1):
        sides = [(theirs, _bare), (ours, _toolkit)]
        for times, run in sides if number % 2 else sides[::-1]:
            gc.collect()
            seconds = run(config, updates, device)
            if number:  # the first round warms up
                times.append(seconds / updates * 1000)
    ratios = np.log(np.array(ours) / np.array(theirs))
    low, high = (math.exp(bound) for bound in t_interval(ratios))
    name = f"{Path(parsed.task).name}/{parsed.model}"
    return (
        f"{name:<34} {np.median(theirs):7.2f} ms {np.median(ours):7.2f} ms   "
        f"{math.exp(ratios.mean()):.3f} ({low:.3f} to {high:.3f})"
    )


def _bare(config: RunConfig, updates: int, device: str) -> float:
    parsed = task.parse_target(config.target)
    return bare.train(task.load(parsed.task), parsed.model, config.recipe, updates, device)


def _toolkit(config: RunConfig, updates: int, device: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        run = build(replace(config, eval_every=updates, progress=False), Path(folder))
        result = loop.fit(run)
        loop.release(run)
    if result is None:
        raise SystemExit("stopped")
    return result.timing.train_seconds


if __name__ == "__main__":
    main()
