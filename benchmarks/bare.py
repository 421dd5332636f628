"""The loop that people write themselves: the yardstick of ``throughput.py``. 40 lines at most."""

import time
from contextlib import nullcontext
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader


def train(task: Any, name: str, recipe: Any, updates: int, device: str) -> float:
    """Seconds for so many updates, without logging, evaluation or checkpoints."""
    torch.manual_seed(0)
    model = task.model(name, recipe).to(device).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    bf16 = recipe.precision == "bf16"
    autocast = torch.autocast(device, dtype=torch.bfloat16) if bf16 else nullcontext()
    data = task.splits(name, recipe).train
    loader = DataLoader(
        data, recipe.global_batch, shuffle=True, drop_last=True, collate_fn=lambda batch: batch
    )
    done, begin = 0, time.perf_counter()
    while done < updates:
        for batch in loader:
            batch = task.augment({k: v.to(device) for k, v in batch.items()}, 0, done)
            with autocast:
                loss = F.cross_entropy(model(task.normalise(batch["image"], model)), batch["label"])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
            done += 1
            if done == updates:
                break
    return time.perf_counter() - begin + 0 * float(loss.detach())  # waits for the device
