"""Seconds of training until ResNet-18 is right on 94 % of CIFAR-10's images.

Each schedule and seed is a run of the toolkit's own command in its field recipe (SGD, batch 128,
crops and flips), of few epochs and in bf16. It is evaluated after each epoch, on 2,000 training
images that are kept out of training; the time is that of training alone. Beside it stands what the
last weights reach on the test split.

usage: python benchmarks/gpu/time_to_94.py [--epochs 30] [--seeds 3] [--target 94]
       [--schedules cosine,adaptive] [--out FOLDER]
Runs that lie in the folder are not made again.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from cuda import is_missing

TARGET, STUDY = "cifar10/resnet18", "time-to-94"


def command_of(schedule: str, seed: int, epochs: int, out: Path) -> list[str]:
    """The run's command."""
    flags = {
        "--seed": seed,
        "--recipe.epochs": epochs,
        "--recipe.precision": "bf16",
        "--study": STUDY,
        "--output-dir": out,
        "--save-every": 0,
        "--wandb": "off",
        "--progress": False,
    }
    told = [str(part) for flag in flags.items() for part in flag]
    return [sys.executable, "-m", "toolkit.train", TARGET, *told, f"schedule:{schedule}"]


def reached(events: Sequence[dict[str, Any]], target: float) -> float:
    """Seconds of training at the first evaluation that is as good as the target; else infinity.

    Args:
        events: of a run; what it has cost stands after each evaluation.
        target: accuracy on the validation split, in per cent.
    """
    from toolkit.stats import first_reaching

    scores = [one["accuracy"] for one in _of_kind(events, "evaluation", split="validation")]
    seconds = [one["train_seconds"] for one in _of_kind(events, "timing")]
    return first_reaching(scores, seconds, target)


def _of_kind(events: Sequence[dict[str, Any]], kind: str, **fields: str) -> list[dict[str, Any]]:
    wanted = {"kind": kind, **fields}
    return [one for one in events if wanted.items() <= one.items()]


def made(schedule: str, seed: int, epochs: int, out: Path, target: float) -> tuple[float, float]:
    """Make a run, or read the one that is there; its seconds to the target and test accuracy."""
    subprocess.run(command_of(schedule, seed, epochs, out), check=True, stdout=subprocess.DEVNULL)
    for file in out.glob(f"runs/{STUDY}/*/result.json"):
        result = json.loads(file.read_text())
        if (result["schedule"], result["seed"]) == (schedule, seed):
            lines = (file.parent / "events.jsonl").read_text().splitlines()
            events = [json.loads(line) for line in lines]
            return reached(events, target), result["metrics"]["test"]["accuracy"]
    raise FileNotFoundError(f"no result of {schedule}, seed {seed}, in {out}")


def main() -> int:
    """Make the runs and print a line for each schedule."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--target", type=float, default=94.0, help="accuracy, per cent")
    parser.add_argument("--schedules", default="cosine,adaptive")
    parser.add_argument("--out", type=Path, default=Path("time-to-94"), metavar="FOLDER")
    arguments = parser.parse_args()
    if is_missing():
        return 2
    print("| schedule | seconds of training, by seed | median | last test accuracy, by seed |")
    print("|---|---|---|---|")
    for schedule in arguments.schedules.split(","):
        runs = [
            made(schedule, seed, arguments.epochs, arguments.out, arguments.target)
            for seed in range(arguments.seeds)
        ]
        seconds, scores = zip(*runs, strict=True)
        told = ", ".join(f"{one:.1f}" for one in seconds)
        last = ", ".join(f"{one:.2f}" for one in scores)
        print(f"| {schedule} | {told} | {median(seconds):.1f} | {last} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
