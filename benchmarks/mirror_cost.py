"""What the W&B mirror costs training: with it and without it, in turn, in one process.

The server is the tests' one, on this machine; each answer takes ``--delay`` seconds. The ratio is
of median times of an update, round by round, so that it holds on a machine whose speed drifts.

usage: python benchmarks/mirror_cost.py [--rounds 12] [--delay 5] [--threads N] [TARGET:UPDATES]
"""

import argparse
import json
import math
import os
import sys
import tempfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.fake_wandb import FakeWandb
from toolkit import task
from toolkit.config import RunConfig, resolve
from toolkit.process import set_threads
from toolkit.records.mirror_handle import end_mirrors
from toolkit.stats import t_interval
from toolkit.training import loop
from toolkit.training.build import build


def main() -> None:
    """Time the rounds and print one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pair", nargs="?", default="digits/vit_micro:1000")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--delay", type=float, default=5.0)
    parser.add_argument("--threads", type=int, help="of training; by default all cores")
    arguments = parser.parse_args()
    threads = set_threads() if arguments.threads is None else arguments.threads
    torch.set_num_threads(threads)
    target, _, updates = arguments.pair.rpartition(":")
    parsed = task.parse_target(target)
    recipe = task.recipe_of(task.load(parsed.task), parsed)
    recipe = replace(recipe, epochs=None, updates=int(updates))
    config = RunConfig(str(parsed), recipe, save_every=0, eval_every=int(updates), progress=False)
    config = resolve(config)
    times: dict[str, list[float]] = {"off": [], "auto": []}
    with FakeWandb() as server, tempfile.TemporaryDirectory() as folder:
        server.delay = arguments.delay
        os.environ.update({k: v for k, v in server.environment.items() if v is not None})
        os.environ.pop("WANDB_MODE", None)
        for number in range(arguments.rounds + 1):
            for wandb in ("off", "auto") if number % 2 else ("auto", "off"):
                place = replace(config, wandb=wandb, study=f"{wandb}-{number}")
                median = _median_update(place, Path(folder))
                if number:  # the first round warms up
                    times[wandb].append(median)
        end_mirrors()
    ratios = np.log(np.array(times["auto"]) / np.array(times["off"]))
    low, high = (math.exp(bound) for bound in t_interval(ratios))
    print(
        f"{arguments.pair}, {threads} threads, answers after {arguments.delay:g} s: "
        f"{np.median(times['off']):.2f} ms an update without, {np.median(times['auto']):.2f} ms "
        f"with a mirror, {math.exp(ratios.mean()):.3f} ({low:.3f} to {high:.3f})"
    )


def _median_update(config: RunConfig, folder: Path) -> float:
    """Milliseconds between readings, from the run's own log."""
    run = build(config, folder)
    loop.fit(run)
    loop.release(run)
    events = map(json.loads, (run.folder / "events.jsonl").read_text().splitlines())
    read_at = [event["t"] for event in events if "kind" not in event]
    return float(np.median([b - a for a, b in pairwise(read_at)]) * 1000)


if __name__ == "__main__":
    main()
