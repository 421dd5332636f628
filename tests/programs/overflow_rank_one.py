"""Train in fp16 on the CPU, with torch's scaler for CPUs; some gradients of rank 1 overflow.

usage: overflow_rank_one.py TARGET [flags]

The ranks must agree on what is skipped: each prints its scales after every update.
"""

import math
import os
import sys

import torch
from accelerate import Accelerator

from toolkit.config import parse
from toolkit.process import leave_process_group, set_threads
from toolkit.training import build as building
from toolkit.training import loop, ranks

OVERFLOW = (3, 4, 9)


class OnCpu(Accelerator):
    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.native_amp = True
        self.scaler = torch.amp.GradScaler("cpu")


def main():
    setattr(ranks, "Accelerator", OnCpu)  # noqa: B010
    setattr(building, "check_precision", lambda precision: None)  # noqa: B010
    set_threads()
    run = building.build(parse([*sys.argv[1:], "--precision", "fp16"]))
    made, scales = run.loss, []

    def loss(model, batch):
        total, count = made(model, batch)
        if run.update + 1 in OVERFLOW and os.environ["RANK"] == "1":
            total.register_hook(lambda gradient: gradient * math.inf)
        return total, count

    run.loss = loss
    run.after_update.append(lambda run: scales.append(run.accelerator.scaler.get_scale()))
    loop.fit(run)
    sys.stdout.write(f"scales {scales} skipped {run.lr.skipped}\n")
    loop.release(run)


main()
leave_process_group()
