"""20,000 updates on two processes: does memory grow, do open files stay, are the events complete?

``tiny_task.py/net`` under ``adaptive`` with a reading at every update, and an evaluation and a
checkpoint every 500. Memory and open files of both ranks are read from outside, once a second. The
slope is that of least squares over everything after a tenth of the run: libraries allocate what
they keep in the first evaluations and checkpoints.

usage: python benchmarks/soak.py [UPDATES] [--folder runs/soak]      about ten minutes
"""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.launches import Launch, made_on, prepare

EVERY, STUDY = 500, "soak"
SETTLED = 0.1
"""Share of the run that is left out of the slope."""
MOST_SLOPE = 0.5
"""MiB per 1,000 updates: the most that is allowed."""


class Sample(NamedTuple):
    """One look at one rank: memory in MiB."""

    rank: int
    update: int
    rss: float
    files: int


def watch(launch: Launch, folder: Path) -> list[Sample]:
    """Look at the ranks until the launch is over."""
    samples, counted, offset = [], 0, 0
    while not launch.over:
        time.sleep(1)
        file = next(folder.glob(f"runs/{STUDY}/*/events.jsonl"), None)
        if file is None:
            continue
        with file.open("rb") as opened:  # lines are as good as updates for a slope
            opened.seek(offset)
            counted += (new := opened.read()).count(b"\n")
            offset += len(new)
        for rank, process in enumerate(launch.processes()[1]):
            try:
                rss = process.memory_info().rss / 2**20
                samples.append(Sample(rank, counted, rss, process.num_fds()))
            except psutil.NoSuchProcess:
                continue
    return samples


def holes(folder: Path, updates: int) -> list[int]:
    """Updates without exactly one reading."""
    (file,) = folder.glob(f"runs/{STUDY}/*/events.jsonl")
    events = map(json.loads, file.read_text().splitlines())
    readings = [event["update"] for event in events if "kind" not in event]
    seen = np.bincount(readings, minlength=updates + 1)
    return [update for update in range(1, len(seen)) if seen[update] != 1]


def main() -> None:
    """Run the command line; exit code 1 if anything is not as promised."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("updates", type=int, nargs="?", default=20_000)
    parser.add_argument("--folder", type=Path, default=Path("runs/soak"))
    options = parser.parse_args()
    made_on()
    folder, updates = prepare(options.folder), options.updates
    shutil.rmtree(folder / "runs" / STUDY, ignore_errors=True)
    every = ("--save-every", str(EVERY), "--eval-every", str(EVERY))
    flags = ("--recipe.updates", str(updates), "--wandb", "off", "--progress", "False")
    target = ("-m", "toolkit.train", "tiny_task.py/net")
    command = [*target, *flags, *every, "--study", STUDY, "schedule:adaptive"]
    launch = Launch("cpu2", command, folder, timeout=3 * 3600)
    samples = watch(launch, folder)
    if (done := launch.wait()).returncode:
        raise SystemExit(done.stderr)
    kept = [one for one in samples if one.update > SETTLED * updates]
    good = True
    print(
        "| rank | looks | RSS, MiB: first, last | slope, MiB per 1,000 updates |"
        " open files: first tenth, last, most |"
    )
    print("|---|---|---|---|---|")
    for rank in range(2):
        own = [one for one in kept if one.rank == rank]
        slope = 1000 * np.polyfit([one.update for one in own], [one.rss for one in own], 1)[0]
        tenth = max(1, len(own) // 10)
        early, late = (median(one.files for one in part) for part in (own[:tenth], own[-tenth:]))
        good &= slope <= MOST_SLOPE and late <= early
        print(
            f"| {rank} | {len(own)} | {own[0].rss:.1f}, {own[-1].rss:.1f} | {slope:+.3f} | "
            f"{early:g}, {late:g}, {max(one.files for one in own)} |"
        )
    missing = holes(folder, updates)
    print(f"\n{updates:,} updates, {len(missing)} without exactly one reading. {made_on()}")
    raise SystemExit(0 if good and not missing else 1)


if __name__ == "__main__":
    main()
