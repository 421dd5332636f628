"""Slow, obvious restatements of the schedules. They import nothing from the toolkit.

Each returns the learning rate of every update of a run.
"""

import math
import warnings

import torch
from torch.optim import lr_scheduler


def _follow(make, base_lr: float, updates: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base_lr)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SequentialLR warns about itself
        scheduler = make(optimizer)
        rates = []
        for _ in range(updates):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
    return rates


def constant(base_lr: float, updates: int) -> list[float]:
    return _follow(lambda o: lr_scheduler.ConstantLR(o, factor=1.0), base_lr, updates)


def step(base_lr: float, updates: int) -> list[float]:
    milestones = [math.ceil(updates * 0.5), math.ceil(updates * 0.75)]
    return _follow(lambda o: lr_scheduler.MultiStepLR(o, milestones, 0.1), base_lr, updates)


def linear(base_lr: float, updates: int) -> list[float]:
    return _follow(lambda o: lr_scheduler.LinearLR(o, 1.0, 0.0, updates), base_lr, updates)


def cosine(base_lr: float, updates: int) -> list[float]:
    return _follow(lambda o: lr_scheduler.CosineAnnealingLR(o, updates), base_lr, updates)


def one_cycle(base_lr: float, updates: int) -> list[float]:
    """torch ends the cycle at its last step: here one after the last update, at 30 % before."""
    peak = (0.3 * updates + 1) / (updates + 1)
    return _follow(
        lambda o: lr_scheduler.OneCycleLR(
            o, base_lr, updates + 1, pct_start=peak, cycle_momentum=False
        ),
        base_lr,
        updates,
    )


def wsd(base_lr: float, updates: int) -> list[float]:
    """The formula of Hägele et al., section 3: 1 - sqrt over the last fifth."""
    begin = 0.8 * updates
    return [
        base_lr * (1 - math.sqrt((u - begin) / (updates - begin)) if u > begin else 1.0)
        for u in range(updates)
    ]


def warmup_wsd(base_lr: float, updates: int, warmup_updates: int) -> list[float]:
    from transformers import get_wsd_schedule

    return _follow(
        lambda o: get_wsd_schedule(
            o, warmup_updates, updates // 5, num_training_steps=updates, decay_type="1-sqrt"
        ),
        base_lr,
        updates,
    )


def warmup_linear(base_lr: float, updates: int, warmup_updates: int) -> list[float]:
    """transformers.get_linear_schedule_with_warmup, from its documentation."""
    rates = [base_lr * u / warmup_updates for u in range(warmup_updates)]
    rest = updates - warmup_updates
    return rates + [base_lr * (updates - u) / rest for u in range(warmup_updates, updates)]


def warmup_cosine(base_lr: float, updates: int, warmup_updates: int) -> list[float]:
    """transformers.get_cosine_schedule_with_warmup, from its documentation."""
    rates = [base_lr * u / warmup_updates for u in range(warmup_updates)]
    rest = updates - warmup_updates
    for u in range(rest):
        rates.append(base_lr * 0.5 * (1 + math.cos(math.pi * u / rest)))
    return rates


def plan(epoch_losses: list[float], base_lr: float = 1.0) -> tuple[list[float], list[str]]:
    """The plan's rule on epoch-mean losses: the LR after each epoch and what was seen."""
    rate, rates, seen = base_lr, [], []
    for epoch in range(1, len(epoch_losses) + 1):
        pattern = "none"
        if epoch >= 6:
            window = epoch_losses[epoch - 5 : epoch]
            before = epoch_losses[epoch - 6 : epoch - 1]
            m, m_before = math.fsum(window) / 5, math.fsum(before) / 5
            v = math.fsum((x - m) * (x - m) for x in window) / 5
            r = (m_before - m) / abs(m_before)
            d = [window[i + 1] - window[i] for i in range(4)]
            flips = [
                i for i in range(3) if (d[i] > 0 and d[i + 1] < 0) or (d[i] < 0 and d[i + 1] > 0)
            ]
            if r < -0.01:
                pattern, rate = "rising", rate * 0.8
            elif v > 0.001 and len(flips) >= 3:
                pattern, rate = "oscillation", rate * 0.8
            elif r > 0.01:
                pattern, rate = "sharp_drop", rate * 1.2
            elif v <= 0.001 and -0.01 <= r <= 0.01:
                pattern, rate = "plateau", rate * 0.8
        rates.append(rate)
        seen.append(pattern)
    return rates, seen
