"""toolkit.train, in which each rank draws random numbers after each update and writes them down.

usage: draw.py FOLDER TARGET [flags]; with $STOP_AFTER rank 1 is asked to stop in that update. What
it draws first differs from process to process: only what a checkpoint holds makes it the same.
"""

import os
import random
import signal
import sys
from pathlib import Path

import numpy as np
import torch

from toolkit import train

FOLDER, RANK = Path(sys.argv[1]), os.environ.get("RANK", "0")


def draw(run):
    if run.update == 1:
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(int(RANK))
    drawn = (random.gauss(0, 1), np.random.randn(), torch.rand(1).item())
    with (FOLDER / f"rank-{RANK}.txt").open("a") as file:
        file.write(f"{run.update} {drawn}\n")
    if run.update == int(os.environ.get("STOP_AFTER", "0")) and RANK == "1":
        signal.raise_signal(signal.SIGTERM)


FOLDER.mkdir(exist_ok=True)
sys.exit(train.main(sys.argv[2:], after_update=[draw]))
