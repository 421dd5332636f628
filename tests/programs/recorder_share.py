"""Median seconds of the recorder in an update, with a mirror and without, and of a whole update.

usage: recorder_share.py ROUNDS
"""

import json
import statistics
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from toolkit.config import parse, resolve
from toolkit.training import loop
from toolkit.training.build import build

FLAGS = ["digits/vit_micro", "--recipe.updates", "60", "--save-every", "0", "--progress", "False"]
spent: dict[str, list[float]] = {"off": [], "auto": []}
updates: list[float] = []


def fit(wandb: Any, number: int) -> None:
    config = replace(resolve(parse(FLAGS)), wandb=wandb, study=f"{wandb}-{number}")
    run = build(config, Path("runs"))

    def watch(run):
        """Time the recorder from the first reading on."""
        if run.update > 1:
            return
        record = run.record.reading

        def timed(*arguments):
            begin = time.perf_counter()
            record(*arguments)
            spent[wandb].append(time.perf_counter() - begin)
            updates.append(begin)

        run.record.reading = timed

    run.after_update.append(watch)
    loop.fit(run)
    loop.release(run)


for number in range(int(sys.argv[1])):
    for wandb in ("off", "auto"):
        fit(wandb, number)
gaps = [b - a for a, b in pairwise(updates)]
medians = {name: statistics.median(times) for name, times in spent.items()}
print(json.dumps({**medians, "update": statistics.median(gaps)}), flush=True)
