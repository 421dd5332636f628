"""A loss-driven schedule in Hugging Face's Trainer; run again, it goes on from its checkpoint.

usage: [accelerate launch --config_file launch_configs/cpu2.yaml] examples/hf_trainer.py OUT
"""

import gc
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from toolkit import FeedLoss, ScheduledLR, plateau

UPDATES, WORDS, LENGTH = 60, 20, 8


class ScheduledTrainer(FeedLoss, Trainer):
    """The Trainer, whose schedule sees the training loss."""

    loss_is_scaled_for_ga = False  # BERT's is a mean over the micro-batch


def sentences(count: int) -> list[dict[str, torch.Tensor]]:
    """Random words; the label says, mostly, if the first is of the vocabulary's upper half."""
    draw = torch.Generator().manual_seed(1)
    words = torch.randint(WORDS, (count, LENGTH), generator=draw)
    wrong = torch.rand(count, generator=draw) < 0.2
    labels = ((words[:, 0] >= WORDS // 2) ^ wrong).long()
    return [{"input_ids": row, "labels": label} for row, label in zip(words, labels, strict=True)]


def arguments(out: str, **changes: object) -> TrainingArguments:
    """The Trainer's settings: 60 updates, a checkpoint every 20."""
    settings = {
        "output_dir": out,
        "max_steps": UPDATES,
        "per_device_train_batch_size": 16,
        "save_steps": 20,
        "logging_steps": 20,
        "average_tokens_across_devices": False,  # or the Trainer multiplies a mean by the ranks
        "use_cpu": not torch.cuda.is_available(),
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 0,
    }
    return TrainingArguments(**{**settings, **changes})


def build(
    out: str, kind: type[ScheduledTrainer] = ScheduledTrainer, **changes: object
) -> ScheduledTrainer:
    """A tiny BERT with random weights, its optimizer, its schedule and the Trainer."""
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = BertConfig(vocab_size=WORDS, intermediate_size=32, **size, **dropout)
    model = BertForSequenceClassification(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    lr = ScheduledLR(optimizer, plateau(every=5, patience=0, cut=0.5), UPDATES)
    return kind(
        model,
        arguments(out, **changes),
        train_dataset=sentences(480),
        optimizers=(optimizer, lr),
    )


def main(out: str) -> None:
    """Train to the end, or go on."""
    Path(out).mkdir(parents=True, exist_ok=True)
    trainer = build(out)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(out))
    print(f"last LR {trainer.lr_scheduler.used[0]:g}, from 0.01")


if __name__ == "__main__":
    main(sys.argv[1])
    # The model first, then the process group that its gradients were reduced in: in the other
    # order a rank can hang.
    gc.collect()
    PartialState().destroy_process_group()
