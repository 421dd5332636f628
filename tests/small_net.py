"""A small real net trained in a bare loop on handwritten digits, with a fault injected if asked."""

from statistics import fmean, stdev
from typing import Any, NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.schedules.reading import Reading
from toolkit.training.lr import ScheduledLR

UPDATES, BATCH, TRAINED = 1000, 64, 1400


class Outcome(NamedTuple):
    """Losses by update, accuracy on the rest of the images, and the decisions."""

    losses: list[float]
    accuracy: float
    decisions: list[Any]
    rates: list[float]


def digits() -> tuple[Tensor, Tensor]:
    """All images as float32 in [0, 1], shape (1797, 64), and labels."""
    data = load_digits()
    return torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)


def train(
    schedule: Any,
    seed: int,
    lr: float = 0.003,
    updates: int = UPDATES,
    blow_up: range = range(0),
    optimizer: Any = torch.optim.AdamW,
    nan_at: int = 0,
) -> Outcome:
    """Train; in the updates of ``blow_up`` the LR is a hundred times what the schedule says."""
    torch.manual_seed(seed)
    images, labels = digits()
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    opt = optimizer(model.parameters(), lr=lr)
    scheduled = ScheduledLR(opt, schedule, updates, model)
    losses, decisions, rates = [], [], []
    for update in range(1, updates + 1):
        for group in opt.param_groups:
            group["lr"] *= 100 if update in blow_up else 1
        rates.append(scheduled.used[0])
        ids = torch.randint(TRAINED, (BATCH,))
        loss = F.cross_entropy(model(images[ids]), labels[ids])
        if update == nan_at:
            loss = loss * float("nan")
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses.append(loss.item())
        lost = not loss.isfinite()
        reading = Reading(update, update / 21, losses[-1], 0.0 if lost else BATCH, int(lost))
        decisions.append(scheduled.observe(reading))
        scheduled.step()
    with torch.no_grad():
        right = model(images[TRAINED:]).argmax(-1) == labels[TRAINED:]
    return Outcome(losses, 100 * right.float().mean().item(), decisions, rates)


def recovered_after(losses: list[float], at: int) -> int | None:
    """Updates from ``at`` until ten in a row average at most what they did before, plus 2 sd."""
    before = losses[at - 100 : at]
    limit = fmean(before) + 2 * stdev(before)
    worst = next((u for u in range(at, len(losses)) if losses[u] > limit), None)
    if worst is None:
        return 0
    for update in range(worst + 1, len(losses) - 10):
        if fmean(losses[update : update + 10]) <= limit:
            return update - at
    return None
