"""The adaptive schedule in a bare PyTorch loop: the three lines that end in "# schedule".

The base LR is far too high on purpose: the schedule finds a better one.

usage: python examples/bare_loop.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from toolkit import Reading, ScheduledLR, adaptive

UPDATES, BATCH = 500, 64


def main() -> float:
    """Train a small network on handwritten digits and return its accuracy on 297 held-out ones."""
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    inputs, targets = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=30.0)
    lr = ScheduledLR(optimizer, adaptive(), UPDATES, model)  # schedule
    for update in range(1, UPDATES + 1):
        batch = torch.randint(1500, (BATCH,))
        loss = F.cross_entropy(model(inputs[batch]), targets[batch])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        epoch = update * BATCH / 1500
        decision = lr.observe(Reading.of(update, epoch, loss.item()))  # schedule
        lr.step()  # schedule
        if decision.action not in ("hold", "snapshot"):
            print(f"update {update}: {decision.reason}")
    with torch.no_grad():
        right = model(inputs[1500:]).argmax(-1) == targets[1500:]
    return right.float().mean().item()


if __name__ == "__main__":
    print(f"accuracy {100 * main():.1f} %")
