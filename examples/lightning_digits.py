"""The adaptive schedule in Lightning's Trainer; run again, it goes on from its last checkpoint.

usage: examples/lightning_digits.py OUT
"""

import sys
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from toolkit import adaptive
from toolkit.lightning import ScheduleCallback

EPOCHS, BATCH, TRAINED = 20, 64, 1500


class Digits(lightning.LightningModule):
    """A small network on handwritten digits; its base LR is far too high on purpose."""

    def __init__(self, lr: float = 30.0) -> None:
        super().__init__()
        self.lr = lr
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """The mean loss of a micro-batch."""
        images, labels = batch
        return F.cross_entropy(self.net(images), labels)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Log the share of images that are told right."""
        images, labels = batch
        right = self.net(images).argmax(-1) == labels
        self.log("accuracy", right.float().mean(), batch_size=len(labels))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer alone: the callback sets its LR."""
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


def loaders(batch: int = BATCH) -> tuple[DataLoader, DataLoader]:
    """Training and validation. The order of an epoch is that of its number, so runs resume."""
    images, labels = load_digits(return_X_y=True)
    inputs, targets = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    train = TensorDataset(inputs[:TRAINED], targets[:TRAINED])
    order = DistributedSampler(train, num_replicas=1, rank=0, seed=0)
    rest = TensorDataset(inputs[TRAINED:], targets[TRAINED:])
    return DataLoader(train, batch, sampler=order), DataLoader(rest, batch)


def trainer(out: str, **changes: Any) -> lightning.Trainer:
    """20 epochs, with a checkpoint after each, as last.ckpt."""
    settings = {
        "max_epochs": EPOCHS,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": out,
    }
    return lightning.Trainer(**{**settings, **changes})


def main(out: str) -> float:
    """Train to the end, or go on, and return the accuracy on images not seen."""
    lightning.seed_everything(0, verbose=False)
    last = Path(out, "last.ckpt")
    schedule = ScheduleCallback(adaptive())
    saved = ModelCheckpoint(out, save_last=True, save_top_k=0)
    fit = trainer(out, callbacks=[schedule, saved])
    model, (train, validation) = Digits(), loaders()
    fit.fit(model, train, validation, ckpt_path=last if last.exists() else None)
    fit.save_checkpoint(Path(out, "trained.ckpt"), weights_only=True)
    if schedule.lr is not None:  # None where the run had ended before
        print(f"last LR {schedule.lr.used[0]:g}, from {model.lr:g}")
    return float(fit.validate(model, validation, verbose=False)[0]["accuracy"])


if __name__ == "__main__":
    print(f"accuracy {100 * main(sys.argv[1]):.1f} %")
