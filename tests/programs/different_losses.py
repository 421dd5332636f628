"""Each rank feeds losses of its own; every rank writes down the learning rates it used.

usage: different_losses.py OUT UPDATES
"""

import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator

from toolkit.process import leave_process_group
from toolkit.schedules import Plan
from toolkit.training.loss_meter import LossMeter
from toolkit.training.lr import ScheduledLR


def main():
    out, updates = Path(sys.argv[1]), int(sys.argv[2])
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    rank, ranks = accelerator.process_index, accelerator.num_processes
    weight = torch.nn.Linear(1, 1)
    _, optimizer = accelerator.prepare(weight, torch.optim.SGD(weight.parameters(), lr=0.1))
    lr = ScheduledLR(optimizer, Plan(window=3), updates)
    meter = LossMeter(accelerator)
    generator = torch.Generator().manual_seed(rank)
    rates, losses, local = [], [], []
    for update in range(1, updates + 1):
        own = (2.0 + rank) / update + torch.rand((), generator=generator)
        if update == 5 and rank == 0:
            own = torch.tensor(float("nan"))
        local.append(own.item())
        meter.add(own * (rank + 1), rank + 1)
        optimizer.step()
        reading, _ = meter.read(update, float(update))
        losses.append(reading.loss)
        lr.observe(reading)
        lr.step()
        rates.append(lr.used[0].hex())
    (out / f"rank{rank}.json").write_text(
        json.dumps({"ranks": ranks, "rates": rates, "losses": losses, "local": local})
    )


main()
leave_process_group()
