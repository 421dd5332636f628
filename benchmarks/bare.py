"""The loop that people write themselves: the yardstick of ``overhead.py``. 40 lines at most."""

from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader


def as_is(batch: Any) -> Any:
    """The batch as the split returns it."""
    return batch


def train(task: Any, model: nn.Module, data: Any, recipe: Any, updates: int) -> None:
    """So many updates, without logging, evaluation or checkpoints."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    loader = DataLoader(data, recipe.global_batch, shuffle=True, drop_last=True, collate_fn=as_is)
    model.train()
    done = 0
    while done < updates:
        for batch in loader:
            total, count = task.loss(model, task.augment(batch, 0, done))
            (total / count).backward()
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
            done += 1
            if done == updates:
                break
