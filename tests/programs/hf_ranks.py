"""The Trainer with FeedLoss on several ranks, with a loss that is lost on rank 1; then once
more from its first checkpoint, once under a schedule that tries LRs on the first batches, and once
with a loss by tokens. Every rank writes down what it saw.

usage: hf_ranks.py OUT
"""

import json
import os
import sys
import zlib
from pathlib import Path
from typing import Any

import torch

from tests import fed_trainer, tiny_lm
from toolkit.hf import ScheduledTrainer
from toolkit.process import leave_process_group
from toolkit.schedules import Adaptive, Constant
from toolkit.training.lr import ScheduledLR

Trainer: Any = fed_trainer.FedTrainer
out, rank = Path(sys.argv[1]), int(os.environ["RANK"])


class Watched(Trainer):
    loses = True

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen, self.local, self.batches = [], [], []

    def compute_loss(self, model, inputs, *args, **kwargs):
        self.batches.append(zlib.crc32(inputs["input_ids"].numpy().tobytes()))
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        if self.loses and rank == 1 and self.state.global_step == 6:
            loss = loss + float("nan")  # its gradient is finite
        return loss

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        self.local.append(loss.item())
        return loss

    def on_reading(self, reading, decision):
        self.seen.append([*reading[:2], repr(reading.loss), *reading[3:]])
        self.seen[-1] += [decision.action, self.lr_scheduler.used[0].hex()]


class Searching(Watched):
    loses = False

    def __init__(self, model, args, train_dataset, optimizers):
        lr = ScheduledLR(optimizers[0], Adaptive(search_share=0.5), args.max_steps, model)
        pair = (optimizers[0], lr)
        super().__init__(model, args, train_dataset=train_dataset, optimizers=pair)


class ByTokens(ScheduledTrainer):
    """A loss by tokens, of which one rank has more than the other."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen, self.judged = [], []

    def get_batch_samples(self, *args):
        batches, items = super().get_batch_samples(*args)
        sums = tiny_lm.loss_sums(self.model, batches)
        torch.distributed.all_reduce(sums)
        self.judged.append((sums[0] / sums[1]).item())
        return batches, items

    def on_reading(self, reading, decision):
        self.seen.append(reading.loss)


def by_tokens():
    short = {"max_steps": 8, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 2}
    args = fed_trainer.EXAMPLE["arguments"](str(out / "tokens"), save_strategy="no", **short)
    net, rows = tiny_lm.model(), tiny_lm.ragged(90)
    trainer = ByTokens(model=net, args=args, train_dataset=rows, schedule=Constant())
    trainer.train()
    return {"seen": trainer.seen, "judged": trainer.judged}


def train(resume_from):
    trainer = fed_trainer.build(str(out / "run"), Watched)
    trainer.train(resume_from_checkpoint=resume_from)
    weights = torch.cat([weight.detach().flatten() for weight in trainer.model.parameters()])
    return trainer, weights


def main():
    whole, weights = train(None)
    resumed, again = train(str(out / "run" / "checkpoint-20"))
    searching = fed_trainer.build(str(out / "searching"), Searching, save_strategy="no")
    searching.train()
    (out / f"rank{rank}.json").write_text(
        json.dumps(
            {
                "ranks": whole.accelerator.num_processes,
                "seen": whole.seen,
                "local": whole.local,
                "batches": whole.batches,
                "searching": {"seen": searching.seen, "batches": searching.batches},
                "tokens": by_tokens(),
                "resumed": resumed.seen,
                "same_weights": torch.equal(weights, again),
            }
        )
    )


main()
leave_process_group()
