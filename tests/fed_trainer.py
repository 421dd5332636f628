"""The Trainer with the mixin FeedLoss, optimizer and schedule of one's own: what the tests drive.

A tiny BERT without dropout on the example's sentences, under ``plateau``.
"""

import runpy
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from toolkit import FeedLoss, ScheduledLR, plateau

EXAMPLE: dict[str, Any] = runpy.run_path(
    str(Path(__file__).parents[1] / "examples" / "hf_trainer.py"), run_name="example"
)
sentences, UPDATES = EXAMPLE["sentences"], 60


class FedTrainer(FeedLoss, Trainer):
    """The Trainer, whose schedule sees the training loss."""

    loss_is_scaled_for_ga = False  # BERT's is a mean over the micro-batch


def arguments(out: str, **changes: object) -> TrainingArguments:
    """The example's settings, with 60 updates and a checkpoint every 20."""
    short = {"max_steps": UPDATES, "save_steps": 20, "logging_steps": 20}
    ranks = {"average_tokens_across_devices": False}  # or the Trainer multiplies a mean by them
    return EXAMPLE["arguments"](out, **{**short, **ranks, **changes})


def build(out: str, kind: type[FedTrainer] = FedTrainer, **changes: object) -> FedTrainer:
    """Model, optimizer, schedule and the Trainer."""
    model = EXAMPLE["model"](hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    lr = ScheduledLR(optimizer, plateau(every=5, patience=0, cut=0.5), UPDATES)
    return kind(
        model, arguments(out, **changes), train_dataset=sentences(480), optimizers=(optimizer, lr)
    )
