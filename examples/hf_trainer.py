"""A loss-driven schedule in Hugging Face's Trainer; run again, it goes on from its checkpoint.

usage: [accelerate launch --config_file launch_configs/cpu2.yaml] examples/hf_trainer.py OUT
"""

import gc
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from toolkit import ScheduledTrainer, adaptive

UPDATES, WORDS, LENGTH = 300, 20, 8


def sentences(count: int) -> list[dict[str, torch.Tensor]]:
    """Random words; the label says, mostly, if the first is of the vocabulary's upper half."""
    draw = torch.Generator().manual_seed(1)
    words = torch.randint(WORDS, (count, LENGTH), generator=draw)
    wrong = torch.rand(count, generator=draw) < 0.2
    labels = ((words[:, 0] >= WORDS // 2) ^ wrong).long()
    return [{"input_ids": row, "labels": label} for row, label in zip(words, labels, strict=True)]


def arguments(out: str, **changes: object) -> TrainingArguments:
    """The Trainer's settings: 300 updates, a checkpoint every 100."""
    settings = {
        "output_dir": out,
        "max_steps": UPDATES,
        "per_device_train_batch_size": 16,
        "save_steps": 100,
        "logging_steps": 100,
        "learning_rate": 0.01,  # the base LR: where adaptive begins to search
        "use_cpu": not torch.cuda.is_available(),
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 0,
    }
    return TrainingArguments(**{**settings, **changes})


def model(**changes: object) -> BertForSequenceClassification:
    """A tiny BERT with random weights."""
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=WORDS, intermediate_size=32, **size, **changes)
    return BertForSequenceClassification(config)


def main(out: str) -> None:
    """Train to the end, or go on."""
    Path(out).mkdir(parents=True, exist_ok=True)
    trainer = ScheduledTrainer(
        model=model(), args=arguments(out), train_dataset=sentences(480), schedule=adaptive()
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(out))
    trainer.save_model()
    print(f"last LR {trainer.lr_scheduler.used[0]:g}, from 0.01")


if __name__ == "__main__":
    main(sys.argv[1])
    # The model first, then the process group that its gradients were reduced in: in the other
    # order a rank can hang.
    gc.collect()
    PartialState().destroy_process_group()
