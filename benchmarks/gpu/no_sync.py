"""Does the host wait for the GPU between two readings?

A short run whose updates, from fetching the batch to setting the next LR, are made under
``torch.cuda.set_sync_debug_mode("error")``: the first operation that makes the host wait ends the
run with torch's error. Readings, evaluations and checkpoints may wait. torch's mode knows its own
operations alone: of what other libraries wait for it says nothing.

usage: python benchmarks/gpu/no_sync.py [TARGET ...] [--updates 120] [--read-every 10]
"""

import argparse
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

from cuda import is_missing

ROOT = Path(__file__).resolve().parents[2]
TARGETS = ("digits/vit_micro", f"{ROOT}/benchmarks/workloads.py/resnet18")
SCHEDULES = ("constant", "adaptive")


def without_waiting(call: Callable[..., Any]) -> Callable[..., Any]:
    """The call, in which torch raises an error where the host would wait for the GPU."""
    import torch

    @wraps(call)
    def checked(*arguments: Any) -> Any:
        torch.cuda.set_sync_debug_mode("error")
        try:
            return call(*arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    return checked


def train(target: str, schedule: str, updates: int, read_every: int) -> None:
    """A run whose updates may not wait.

    Raises:
        RuntimeError: torch's, from the operation that waits.
    """
    from toolkit.config import RunConfig, resolve
    from toolkit.schedules import SCHEDULES as KNOWN
    from toolkit.task import load, parse_target, recipe_of
    from toolkit.training import loop
    from toolkit.training.build import build

    chosen = parse_target(target)
    recipe = recipe_of(load(chosen.task), chosen)
    config = RunConfig(
        target=target,
        recipe=replace(recipe, epochs=None, updates=updates),
        schedule=KNOWN[schedule](),
        wandb="off",
        save_every=0,
        eval_every=updates,
        progress=False,
        read_every=read_every,
    )
    make_update = loop.make_update
    with tempfile.TemporaryDirectory() as folder:
        run = build(resolve(config), Path(folder))
        loop.make_update = without_waiting(make_update)
        run.lr.step = without_waiting(run.lr.step)  # type: ignore[method-assign]
        try:
            loop.fit(run)
        finally:
            loop.make_update = make_update
            loop.release(run)


def main() -> int:
    """Train each target under each schedule, and say of each whether the host has waited."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", default=list(TARGETS), metavar="TARGET")
    parser.add_argument("--updates", type=int, default=120)
    parser.add_argument("--read-every", type=int, default=10)
    arguments = parser.parse_args()
    if is_missing():
        return 2
    waited = False
    for target in arguments.targets:
        for schedule in SCHEDULES:
            try:
                train(target, schedule, arguments.updates, arguments.read_every)
            except RuntimeError as error:
                if "synchronizing" not in str(error):
                    raise
                waited = True
                frames = traceback.extract_tb(error.__traceback__)
                own = [frame for frame in frames if str(ROOT) in frame.filename]
                print(f"{target} {schedule}: waits at {own[-1].filename}:{own[-1].lineno}")
            else:
                print(f"{target} {schedule}: does not wait between readings")
    return int(waited)


if __name__ == "__main__":
    sys.exit(main())
