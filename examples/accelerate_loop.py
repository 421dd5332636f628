"""A loss-driven schedule with Accelerate: the loss is reduced over all ranks, so that all of them
see one number, take one decision and use one LR.

usage: accelerate launch [--config_file launch_configs/cpu2.yaml] examples/accelerate_loop.py
"""

import gc

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from toolkit import ScheduledLR, plateau
from toolkit.training.loss_meter import LossMeter

EPOCHS, BATCH, ACCUMULATE = 8, 16, 2


def main() -> None:
    """Train, and leave the group of ranks."""
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(), gradient_accumulation_steps=ACCUMULATE
    )
    train(accelerator)
    # The model first, then the process group that its gradients were reduced in: in the other
    # order a rank can hang.
    accelerator.free_memory()
    gc.collect()
    accelerator.wait_for_everyone()
    accelerator.end_training()


def train(accelerator: Accelerator) -> None:
    """Train a small network on handwritten digits."""
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
    loader = DataLoader(data, BATCH, shuffle=True, drop_last=True)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.03)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

    # After prepare, on what it returned. The schedule itself is not prepared.
    updates = EPOCHS * -(-len(loader) // ACCUMULATE)
    lr = ScheduledLR(optimizer, plateau(every=10, patience=2, cut=0.5), updates)
    meter = LossMeter(accelerator)
    for epoch in range(EPOCHS):
        for number, (inputs, targets) in enumerate(loader, 1):
            with accelerator.accumulate(model):
                loss = F.cross_entropy(model(inputs), targets, reduction="sum")
                accelerator.backward(loss / len(targets))
                optimizer.step()
                optimizer.zero_grad()
            meter.add(loss.detach(), len(targets))  # no sync, no communication
            if accelerator.sync_gradients:
                reading, _ = meter.read(lr.updates + 1, epoch + number / len(loader))
                decision = lr.observe(reading)
                lr.step()
                if decision.action != "hold":
                    accelerator.print(f"update {reading.update}: {decision.reason}")
    print(
        f"rank {accelerator.process_index} of {accelerator.num_processes}: {lr.updates} updates, "
        f"loss {reading.loss!r}, last LR {lr.used[0]!r}"
    )


if __name__ == "__main__":
    main()
