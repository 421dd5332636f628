"""A user's own loop under ``adaptive``: ranks with losses of their own, two micro-batches an
update, a scheduler that went through ``prepare``, an update that is skipped, a NaN on the last
rank. Once with ``split_batches`` and once without. Every rank writes OUT/rankN.json.

usage: adaptive_ranks.py OUT
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.state import AcceleratorState

from toolkit.process import leave_process_group
from toolkit.schedules import Adaptive
from toolkit.training.loss_meter import LossMeter
from toolkit.training.lr import ScheduledLR

UPDATES, SKIPPED, LOST, BASE = 400, 100, 300, 2e-5


def train(split_batches):
    """LR and action at each update, and each rank's own and the common losses."""
    accelerator = Accelerator(
        cpu=True,
        gradient_accumulation_steps=2,
        dataloader_config=DataLoaderConfiguration(split_batches=split_batches),
    )
    rank, ranks = accelerator.process_index, accelerator.num_processes
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    model, optimizer = accelerator.prepare(net, torch.optim.Adam(net.parameters(), lr=BASE))
    lr = ScheduledLR(optimizer, Adaptive(), UPDATES, model)
    prepared = accelerator.prepare(lr)
    meter = LossMeter(accelerator, lr=lr)
    generator = torch.Generator().manual_seed(rank)
    seen: dict[str, Any] = {"rates": [], "actions": [], "local": [], "losses": []}
    update = 0
    while update < UPDATES:
        for _ in range(2):
            inputs = torch.randn(16, 8, generator=generator)
            targets = inputs.sum(1, keepdim=True).sin() + rank  # no two ranks agree
            with accelerator.accumulate(model):
                loss = torch.nn.functional.mse_loss(model(inputs), targets)
                if update == LOST and rank == ranks - 1 and not accelerator.sync_gradients:
                    loss = loss * float("nan")  # and so are the gradients, then, of every rank
                accelerator.backward(loss)
                meter.add(loss.detach() * len(inputs), len(inputs))
                if update != SKIPPED:
                    optimizer.step()
                seen["local"].append(repr(loss.item()))
                if accelerator.sync_gradients:
                    update += 1
                    reading, _ = meter.read(update, update / 10)
                    seen["losses"].append(reading.loss)
                    seen["actions"].append(lr.observe(reading).action)
                prepared.step()
                optimizer.zero_grad()
        seen["rates"].append(lr.used[0].hex())
    seen |= {"ranks": ranks, "updates": lr.updates}
    accelerator.free_memory()
    accelerator.wait_for_everyone()
    AcceleratorState._reset_state()
    return seen


out = Path(sys.argv[1])
result = {str(split): train(split) for split in (False, True)}
accelerator = Accelerator(cpu=True)
(out / f"rank{accelerator.process_index}.json").write_text(json.dumps(result))
accelerator.wait_for_everyone()
leave_process_group()
