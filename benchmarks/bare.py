"""The loop that people write themselves: the yardstick of ``overhead.py``. 40 lines at most."""

from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader


def as_is(batch: Any) -> Any:
    """The batch as the split returns it."""
    return batch


def moved(batch: Any, device: str) -> Any:
    """The batch on a device; on the CPU it is there."""
    if device != "cpu":
        batch = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
    return batch


def train(task: Any, model: nn.Module, data: Any, recipe: Any, updates: int, device: str) -> None:
    """So many updates, without logging, evaluation or checkpoints."""
    weights, size, pinned = model.to(device).parameters(), recipe.global_batch, device == "cuda"
    optimizer = torch.optim.AdamW(weights, recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    options: Any = {"drop_last": True, "collate_fn": as_is, "pin_memory": pinned}
    loader = DataLoader(data, size, shuffle=True, **options)
    model.train()
    done = 0
    while done < updates:
        for batch in loader:
            total, count = task.loss(model, task.augment(moved(batch, device), 0, done))
            (total / count).backward()
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
            done += 1
            if done == updates:
                break
